//! Integer codes on an even grid.

use super::grid::{check_finite, floor, nearest, step};
use super::{Grid, GridError, GroupFormat};

/// 2^bits levels from the smallest weight to the largest: offset + scale · code.
///
/// The product of an f16 scale and an 8-bit code is exact in f32, so the value is rounded once, with or
/// without fused multiply-add.
pub(super) struct Asymmetric {
    pub(super) bits: u32,
}

/// Levels centred on zero: scale · (code − 2^(bits−1)).
pub(super) struct Symmetric {
    pub(super) bits: u32,
}

impl GroupFormat for Asymmetric {
    /// The offset is the f16 number at or just below the minimum; the scale reaches the maximum to within
    /// half a step. A group that is one f16 number is exact, with scale zero.
    fn fit(&self, w: &[f32], _weights: Option<&[f64]>) -> Result<Grid, GridError> {
        check_finite(w)?;
        let Some((min, max)) = extremes(w) else { return Ok(Grid::default()) };
        let offset = floor(min)?;
        Ok(Grid { scale: step(max - offset, top(self.bits))?, offset })
    }

    #[inline]
    fn round(&self, w: f32, grid: Grid) -> u8 {
        to_code((w - grid.offset) * grid.inverse_scale(), self.bits)
    }

    #[inline]
    fn value(&self, code: u8, grid: Grid) -> f32 {
        grid.scale * f32::from(code) + grid.offset
    }
}

impl GroupFormat for Symmetric {
    /// From 3 bits on, the scale takes the largest magnitude to level 2^(bits−1) − 1; the one level beyond,
    /// on the negative side, is left for what a solver adds.
    ///
    /// With 2 bits (−2, −1, 0, 1) that would leave ternary. There the scale is the best, by (weighted)
    /// squared error, of ±c/8 of the largest magnitude, c = 8 … 3; a negative scale mirrors the levels to
    /// (2, 1, 0, −1), and the first of equals wins.
    fn fit(&self, w: &[f32], weights: Option<&[f64]>) -> Result<Grid, GridError> {
        check_finite(w)?;
        let Some((min, max)) = extremes(w) else { return Ok(Grid::default()) };
        let reach = max.max(-min);
        if self.bits > 2 {
            return Ok(Grid { scale: step(reach, top(self.bits - 1))?, offset: 0.0 });
        }
        let weights = weights.filter(|h| h.iter().any(|&h| h > 0.0));
        let error = |grid: Grid| -> f64 {
            let square = |w: f32| f64::from(w - self.value(self.round(w, grid), grid)).powi(2);
            match weights {
                Some(h) => w.iter().zip(h).map(|(&w, h)| h * square(w)).sum(),
                None => w.iter().map(|&w| square(w)).sum(),
            }
        };
        let (mut best, mut least) = (Grid::default(), f64::INFINITY);
        for eighths in (3..=8).rev() {
            let scale = nearest(reach * (eighths as f32 / 8.0))?;
            for scale in [scale, -scale] {
                let grid = Grid { scale, offset: 0.0 };
                let error = error(grid);
                if error < least {
                    (best, least) = (grid, error);
                }
            }
        }
        Ok(best)
    }

    #[inline]
    fn round(&self, w: f32, grid: Grid) -> u8 {
        to_code(w * grid.inverse_scale() + middle(self.bits), self.bits)
    }

    #[inline]
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
#[inline]
fn to_code(level: f32, bits: u32) -> u8 {
    let level = level.max(0.0).min(top(bits));
    // From 2^23 on f32 numbers are the integers, so the addition rounds and the low bits are the code:
    // unlike a call to round, vectorised on every x86-64 and aarch64.
    (level + 8_388_608.0).to_bits() as u8
}

/// The smallest and the largest of finite weights.
fn extremes(w: &[f32]) -> Option<(f32, f32)> {
    let first = *w.first()?;
    // Eight running extremes instead of one chain of comparisons.
    let (octets, rest) = w.as_chunks::<8>();
    let (mut min, mut max) = ([first; 8], [first; 8]);
    for octet in octets {
        for lane in 0..8 {
            min[lane] = if octet[lane] < min[lane] { octet[lane] } else { min[lane] };
            max[lane] = if octet[lane] > max[lane] { octet[lane] } else { max[lane] };
        }
    }
    Some((
        min.iter().chain(rest).fold(first, |a, &b| a.min(b)),
        max.iter().chain(rest).fold(first, |a, &b| a.max(b)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn formats() -> Vec<(u32, bool, Box<dyn GroupFormat>)> {
        let mut all: Vec<(u32, bool, Box<dyn GroupFormat>)> = Vec::new();
        for bits in [2, 3, 4, 8] {
            all.push((bits, false, Box::new(Asymmetric { bits })));
            all.push((bits, true, Box::new(Symmetric { bits })));
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
        let format = Symmetric { bits: 2 };
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
                let mut grid = Grid::from_bits(scale, if symmetric { 0 } else { offset });
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
