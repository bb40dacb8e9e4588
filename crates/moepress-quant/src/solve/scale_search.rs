//! Grids of small ℓₚ error, p < 1, without any inputs.
//!
//! HQQ (Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023) minimises
//! ‖W − Q(W)‖ₚᵖ, which lets a few outliers have large errors so that the many have small ones. Half-quadratic
//! splitting alternates between the part E of the error that is left to outliers, a shrinkage, and the grid
//! of least squares for W − E. The paper moves the zero point only; here the scale moves as well.

use crate::formats::{EncodeError, Grid, GridRule, GroupFormat, check_area, find, pack_codes};
use crate::{Grouped, Packed, Scale};
use rayon::prelude::*;

/// p of the norm, the paper's.
const NORM: f64 = 0.7;
/// Weight of the quadratic term at the start, for errors in steps of the first grid: the paper's.
const STIFFNESS: f64 = 10.0;
/// Its growth from one alternation to the next.
const GROWTH: f64 = 1.01;
/// Alternations at most; a group stops when its codes and grid stay as they are.
const ALTERNATIONS: usize = 20;

/// What [`search_scales`] gained.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SearchReport {
    /// Σ |w − q|^0.7 of the result.
    pub error: f64,
    /// The same of rounding to nearest.
    pub error_nearest: f64,
}

/// Rounds `w`, `[rows, cols]`, to nearest on grids of small Σ |w − q|^0.7; no group is worse by that measure
/// than with [`encode_nearest`](crate::formats::encode_nearest).
///
/// The result is the same for any number of threads.
///
/// # Errors
/// An unknown format, a wrong length, or the first group (by row, then column) that holds NaN or infinity or
/// needs a scale beyond f16.
pub fn search_scales(
    format: Grouped,
    rows: usize,
    cols: usize,
    w: &[f32],
) -> Result<(Packed, SearchReport), EncodeError> {
    let implementation = find(format, GridRule::usual(format))?;
    check_area("w", rows, cols, w.len())?;
    let (mut codes, mut grids) = (vec![0; w.len()], vec![Grid::default(); rows * format.row_groups(cols)]);
    let mut total = SearchReport::default();
    if !w.is_empty() {
        let reports: Vec<Result<SearchReport, EncodeError>> = w
            .par_chunks_exact(cols)
            .zip(codes.par_chunks_exact_mut(cols))
            .zip(grids.par_chunks_exact_mut(format.row_groups(cols)))
            .enumerate()
            .map(|(row, ((w, codes), grids))| search_row(implementation, format, row, w, codes, grids))
            .collect();
        for report in reports {
            let report = report?;
            total.error += report.error;
            total.error_nearest += report.error_nearest;
        }
    }
    Ok((pack_codes(format, rows, cols, &codes, &grids)?, total))
}

fn search_row(
    implementation: &dyn GroupFormat,
    format: Grouped,
    row: usize,
    w: &[f32],
    codes: &mut [u8],
    grids: &mut [Grid],
) -> Result<SearchReport, EncodeError> {
    let mut sum = SearchReport::default();
    let groups = w.chunks(format.group).zip(codes.chunks_mut(format.group)).zip(grids);
    for (at, ((w, codes), grid)) in groups.enumerate() {
        let col = at * format.group;
        let first = implementation.fit(w, None);
        let first = first.map_err(|source| EncodeError::Grid { row, col, source })?;
        let (best, error, error_nearest) = search(implementation, format.scale, w, first);
        *grid = best;
        implementation.round_group(w, best, codes);
        sum.error += error;
        sum.error_nearest += error_nearest;
    }
    Ok(sum)
}

/// The best grid met, its error, and that of `first`.
fn search(format: &dyn GroupFormat, scale: Scale, w: &[f32], first: Grid) -> (Grid, f64, f64) {
    let (mut codes, mut values) = (vec![0; w.len()], vec![0.0; w.len()]);
    let step = f64::from(first.scale.abs());
    let (mut grid, mut best, mut least, mut error_nearest) = (first, first, f64::INFINITY, 0.0);
    let mut stiffness = STIFFNESS;
    for alternation in 0..=ALTERNATIONS {
        format.round_group(w, grid, &mut codes);
        format.group_values(&codes, grid, &mut values);
        let error = w.iter().zip(&values).map(|(w, v)| f64::from(w - v).abs().powf(NORM)).sum();
        if alternation == 0 {
            error_nearest = error;
        }
        if error < least {
            (best, least) = (grid, error);
        }
        if step == 0.0 || alternation == ALTERNATIONS {
            break;
        }
        let mut targets = w.iter().zip(&values).zip(&codes).map(|((&w, &v), &code)| {
            let error = f64::from(w - v);
            (f64::from(w) - step * shrink(error / step, stiffness), code, 1.0)
        });
        // Beyond what can be stored, or with all weights on one level, there is nowhere to go.
        let next = format.least_squares(scale, &mut targets);
        let Some(next) = next.filter(|next| *next != grid) else { break };
        grid = next;
        stiffness *= GROWTH;
    }
    (best, least, error_nearest)
}

/// The x of least |x|ᵖ + β/2·(x − error)², nearly: generalised soft thresholding as in the paper.
fn shrink(error: f64, stiffness: f64) -> f64 {
    let size = error.abs();
    if size == 0.0 { 0.0 } else { error.signum() * (size - size.powf(NORM - 1.0) / stiffness).max(0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinking_keeps_outliers_only() {
        assert_eq!(shrink(0.0, 10.0), 0.0);
        assert_eq!(shrink(0.1, 10.0), 0.0);
        assert!((shrink(-2.0, 10.0) + 2.0 - 2f64.powf(-0.3) / 10.0).abs() < 1e-12);
    }
}
