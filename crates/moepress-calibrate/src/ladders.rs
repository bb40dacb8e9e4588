//! Ladders of the matrices and of the runs of atoms of a model.

use crate::CalibrateError;
use crate::measured::Measured;
use crate::mergers::{candidates, merger};
use moepress_checkpoint::{CheckpointError, Progress, Share, Source};
use moepress_model::{Part, Projection, Tensor};
use moepress_quant::codec::Packing;
use moepress_quant::formats::{Rung, ladder};
use moepress_stats::{LadderNeed, Ladders, Of, Quantity, Statistics};
use std::path::Path;

/// Steps from a sixteenth of the weights' root mean square, which eight bits just hold, to four times that, which
/// leaves few weights but zeros.
pub(crate) const STEPS: (f64, f64) = (0.06, 4.0);

/// What storing runs of atoms and other matrices on ever coarser grids is expected to come to: bytes, and nats per
/// token by the row and column weights of `stats` (budget.md 1). One expert is held at a time, two of those that could be one.
///
/// # Errors
/// The weights cannot be read or are not finite, or a statistic is missing.
pub fn ladders(
    source: &dyn Source,
    stats: &Statistics,
    need: &LadderNeed,
    progress: &dyn Progress,
) -> Result<Ladders, CalibrateError> {
    let spec = source.spec();
    let tokens = stats.scalar(Of::Model, Quantity::Tokens)?;
    let mut found = Ladders::default();
    let wanted = |tensor: Tensor| tensor.is_measured() && need.classes.contains(&tensor.class());
    let layers = spec.layers.len();
    for layer in 0..layers {
        let core = spec.parts(layer).into_iter().filter(|part| part.expert().is_none());
        if core.map(|part| Tensor::Layer(layer, part)).any(wanted) {
            let weights = source.share(layer, &Share::Core)?;
            for (part, stored) in &weights {
                let tensor = Tensor::Layer(layer, *part);
                if wanted(tensor) {
                    let (rows, cols) = stored.matrix_shape();
                    let values = stored.to_f32();
                    let matrix = Matrix { tensor, rows, cols, values: &values };
                    found.matrices.insert(tensor, matrix.ladder(stats, &[tensor], 0.5 / tokens / tokens)?);
                }
            }
        }
        let experts = spec.moe(layer).map_or(0, |moe| moe.experts.len());
        // The prediction knows no biases.
        let mergers = need.mergers && spec.moe(layer).is_some_and(|moe| !moe.biases);
        let mut sketches = vec![];
        for expert in 0..experts {
            let part = |projection| Part::Expert { expert, segment: 0, projection };
            if wanted(Tensor::Layer(layer, part(Projection::Gate))) {
                let measured = Measured::read(source, stats, layer, expert)?;
                let runs = measured.as_ref().map_or(Ok(vec![]), |expert| expert.runs(need.align, tokens))?;
                found.runs.insert((layer, expert), runs);
                sketches.extend(measured.filter(|_| mergers).and_then(|expert| expert.sketch()));
            }
        }
        for [a, b] in candidates(&sketches) {
            let read = |expert| Measured::read(source, stats, layer, expert);
            if let (Some(first), Some(second)) = (read(a)?, read(b)?) {
                let merger = merger(&first, &second, need.align, tokens)?;
                found.mergers.extend(merger.map(|merger| ((layer, a, b), merger)));
            }
        }
        progress.step("ladders", layer as u64 + 1, layers as u64);
    }
    for tensor in [Tensor::Embedding, Tensor::Head] {
        if let (true, Some(&[rows, cols])) = (wanted(tensor), spec.shape(tensor).as_deref()) {
            let values = source.tensor(tensor)?.to_f32();
            let both = [Tensor::Embedding, Tensor::Head];
            let terms =
                if tensor == Tensor::Embedding && spec.tied_embeddings { &both[..] } else { &[tensor] };
            let matrix = Matrix { tensor, rows, cols, values: &values };
            found.matrices.insert(tensor, matrix.ladder(stats, terms, 0.5 / tokens / tokens)?);
        }
    }
    Ok(found)
}

pub(crate) fn scaled(rungs: Vec<Rung>, scale: f64) -> Vec<Rung> {
    rungs.into_iter().map(|rung| Rung { cost: rung.cost * scale, ..rung }).collect()
}

/// What rungs of one matrix cost by several sums of weights.
pub(crate) fn added(all: Option<Vec<Rung>>, rungs: Vec<Rung>) -> Vec<Rung> {
    // The narrowest format by one may clip too much for the other.
    let wider = |(a, b): (Rung, Rung)| {
        let cost = a.cost + b.cost;
        if a.format.levels() >= b.format.levels() { Rung { cost, ..a } } else { Rung { cost, ..b } }
    };
    match all {
        None => rungs,
        Some(all) => all.into_iter().zip(rungs).map(wider).collect(),
    }
}

pub(crate) fn bad(tensor: Tensor, error: &dyn std::fmt::Display) -> CheckpointError {
    CheckpointError::bad_input(Path::new("model"), &tensor.to_string(), error.to_string())
}

struct Matrix<'a> {
    tensor: Tensor,
    rows: usize,
    cols: usize,
    values: &'a [f32],
}

impl Matrix<'_> {
    /// Costs are summed over the `terms`, each a map that the matrix serves as.
    fn ladder(&self, stats: &Statistics, terms: &[Tensor], scale: f64) -> Result<Vec<Rung>, CalibrateError> {
        let mut all: Option<Vec<Rung>> = None;
        for &term in terms {
            let row = stats.get(Of::Tensor(term), Quantity::RowWeight)?;
            let col = stats.get(Of::Tensor(term), Quantity::ColumnWeight)?;
            let rungs = ladder(self.rows, self.cols, self.values, row, col, STEPS, Packing::Best)
                .map_err(|e| bad(self.tensor, &e))?;
            all = Some(added(all, scaled(rungs, scale)));
        }
        Ok(all.unwrap_or_default())
    }
}
