//! What storing a matrix on ever coarser grids comes to: the choices that one byte budget spends itself on.

use super::encode::{EncodeError, check_area, check_weights, find};
use super::grid::check_finite;
use super::{Grid, GridRule, GroupFormat};
use crate::codec::{self, Packing};
use crate::{Code, Grouped};
use half::f16;

/// One way to store a matrix: a symmetric format with one distance of levels throughout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rung {
    /// The narrowest format that clips hardly any weight, in groups of whole rows.
    pub format: Grouped,
    /// Distance of levels, an f16 number above 0.
    pub step: f32,
    /// Bytes when rounded to nearest, everything counted.
    pub bytes: u64,
    /// Σᵢⱼ rowᵢ colⱼ (wᵢⱼ − qᵢⱼ)² of rounding to nearest.
    pub cost: f64,
}

/// Formats by width.
const WIDTHS: [Code; 5] = [Code::Ternary, Code::Int(2), Code::Int(3), Code::Int(4), Code::Int(8)];

/// What clipping may add to the cost, relative.
const CLIPPED: f64 = 0.01;

/// Rungs of a matrix `w`, `[rows, cols]`: steps at half powers of two, from `finest` to `coarsest` times the root
/// mean square of its weights. One grid for all matrices lets neighbours share a step. None for a matrix of zeros.
///
/// A coarser step costs fewer bytes only with an entropy code: `packing` says what codes are stored in.
///
/// # Errors
/// Wrong lengths, a bad weight of a row or column, or weights that are not finite.
pub fn ladder(
    rows: usize,
    cols: usize,
    w: &[f32],
    row_weight: &[f64],
    col_weight: &[f64],
    range: (f64, f64),
    packing: Packing,
) -> Result<Vec<Rung>, EncodeError> {
    check_area("w", rows, cols, w.len())?;
    check_weights("row weights", rows, row_weight)?;
    check_weights("column weights", cols, col_weight)?;
    if let Err(source) = check_finite(w) {
        let index = w.iter().position(|v| !v.is_finite()).unwrap_or(0);
        return Err(EncodeError::Grid { row: index / cols, col: index % cols, source });
    }
    let power = w.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    if power == 0.0 {
        return Ok(vec![]);
    }
    let rms = (power / w.len() as f64).sqrt();
    let exponent = |share: f64| 2.0 * (share * rms).log2();
    let exponents = exponent(range.0).ceil() as i32..=exponent(range.1).floor() as i32;
    let steps = exponents.map(half_power).filter(|step| step.is_finite() && *step > 0.0);
    let mut codes = vec![0; w.len()];
    let matrix = Matrix { rows, cols, w, row_weight, col_weight };
    steps.map(|step| matrix.rung(step, packing, &mut codes)).collect()
}

/// The f16 number nearest to √2 to that power.
pub fn half_power(exponent: i32) -> f32 {
    f16::from_f64(2f64.powf(f64::from(exponent) / 2.0)).to_f32()
}

fn usual(format: Grouped) -> Result<&'static dyn GroupFormat, EncodeError> {
    find(format, GridRule::usual(format))
}

struct Matrix<'a> {
    rows: usize,
    cols: usize,
    w: &'a [f32],
    row_weight: &'a [f64],
    col_weight: &'a [f64],
}

impl Matrix<'_> {
    fn rung(&self, step: f32, packing: Packing, codes: &mut [u8]) -> Result<Rung, EncodeError> {
        let of = |code| Grouped::new(code, Grouped::ROW, true);
        let grid = Grid { scale: step, offset: 0.0 };
        let [narrower @ .., widest] = WIDTHS.map(of);
        let unclipped = self.cost(usual(widest)?, grid);
        let mut chosen = (widest, unclipped);
        for format in narrower {
            let cost = self.cost(usual(format)?, grid);
            if cost <= unclipped * (1.0 + CLIPPED) {
                chosen = (format, cost);
                break;
            }
        }
        let (format, cost) = chosen;
        usual(format)?.round_group(self.w, grid, codes);
        let bytes = codec::stored_bytes(format, self.rows, self.cols, codes, packing);
        // One scale stands for those of all rows.
        let bytes = bytes - 2 * (self.rows as u64 - 1);
        Ok(Rung { format, step, bytes, cost })
    }

    fn cost(&self, format: &dyn GroupFormat, grid: Grid) -> f64 {
        let (mut codes, mut values) = (vec![0; self.cols], vec![0.0; self.cols]);
        let rows = self.w.chunks(self.cols.max(1)).zip(self.row_weight);
        rows.map(|(w, weight)| {
            format.round_group(w, grid, &mut codes);
            format.group_values(&codes, grid, &mut values);
            let errors = w.iter().zip(&values).map(|(&w, &value)| f64::from(w - value).powi(2));
            weight * errors.zip(self.col_weight).map(|(error, weight)| error * weight).sum::<f64>()
        })
        .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize) -> Vec<f32> {
        // Twelve uniform numbers make a nearly normal one.
        let mut state = 7u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24)
        };
        (0..n).map(|_| ((0..12).map(|_| uniform()).sum::<f64>() - 6.0) as f32 * 0.02).collect()
    }

    #[test]
    fn coarser_steps_take_fewer_bytes_and_cost_more() {
        let (rows, cols) = (64, 512);
        let w = noise(rows * cols);
        let ladder = ladder(rows, cols, &w, &[1.0; 64], &[1.0; 512], (0.1, 4.0), Packing::Best).unwrap();
        assert_eq!(ladder.len(), 10);
        for pair in ladder.windows(2) {
            assert!(pair[0].step < pair[1].step && pair[0].bytes > pair[1].bytes);
            assert!(pair[0].cost < pair[1].cost && pair[0].format.bits() >= pair[1].format.bits());
            // What a code of no more than the entropy of single weights would take, and a little.
            let mut counts = std::collections::BTreeMap::new();
            w.iter().for_each(|w| {
                *counts.entry((w / pair[0].step).round_ties_even() as i32).or_insert(0u32) += 1
            });
            let share = |count: &u32| f64::from(*count) / w.len() as f64;
            let entropy: f64 = counts.values().map(|count| -share(count) * share(count).log2()).sum();
            let bits = (pair[0].bytes * 8) as f64 / w.len() as f64;
            assert!(bits < entropy + 0.05, "{bits} {entropy}");
        }
        let coarsest = ladder[9];
        assert_eq!(coarsest.format.code, Code::Ternary);
    }

    #[test]
    fn weights_of_rows_and_columns_weigh_errors() {
        let w = [0.3, 0.7, -0.2, 0.9];
        let rungs = ladder(2, 2, &w, &[1.0, 10.0], &[3.0, 0.5], (0.5, 4.0), Packing::Fields).unwrap();
        for rung in rungs {
            let q = |w: f32| {
                let level = (w / rung.step).round_ties_even();
                let top = match rung.format.code {
                    Code::Ternary => 1.0,
                    Code::Int(bits) => f32::from((1u8 << (bits - 1)) - 1),
                    other => panic!("{other:?}"),
                };
                f64::from(w - rung.step * level.min(top))
            };
            let wanted =
                3.0 * q(0.3).powi(2) + 0.5 * q(0.7).powi(2) + 30.0 * q(-0.2).powi(2) + 5.0 * q(0.9).powi(2);
            assert!((rung.cost - wanted).abs() < 1e-9, "{rung:?} {wanted}");
            assert_eq!(rung.bytes, crate::Format::Grouped(rung.format).stored_bytes(2, 2) - 2);
        }
    }

    #[test]
    fn matrices_without_a_ladder() {
        let of = |w: &[f32], range| ladder(1, w.len(), w, &[1.0], &vec![1.0; w.len()], range, Packing::Best);
        assert_eq!(of(&[0.0; 5], (0.1, 4.0)), Ok(vec![]));
        assert_eq!(of(&[], (0.1, 4.0)), Ok(vec![]));
        assert_eq!(of(&[1e-30; 5], (0.1, 4.0)), Ok(vec![]));
        assert!(of(&[f32::NAN], (0.1, 4.0)).is_err());
        assert!(of(&[f32::MAX; 2], (0.1, 4.0)).unwrap().is_empty());
    }
}
