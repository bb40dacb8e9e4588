//! Integer codes on an even grid.

use super::grid::{check_finite, floor, nearest, step};
use super::refine::{descend, least, line};
use super::{Grid, GridError, GroupFormat};
use crate::Scale;

/// 2^bits levels from the smallest weight to the largest: offset + scale · code.
///
/// The product of an f16 scale and an 8-bit code is exact in f32, so the value is rounded once, with or
/// without fused multiply-add.
pub(super) struct Asymmetric {
    pub(super) bits: u32,
    /// Whether the levels may leave out the ends for a smaller error.
    pub(super) optimal: bool,
}

/// Levels centred on zero: scale · (code − 2^(bits−1)).
pub(super) struct Symmetric {
    pub(super) bits: u32,
    /// As of [`Asymmetric`].
    pub(super) optimal: bool,
}

/// Sixteenths of the range that an optimal grid may leave out to begin with.
const LEFT_OUT: std::ops::Range<u8> = 0..12;

impl Asymmetric {
    /// The grid from `min` to `max`.
    fn between(&self, min: f32, max: f32) -> Result<Grid, GridError> {
        let offset = floor(min)?;
        Ok(Grid { scale: step(max - offset, top(self.bits))?, offset })
    }
}

impl GroupFormat for Asymmetric {
    /// The offset is the f16 number at or just below the minimum; the scale reaches the maximum to within
    /// half a step. A group that is one f16 number is exact, with scale zero.
    #[inline(always)]
    fn fit(&self, w: &[f32], weights: Option<&[f64]>) -> Result<Grid, GridError> {
        let Some((min, max)) = extremes(w)? else { return Ok(Grid::default()) };
        let all = self.between(min, max)?;
        if !self.optimal {
            return Ok(all);
        }
        let part = |sixteenths: u8| {
            let end = (max - min) * (f32::from(sixteenths) / 32.0);
            self.between(min + end, max - end).ok()
        };
        let best = least(self, w, weights, LEFT_OUT.filter_map(part));
        Ok(best.map_or(all, |best| descend(self, Scale::F16, w, weights, best)))
    }

    #[inline(always)]
    fn round(&self, w: f32, grid: Grid) -> u8 {
        to_code((w - grid.offset) * grid.inverse_scale(), self.bits)
    }

    #[inline(always)]
    fn value(&self, code: u8, grid: Grid) -> f32 {
        grid.scale * f32::from(code) + grid.offset
    }

    fn least_squares(&self, scale: Scale, terms: &mut dyn Iterator<Item = (f64, u8, f64)>) -> Option<Grid> {
        line(scale, true, terms.map(|(target, code, h)| (target, f64::from(code), h)))
    }
}

impl GroupFormat for Symmetric {
    /// From 3 bits on, the scale takes the largest magnitude to level 2^(bits−1) − 1; the one level beyond,
    /// on the negative side, is left for what a solver adds.
    ///
    /// With 2 bits (−2, −1, 0, 1) that would leave ternary. There the scale is the best, by (weighted)
    /// squared error, of ±c/8 of the largest magnitude, c = 8 … 3; a negative scale mirrors the levels to
    /// (2, 1, 0, −1), and the first of equals wins.
    #[inline(always)]
    fn fit(&self, w: &[f32], weights: Option<&[f64]>) -> Result<Grid, GridError> {
        let Some((min, max)) = extremes(w)? else { return Ok(Grid::default()) };
        let reach = max.max(-min);
        let grid = |scale| Grid { scale, offset: 0.0 };
        let best = if self.bits == 2 {
            nearest(reach)?;
            let scales =
                (3..=8u8).rev().filter_map(|eighths| nearest(reach * (f32::from(eighths) / 8.0)).ok());
            least(self, w, weights, scales.flat_map(|scale| [grid(scale), grid(-scale)]))
        } else {
            let all = step(reach, top(self.bits - 1))?;
            if !self.optimal {
                return Ok(grid(all));
            }
            let part = |sixteenths: u8| {
                let reach = reach * (1.0 - f32::from(sixteenths) / 16.0);
                step(reach, top(self.bits - 1)).ok().map(grid)
            };
            least(self, w, weights, LEFT_OUT.filter_map(part))
        };
        Ok(match best {
            Some(best) if self.optimal => descend(self, Scale::F16, w, weights, best),
            best => best.map_or(Grid::default(), |(grid, _)| grid),
        })
    }

    #[inline(always)]
    fn round(&self, w: f32, grid: Grid) -> u8 {
        to_code(w * grid.inverse_scale() + middle(self.bits), self.bits)
    }

    #[inline(always)]
    fn value(&self, code: u8, grid: Grid) -> f32 {
        grid.scale * (f32::from(code) - middle(self.bits))
    }
}

/// The highest code.
fn top(bits: u32) -> f32 {
    ((1u32 << bits) - 1) as f32
}

/// The code of zero in symmetric formats.
fn middle(bits: u32) -> f32 {
    (1u32 << (bits - 1)) as f32
}

/// The nearest code, ties to even.
#[inline(always)]
fn to_code(level: f32, bits: u32) -> u8 {
    let level = level.max(0.0).min(top(bits));
    // From 2^23 on f32 numbers are the integers, so the addition rounds and the low bits are the code:
    // unlike a call to round, vectorised on every x86-64 and aarch64.
    (level + 8_388_608.0).to_bits() as u8
}

/// The smallest and the largest weight, of which all must be finite.
#[inline(always)]
fn extremes(w: &[f32]) -> Result<Option<(f32, f32)>, GridError> {
    /// Running extremes, instead of one chain of comparisons.
    const LANES: usize = 16;
    // As integers in the order of the numbers, with NaN and infinity at both ends.
    let key = |w: f32| w.to_bits() as i32 ^ ((w.to_bits() as i32 >> 31) & i32::MAX);
    let number = |key: i32| f32::from_bits((key ^ ((key >> 31) & i32::MAX)) as u32);
    let (chunks, rest) = w.as_chunks::<LANES>();
    let (mut min, mut max) = ([i32::MAX; LANES], [i32::MIN; LANES]);
    // One at a time, so that both become vectors.
    for chunk in chunks {
        min.iter_mut().zip(chunk).for_each(|(min, &w)| *min = key(w).min(*min));
    }
    for chunk in chunks {
        max.iter_mut().zip(chunk).for_each(|(max, &w)| *max = key(w).max(*max));
    }
    let rest = || rest.iter().map(|&w| key(w));
    let min = min.into_iter().chain(rest()).fold(i32::MAX, i32::min);
    let max = max.into_iter().chain(rest()).fold(i32::MIN, i32::max);
    let ends = (number(min), number(max));
    match ends.0.is_finite() & ends.1.is_finite() {
        true => Ok(Some(ends)),
        false => check_finite(w).map(|()| None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::refine::error;
    use super::*;
    use proptest::prelude::*;

    fn formats() -> Vec<(u32, bool, Box<dyn GroupFormat>)> {
        let mut all: Vec<(u32, bool, Box<dyn GroupFormat>)> = Vec::new();
        for bits in [2, 3, 4, 8] {
            all.push((bits, false, Box::new(Asymmetric { bits, optimal: false })));
            all.push((bits, true, Box::new(Symmetric { bits, optimal: false })));
        }
        all
    }

    #[test]
    fn constant_groups() {
        for (bits, symmetric, format) in formats() {
            for constant in [0.0f32, 0.5, -0.5, 0.3, -0.3] {
                let grid = format.fit(&[constant; 9], None).unwrap();
                let value = format.value(format.round(constant, grid), grid);
                assert!(
                    (value - constant).abs() <= constant.abs() * 1e-3,
                    "int{bits} {symmetric} {constant}"
                );
                if constant != 0.3 && constant != -0.3 && !symmetric {
                    assert_eq!((value, grid.scale), (constant, 0.0));
                }
            }
        }
    }

    #[test]
    fn impossible_groups() {
        for (bits, symmetric, format) in formats() {
            assert_eq!(format.fit(&[], None), Ok(Grid::default()));
            assert_eq!(format.fit(&[1.0, f32::NEG_INFINITY], None), Err(GridError::NotFinite { index: 1 }));
            let huge = format.fit(&[-1e8, 1e8], None);
            assert!(matches!(huge, Err(GridError::Overflow { .. })), "int{bits} {symmetric}");
        }
    }

    #[test]
    fn two_symmetric_bits_use_both_sides() {
        let format = Symmetric { bits: 2, optimal: false };
        // Levels (−2, −1, 0, 1) · 0.5 and their mirror image.
        for sign in [1.0f32, -1.0] {
            let w = [-1.0, -0.5, 0.0, 0.5].map(|w| w * sign);
            let grid = format.fit(&w, None).unwrap();
            assert_eq!(grid.scale, 0.5 * sign);
            assert_eq!(w.map(|w| format.value(format.round(w, grid), grid)), w);
        }
        let w = [1.0, 0.5, 0.5];
        let grid = format.fit(&w, Some(&[1.0, 0.0, 0.0])).unwrap();
        assert_eq!(format.value(format.round(1.0, grid), grid), 1.0, "only the first weight counts");
    }

    proptest! {
        #[test]
        fn optimal_grids_are_better_or_the_same(
            group in proptest::collection::vec((-1f32..1.0, 0.0..2.0), 1..=128), power in 1i32..6,
        ) {
            let (w, h): (Vec<f32>, Vec<f64>) = group.into_iter().map(|(w, h)| (w.powi(power), h)).unzip();
            for (bits, h) in [2, 3, 4, 8].into_iter().flat_map(|bits| [(bits, None), (bits, Some(&h[..]))]) {
                let asymmetric = [false, true].map(|optimal| Asymmetric { bits, optimal });
                let [usual, best] = asymmetric.map(|format| error(&format, &w, h, format.fit(&w, h).unwrap()));
                prop_assert!(best <= usual, "int{} {} {}", bits, best, usual);
                let symmetric = [false, true].map(|optimal| Symmetric { bits, optimal });
                let [usual, best] = symmetric.map(|format| error(&format, &w, h, format.fit(&w, h).unwrap()));
                prop_assert!(best <= usual, "int{}-sym {} {}", bits, best, usual);
            }
        }

        #[test]
        fn error_is_at_most_half_a_step(
            w in proptest::collection::vec(-1f32..1.0, 1..=128), shift in -2f32..2.0, shrink in 0i32..30,
        ) {
            let w: Vec<f32> = w.iter().map(|w| (w + shift) * 0.5f32.powi(shrink)).collect();
            for (bits, symmetric, format) in formats() {
                let grid = format.fit(&w, None).unwrap();
                for &w in &w {
                    let error = (w - format.value(format.round(w, grid), grid)).abs();
                    let covered = !(symmetric && bits == 2);
                    prop_assert!(!covered || error <= grid.scale * 0.5001 + 1e-6 * w.abs(), "int{} {} {}", bits, w, error);
                }
            }
        }

        #[test]
        fn every_code_is_its_own_nearest(scale in 0x0400u16..0x5000, offset in 0x0000u16..0x3c00, minus: bool) {
            for (bits, symmetric, format) in formats() {
                let offset = if symmetric { 0.0 } else { Scale::F16.value(offset) };
                let mut grid = Grid { scale: Scale::F16.value(scale), offset };
                grid.offset = if minus { -grid.offset } else { grid.offset };
                // Levels closer than the f32 numbers around the offset are not distinct.
                prop_assume!(grid.scale > 1e-3 * grid.offset.abs());
                for code in 0..=top(bits) as u8 {
                    prop_assert_eq!(format.round(format.value(code, grid), grid), code);
                }
            }
        }
    }
}
