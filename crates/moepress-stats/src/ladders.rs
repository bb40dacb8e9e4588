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

/// Ladders of matrices and of runs of atoms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ladders {
    /// By layer and expert, most salient run first.
    pub runs: BTreeMap<(usize, usize), Vec<RunLadder>>,
    /// Of all other matrices; costs in nats per token, finest first.
    pub matrices: BTreeMap<Tensor, Vec<Rung>>,
}

/// Atoms by falling saliency (ties: lower index first), in runs of `align`.
pub fn salient_runs(saliency: &[f64], align: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..saliency.len()).collect();
    order.sort_by(|&a, &b| saliency[b].total_cmp(&saliency[a]).then(a.cmp(&b)));
    order.chunks(align.max(1)).map(<[usize]>::to_vec).collect()
}
