//! What rounding to a format would cost, without encoding.

use super::GridRule;
use super::encode::{EncodeError, check_area, check_weights, find};
use crate::Grouped;
use rayon::prelude::*;

/// Σᵢⱼ `row_weight[i]` · `col_weight[j]` · (wᵢⱼ − qᵢⱼ)², where q is what
/// [`encode_nearest`](super::encode_nearest) without column weights makes of `w`, `[rows, cols]`.
///
/// Summed in f64 along each row, then over the rows in order: the same for any number of threads.
///
/// # Errors
/// As [`encode_nearest`](super::encode_nearest).
pub fn rounding_cost(
    format: Grouped,
    rows: usize,
    cols: usize,
    w: &[f32],
    row_weight: &[f64],
    col_weight: &[f64],
) -> Result<f64, EncodeError> {
    let implementation = find(format, GridRule::usual(format))?;
    check_area("w", rows, cols, w.len())?;
    check_weights("row weights", rows, row_weight)?;
    check_weights("column weights", cols, col_weight)?;
    if w.is_empty() {
        return Ok(0.0);
    }
    let row_cost = |(row, w): (usize, &[f32])| {
        let longest = format.group.min(cols);
        let (mut codes, mut values) = (vec![0; longest], vec![0.0; longest]);
        let mut cost = 0.0;
        let groups = w.chunks(format.group).zip(col_weight.chunks(format.group));
        for (group, (w, h)) in groups.enumerate() {
            let grid = implementation.fit(w, None).map_err(|source| EncodeError::Grid {
                row,
                col: group * format.group,
                source,
            })?;
            implementation.round_group(w, grid, &mut codes[..w.len()]);
            implementation.group_values(&codes[..w.len()], grid, &mut values);
            cost +=
                w.iter().zip(&values).zip(h).map(|((&w, q), h)| h * f64::from(w - q).powi(2)).sum::<f64>();
        }
        Ok(cost * row_weight[row])
    };
    let costs: Vec<Result<f64, EncodeError>> = w.par_chunks_exact(cols).enumerate().map(row_cost).collect();
    costs.into_iter().sum()
}
