//! Floating-point codes of four and eight bits.

use super::grid::{check_finite, nearest};
use super::refine::least;
use super::{Grid, GridError, GroupFormat};
use crate::Scale;

/// e2m1 with scales that are powers of two.
pub(super) struct Fp4;

/// e4m3: scale · code.
pub(super) struct Fp8;

/// What the codes of [`Fp4`] stand for.
pub(super) const FP4: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// What the codes of [`Fp8`] stand for.
pub(super) static FP8: [f32; 256] = fp8();

/// The largest number of [`Fp8`].
const MOST: f32 = 448.0;
/// Its smallest number that is normal.
const NORMAL: f32 = 1.0 / 64.0;

impl GroupFormat for Fp4 {
    /// The power of two that brings the largest magnitude to 4 … 8 (OCP Microscaling Formats 1.0, 6.3), where 6 is the
    /// largest code, or twice that, whichever leaves the smaller (weighted) squared error.
    #[inline(always)]
    fn fit(&self, w: &[f32], weights: Option<&[f64]>) -> Result<Grid, GridError> {
        check_finite(w)?;
        let reach = w.iter().fold(0f32, |max, w| max.max(w.abs()));
        // Zeros and subnormal numbers have no exponent; the smallest scale serves them.
        let exponent = (reach.to_bits() >> 23).saturating_sub(2) as u16;
        let grids = [exponent, exponent + 1].map(|bits| Grid { scale: Scale::E8m0.value(bits), offset: 0.0 });
        least(self, w, weights, grids).map(|(grid, _)| grid).ok_or(GridError::Overflow { value: reach })
    }

    #[inline(always)]
    fn round(&self, w: f32, grid: Grid) -> u8 {
        let x = w.abs() * grid.inverse_scale();
        // Halfway, the code that is even.
        let above = [x > 0.25, x >= 0.75, x > 1.25, x >= 1.75, x > 2.5, x >= 3.5, x > 5.0];
        signed(above.into_iter().map(u8::from).sum(), w, 8)
    }

    #[inline(always)]
    fn value(&self, code: u8, grid: Grid) -> f32 {
        grid.scale * FP4[usize::from(code & 15)]
    }
}

impl GroupFormat for Fp8 {
    /// The largest magnitude becomes the largest code.
    #[inline(always)]
    fn fit(&self, w: &[f32], _weights: Option<&[f64]>) -> Result<Grid, GridError> {
        check_finite(w)?;
        let reach = w.iter().fold(0f32, |max, w| max.max(w.abs()));
        Ok(Grid { scale: nearest(reach / MOST)?, offset: 0.0 })
    }

    #[inline(always)]
    fn round(&self, w: f32, grid: Grid) -> u8 {
        let x = (w.abs() * grid.inverse_scale()).min(MOST);
        // Below the normal numbers codes are whole multiples of 2⁻⁹: see `to_code` of the integers.
        let subnormal = (x * 512.0 + 8_388_608.0).to_bits() as u8;
        // Else the bits of f32 are those of the code, once rounded to three bits of mantissa and with another bias.
        let bits = x.to_bits();
        let normal = ((bits + 0x7_ffff + (bits >> 20 & 1)) >> 20).wrapping_sub((127 - 7) << 3) as u8;
        signed(if x < NORMAL { subnormal } else { normal }, w, 128)
    }

    #[inline(always)]
    fn value(&self, code: u8, grid: Grid) -> f32 {
        grid.scale * FP8[usize::from(code)]
    }
}

/// The code with the sign of `w`; zero has none.
#[inline]
fn signed(code: u8, w: f32, sign: u8) -> u8 {
    if (w < 0.0) & (code > 0) { code | sign } else { code }
}

const fn fp8() -> [f32; 256] {
    let mut out = [f32::NAN; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, mantissa) = ((code >> 3 & 15) as u32, (code & 7) as u32);
        // Of 8 · 2⁻⁹ = 2⁻⁶ on, the implicit bit, times 2^(exponent − 1).
        let magnitude = match exponent {
            0 => mantissa as f32 / 512.0,
            _ => (8 + mantissa) as f32 * (1u32 << (exponent - 1)) as f32 / 512.0,
        };
        if code & 0x7f != 0x7f {
            out[code] = if code < 128 { magnitude } else { -magnitude };
        }
        code += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: Grid = Grid { scale: 1.0, offset: 0.0 };

    /// The code of the format whose value is nearest, ties to the even one.
    fn nearest_code(format: &impl GroupFormat, codes: u8, w: f32) -> u8 {
        let distance = |code: u8| (w.abs() - format.value(code, UNIT)).abs();
        let best =
            (0..codes).min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))));
        best.unwrap()
    }

    #[test]
    fn values_by_hand() {
        assert_eq!(FP4[8..], [0, 1, 2, 3, 4, 5, 6, 7].map(|code| -FP4[code]));
        for (code, value) in [
            (0, 0.0),
            (1, 1.0 / 512.0),
            (8, 1.0 / 64.0),
            (0x38, 1.0),
            (0x39, 1.125),
            (0xc0, -2.0),
            (0x7e, 448.0),
        ] {
            assert_eq!(Fp8.value(code, UNIT), value, "{code}");
        }
        assert!(FP8[0x7f].is_nan() && FP8[0xff].is_nan());
        let positive = &FP8[..0x7f];
        assert!(positive.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn grids_by_hand() {
        // 6 · 2⁻⁴ = 0.375: with 0.4 the scale 2⁻⁴ cuts the largest a little, 2⁻³ is coarse.
        assert_eq!(Fp4.fit(&[0.4, 0.1, -0.03], None).unwrap().scale, 1.0 / 16.0);
        // Alone, 0.45 = 7.2 · 2⁻⁴ is nearer to 4 · 2⁻³.
        assert_eq!(Fp4.fit(&[0.45], None).unwrap().scale, 1.0 / 8.0);
        assert_eq!(Fp4.fit(&[0.0], None).unwrap().scale, 2f32.powi(-127));
        assert_eq!(Fp4.fit(&[1e-45], None).unwrap().scale, 2f32.powi(-127));
        assert_eq!(Fp4.fit(&[f32::MAX], None).unwrap().scale, 2f32.powi(125));
        assert_eq!(Fp8.fit(&[-4.0 * MOST, 1.0], None), Ok(Grid { scale: 4.0, offset: 0.0 }));
        for error in [Fp4.fit(&[f32::NAN], None), Fp8.fit(&[f32::NAN], None)] {
            assert_eq!(error, Err(GridError::NotFinite { index: 0 }));
        }
        assert!(matches!(Fp8.fit(&[f32::MAX], None), Err(GridError::Overflow { .. })));
    }

    proptest! {
        #[test]
        fn rounding_is_to_nearest_even(w in -10f32..10.0, shrink in -5i32..15, half in 0u8..126) {
            for w in [w * 0.5f32.powi(shrink), (Fp8.value(half, UNIT) + Fp8.value(half + 1, UNIT)) / 2.0] {
                for (found, codes, sign) in [(Fp4.round(w, UNIT), 8, 8), (Fp8.round(w, UNIT), 127, 128)] {
                    let nearest = if codes == 8 { nearest_code(&Fp4, 8, w) } else { nearest_code(&Fp8, 127, w) };
                    let minus = if w < 0.0 && nearest > 0 { sign } else { 0 };
                    prop_assert_eq!(found, nearest | minus, "{} of {}", w, codes);
                }
            }
        }
    }
}
