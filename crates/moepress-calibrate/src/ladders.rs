//! Ladders of the matrices and of the runs of atoms of a model.

use crate::CalibrateError;
use moepress_checkpoint::{CheckpointError, Progress, Share, Source};
use moepress_model::{LayerWeights, Part, Projection, Tensor};
use moepress_quant::codec::Packing;
use moepress_quant::formats::{Rung, ladder};
use moepress_stats::{LadderNeed, Ladders, Of, Quantity, RunLadder, Statistics, salient_runs};
use rayon::prelude::*;
use std::path::Path;

/// Steps from a sixteenth of the weights' root mean square, which eight bits just hold, to four times that, which
/// leaves few weights but zeros.
const STEPS: (f64, f64) = (0.06, 4.0);

/// What storing runs of atoms and other matrices on ever coarser grids is expected to come to: bytes, and nats per
/// token by the row and column weights of `stats` (budget.md 1). One expert is held at a time.
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
        for expert in 0..experts {
            let part = |projection| Part::Expert { expert, segment: 0, projection };
            if wanted(Tensor::Layer(layer, part(Projection::Gate))) {
                let weights = source.share(layer, &Share::Experts(vec![expert]))?;
                let runs = runs(layer, expert, &weights, stats, need.align, tokens)?;
                found.runs.insert((layer, expert), runs);
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

/// The runs of an expert; those that no token reached cost nothing.
fn runs(
    layer: usize,
    expert: usize,
    weights: &LayerWeights,
    stats: &Statistics,
    align: usize,
    tokens: f64,
) -> Result<Vec<RunLadder>, CalibrateError> {
    let coupled = stats.get(Of::Expert(layer, expert), Quantity::AtomCoupled);
    let (Ok(coupled), true) = (coupled, !weights.is_empty()) else { return Ok(vec![]) };
    let seen = stats.get(Of::Layer(layer), Quantity::Tokens)?[expert];
    let scale = if seen > 0.0 { 0.5 / seen / tokens } else { 0.0 };
    let matrices = Projection::ALL.map(|projection| {
        let part = Part::Expert { expert, segment: 0, projection };
        let (of, stored) = (Of::Tensor(Tensor::Layer(layer, part)), weights.get(&part));
        let weight = |quantity| stats.get(of, quantity);
        (
            part,
            stored.map(|stored| (stored.matrix_shape(), stored.to_f32())),
            weight(Quantity::RowWeight),
            weight(Quantity::ColumnWeight),
        )
    });
    let run = |atoms: Vec<usize>| {
        let dropped = atoms.iter().map(|&atom| 0.5 * coupled[atom] / tokens).sum();
        let rungs = |projection: Projection| -> Result<Vec<Rung>, CalibrateError> {
            let (part, stored, row, col) = &matrices[projection as usize];
            let Some(((rows, cols), values)) = stored else { return Ok(vec![]) };
            let ones = |n| vec![1.0; n];
            // Without a token there are no weights; every choice then costs nothing.
            let (row, col) = match (row, col) {
                (Ok(row), Ok(col)) => (row.to_vec(), col.to_vec()),
                _ if seen == 0.0 => (ones(*rows), ones(*cols)),
                (Err(missing), _) | (_, Err(missing)) => return Err(missing.clone().into()),
            };
            let pick = |values: &[f64]| atoms.iter().map(|&atom| values[atom]).collect::<Vec<f64>>();
            let (rows, cols, row, col, values): (_, _, _, _, Vec<f32>) = match projection {
                Projection::Gate | Projection::Up => {
                    let values = atoms.iter().flat_map(|&atom| &values[atom * cols..(atom + 1) * cols]);
                    (atoms.len(), *cols, pick(&row), col, values.copied().collect())
                }
                Projection::Down => {
                    let values = values.chunks(*cols).flat_map(|row| atoms.iter().map(|&atom| row[atom]));
                    (*rows, atoms.len(), row, pick(&col), values.collect())
                }
            };
            let found = ladder(rows, cols, &values, &row, &col, STEPS, Packing::Best);
            scaled(found.map_err(|e| bad(Tensor::Layer(layer, *part), &e))?, scale)
        };
        let [gate, up, down] = Projection::ALL.map(rungs);
        Ok(RunLadder { dropped, rungs: [gate?, up?, down?], atoms })
    };
    salient_runs(coupled, align).into_par_iter().map(run).collect()
}

fn scaled(rungs: Vec<Rung>, scale: f64) -> Result<Vec<Rung>, CalibrateError> {
    Ok(rungs.into_iter().map(|rung| Rung { cost: rung.cost * scale, ..rung }).collect())
}

fn bad(tensor: Tensor, error: &dyn std::fmt::Display) -> CheckpointError {
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
            let rungs = scaled(rungs, scale)?;
            all = Some(match all {
                None => rungs,
                // The narrowest format of one term may clip too much for the other.
                Some(all) => all.into_iter().zip(rungs).map(|(a, b)| wider(a, b)).collect(),
            });
        }
        Ok(all.unwrap_or_default())
    }
}

fn wider(a: Rung, b: Rung) -> Rung {
    let cost = a.cost + b.cost;
    match a.format.levels() >= b.format.levels() {
        true => Rung { cost, ..a },
        false => Rung { cost, ..b },
    }
}
