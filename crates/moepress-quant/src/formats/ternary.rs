//! Ternary codes: {−a, 0, a}, and the ways to choose a.

use super::grid::{check_finite, nearest};
use super::{Grid, GridError, GroupFormat};

/// How the scale of a ternary group is chosen. Codes 0, 1, 2 stand for 0, +a, −a; code 3 is never written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TernaryGrid {
    /// The scale of least (weighted) squared error.
    #[default]
    Optimal,
    /// The mean magnitude: BitNet b1.58 (arXiv 2402.17764).
    AbsMean,
    /// The largest magnitude: the levels of QMoE (arXiv 2310.16795), whose extremes of either sign are one
    /// number here.
    AbsMax,
}

impl GroupFormat for TernaryGrid {
    /// Only [`Optimal`](Self::Optimal) heeds `weights`.
    fn fit(&self, w: &[f32], weights: Option<&[f64]>) -> Result<Grid, GridError> {
        check_finite(w)?;
        let scale = match self {
            Self::Optimal => optimal_scale(w, weights.filter(|h| h.iter().any(|&h| h > 0.0))),
            Self::AbsMean => w.iter().map(|w| f64::from(w.abs())).sum::<f64>() / w.len().max(1) as f64,
            Self::AbsMax => f64::from(w.iter().fold(0f32, |max, w| max.max(w.abs()))),
        };
        Ok(Grid { scale: nearest(scale as f32)?, offset: 0.0 })
    }

    #[inline]
    fn round(&self, w: f32, grid: Grid) -> u8 {
        let on = (2.0 * w.abs() > grid.scale) & (grid.scale > 0.0);
        u8::from(on) << u8::from(w < 0.0)
    }

    #[inline]
    fn value(&self, code: u8, grid: Grid) -> f32 {
        grid.scale * (f32::from(code & 1) - f32::from(code >> 1))
    }
}

/// The scale of least squared error: for weights of sorted magnitude the support is a prefix, and a prefix with
/// mean a gains (Σ h|w|)² / Σ h over all zeros.
fn optimal_scale(w: &[f32], weights: Option<&[f64]>) -> f64 {
    // Magnitude above, inverted index below: one integer sorts by magnitude, ties by index.
    let key = |(i, w): (usize, &f32)| u64::from(w.abs().to_bits()) << 32 | u64::from(!(i as u32));
    let mut keys: Vec<u64> = w.iter().enumerate().map(key).collect();
    keys.sort_unstable_by(|a, b| b.cmp(a));

    let (mut sum, mut mass) = (0.0, 0.0);
    let (mut best_gain, mut best_scale) = (0.0, 0.0);
    for key in keys {
        let h = weights.map_or(1.0, |h| h[!(key as u32) as usize]);
        sum += h * f64::from(f32::from_bits((key >> 32) as u32));
        mass += h;
        let gain = sum * (sum / mass);
        if gain > best_gain {
            (best_gain, best_scale) = (gain, sum / mass);
        }
    }
    best_scale
}

#[cfg(test)]
mod tests {
    use super::TernaryGrid::Optimal;
    use super::*;
    use proptest::prelude::*;

    fn error(w: &[f32], h: &[f64], grid: Grid) -> f64 {
        let q = |w| Optimal.value(Optimal.round(w, grid), grid);
        w.iter().zip(h).map(|(&w, h)| h * f64::from(w - q(w)).powi(2)).sum()
    }

    /// The least error over every support, each with its own best real scale.
    fn brute_force(w: &[f32], h: &[f64]) -> f64 {
        let total: f64 = w.iter().zip(h).map(|(&w, h)| h * f64::from(w).powi(2)).sum();
        let gain = |support: u32| {
            let inside = || (0..w.len()).filter(move |i| support >> i & 1 == 1);
            let mass: f64 = inside().map(|i| h[i]).sum();
            let sum: f64 = inside().map(|i| h[i] * f64::from(w[i].abs())).sum();
            if mass > 0.0 { sum * sum / mass } else { 0.0 }
        };
        total - (0..1 << w.len()).map(gain).fold(0.0, f64::max)
    }

    #[test]
    fn golden_group() {
        let w = [0.9, -0.5, 0.1, 0.05, -0.02];
        let grid = Optimal.fit(&w, None).unwrap();
        assert!((grid.scale - 0.7).abs() < 1e-3);
        assert_eq!(w.map(|w| Optimal.round(w, grid)), [1, 2, 0, 0, 0]);
        assert!((error(&w, &[1.0; 5], grid) - 0.0929).abs() < 1e-3);
    }

    #[test]
    fn other_scales() {
        let w = [0.75, -0.5, 0.25, 0.0];
        let scale = |grid: TernaryGrid| grid.fit(&w, Some(&[1.0, 0.0, 0.0, 0.0])).unwrap().scale;
        assert_eq!(scale(TernaryGrid::AbsMean), 0.375);
        assert_eq!(scale(TernaryGrid::AbsMax), 0.75);
        assert_eq!(scale(Optimal), 0.75, "only the first weight counts");
        for grid in [TernaryGrid::AbsMean, TernaryGrid::AbsMax] {
            assert_eq!(grid.fit(&[], None), Ok(Grid::default()));
            assert_eq!(grid.fit(&[0.0, f32::NAN], None), Err(GridError::NotFinite { index: 1 }));
            assert!(matches!(grid.fit(&[-1e6], None), Err(GridError::Overflow { .. })));
        }
    }

    #[test]
    fn corner_groups() {
        assert_eq!(Optimal.fit(&[], None), Ok(Grid::default()));
        assert_eq!(Optimal.fit(&[0.0, -0.0], None), Ok(Grid::default()));
        assert_eq!(Optimal.fit(&[-0.5; 7], None).unwrap().scale, 0.5);
        let w = [0.25, 0.5];
        assert_eq!(Optimal.fit(&w, Some(&[0.0; 2])), Optimal.fit(&w, None), "no weight counts");
        assert_eq!(Optimal.fit(&w, Some(&[1.0, 0.0])).unwrap().scale, 0.25);
        assert_eq!(Optimal.fit(&[0.0, f32::NAN], None), Err(GridError::NotFinite { index: 1 }));
        assert!(matches!(Optimal.fit(&[1e6], None), Err(GridError::Overflow { .. })));
        // Below half the least f16 the group is all zeros, without signs.
        let grid = Optimal.fit(&[-1e-9], None).unwrap();
        assert_eq!((grid.scale, Optimal.round(-1e-9, grid)), (0.0, 0));
    }

    proptest! {
        #[test]
        fn scale_is_optimal(
            group in proptest::collection::vec((-1f32..1.0, prop_oneof![Just(0.0), 0.01..10.0]), 1..11),
            unweighted: bool,
        ) {
            let (w, mut h): (Vec<f32>, Vec<f64>) = group.into_iter().unzip();
            if unweighted || h.iter().all(|&h| h == 0.0) {
                h.fill(1.0);
            }
            let grid = Optimal.fit(&w, Some(&h)).unwrap();
            let energy: f64 = w.iter().zip(&h).map(|(&w, h)| h * f64::from(w).powi(2)).sum();
            prop_assert!((error(&w, &h, grid) - brute_force(&w, &h)).abs() <= 1e-6 * energy + 1e-12);
            for other in [TernaryGrid::AbsMean, TernaryGrid::AbsMax] {
                let other = other.fit(&w, Some(&h)).unwrap();
                prop_assert!(error(&w, &h, grid) <= error(&w, &h, other) + 1e-6 * energy + 1e-12);
            }
        }
    }
}
