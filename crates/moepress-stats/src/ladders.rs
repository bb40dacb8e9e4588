//! What storing parts of a model on ever coarser grids is expected to come to.

use moepress_model::{Class, Tensor};
use moepress_quant::formats::Rung;
use std::collections::{BTreeMap, BTreeSet};

/// Which parts, and how experts are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LadderNeed {
    /// Classes of matrices.
    pub classes: BTreeSet<Class>,
    /// Atoms of a run.
    pub align: usize,
    /// Whether experts are looked for that could be one.
    pub mergers: bool,
}

/// Neighbouring atoms of an expert in the order of their saliency.
#[derive(Clone, Debug, PartialEq)]
pub struct RunLadder {
    /// Their indices.
    pub atoms: Vec<usize>,
    /// Predicted increase of the mean negative log-likelihood without them, in nats per token.
    pub dropped: f64,
    /// Choices for gate, up and down, the cost in the same unit, finest first.
    pub rungs: [Vec<Rung>; 3],
}

/// Two experts of a layer as one: their weighted mean, atoms matched.
#[derive(Clone, Debug, PartialEq)]
pub struct Merger {
    /// Weights of the first and the second in the mean.
    pub weights: [f64; 2],
    /// Predicted increase by each run being a mean while it stays, in nats per token.
    pub mean: Vec<f64>,
    /// Runs of the mean, by the atoms of the first expert and the sums of both.
    pub runs: Vec<RunLadder>,
}

/// Ladders of matrices and of runs of atoms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ladders {
    /// By layer and expert, most salient run first.
    pub runs: BTreeMap<(usize, usize), Vec<RunLadder>>,
    /// Candidates for merging, by layer, first and second expert.
    pub mergers: BTreeMap<(usize, usize, usize), Merger>,
    /// Of all other matrices; costs in nats per token, finest first.
    pub matrices: BTreeMap<Tensor, Vec<Rung>>,
}

/// Atoms by falling saliency (ties: lower index first), in runs of `align`.
pub fn salient_runs(saliency: &[f64], align: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..saliency.len()).collect();
    order.sort_by(|&a, &b| saliency[b].total_cmp(&saliency[a]).then(a.cmp(&b)));
    order.chunks(align.max(1)).map(<[usize]>::to_vec).collect()
}
