//! Least squares on the atoms that are left, which none of the pruning papers does after atoms are removed.
//!
//! With h what the kept atoms come to and y what the expert returned before, both times the gate, `down_proj` becomes
//! the W that minimises Σ ‖y − W h‖² + λ ‖W − W₀‖², λ judged on held-out windows (budget.md 4). Every output row has
//! the same system, so one Cholesky factor serves the expert.

use super::ApplyError;
use super::round::plain_like;
use moepress_model::{Part, Tensor};
use moepress_numerics::ridge::{Sums, fit, squared_error};
use moepress_quant::Stored;

/// What a fit came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refitted {
    /// Strength of the regularisation, relative; none where no fit did better than the weights as they were.
    pub ridge: Option<f64>,
    /// Squared error on held-out tokens before.
    pub before: f64,
    /// The same after, of a fit that did not see them.
    pub after: f64,
}

/// Fits the segments of the `down_proj` of an expert anew, where that does better on tokens held out.
pub(super) fn refit(
    layer: usize,
    expert: usize,
    all: Sums<'_>,
    held_out: Sums<'_>,
    matrices: &mut [(Part, Stored)],
) -> Result<Refitted, ApplyError> {
    let Some((part, first)) = matrices.first() else {
        return Ok(Refitted { ridge: None, before: 0.0, after: 0.0 });
    };
    let name = Tensor::Layer(layer, *part).to_string();
    let failed = |source| ApplyError::Refit { tensor: name.clone(), expert, source };
    let rows = first.matrix_shape().0;
    let values: Vec<(usize, Vec<f32>)> =
        matrices.iter().map(|(_, stored)| (stored.matrix_shape().1, stored.to_f32())).collect();
    let cols = values.iter().map(|(width, _)| width).sum();
    let prior: Vec<f64> = (0..rows)
        .flat_map(|row| {
            values.iter().flat_map(move |(width, values)| {
                values[row * width..(row + 1) * width].iter().map(|&value| f64::from(value))
            })
        })
        .collect();
    let before = squared_error(held_out, &prior, rows, cols).map_err(failed)?;
    let Some(fitted) = fit(all, held_out, &prior, rows, cols).map_err(failed)? else {
        return Ok(Refitted { ridge: None, before, after: before });
    };
    let mut first = 0;
    for ((_, stored), (width, _)) in matrices.iter_mut().zip(&values) {
        let columns = first..first + width;
        first += width;
        let rows = fitted.map.chunks(cols.max(1)).flat_map(|row| &row[columns.clone()]);
        let values: Vec<f32> = rows.map(|&value| value as f32).collect();
        *stored = plain_like(stored, &values);
    }
    Ok(Refitted { ridge: Some(fitted.ridge), before, after: fitted.error })
}
