//! Ternary codes: {−a, 0, a} or {−b, 0, a}, and the ways to choose a and b. Codes 0, 1, 2 stand for 0, a and the negative
//! level; code 3 is never written.

use super::grid::{check_finite, nearest};
use super::refine::some_count;
use super::sorted::{LANES, best_means};
use super::support::best_mean;
use super::{Grid, GridError, GroupFormat, one_by_one};
use crate::Scale;

/// Levels −a, 0, a: the grid's scale is a.
pub(super) enum Symmetric {
    /// The scale of least (weighted) squared error.
    Optimal,
    /// The largest magnitude.
    MinMax,
    /// The mean magnitude.
    AbsMean,
}

/// Levels −b, 0, a: the grid's scale is a, its offset −b.
pub(super) enum Asymmetric {
    /// Those of least (weighted) squared error: positive and negative weights do not share a level.
    Optimal,
    /// The largest and the smallest weight.
    MinMax,
}

impl GroupFormat for Symmetric {
    /// Only [`Optimal`](Self::Optimal) heeds `weights`.
    #[inline(always)]
    fn fit(&self, w: &[f32], weights: Option<&[f64]>) -> Result<Grid, GridError> {
        check_finite(w)?;
        let scale = match self {
            Self::Optimal => optimal_scale(w, weights, f32::abs),
            Self::AbsMean => w.iter().map(|w| f64::from(w.abs())).sum::<f64>() / w.len().max(1) as f64,
            Self::MinMax => f64::from(w.iter().fold(0f32, |max, w| max.max(w.abs()))),
        };
        Ok(Grid { scale: nearest(scale as f32)?, offset: 0.0 })
    }

    #[inline(always)]
    fn fit_each(
        &self,
        w: &[f32],
        length: usize,
        weights: Option<&[f64]>,
        grids: &mut [Grid],
    ) -> Result<(), (usize, GridError)> {
        if !matches!(self, Self::Optimal) || weights.is_some() || !side_by_side(w, length) {
            return one_by_one(self, w, length, weights, grids);
        }
        let scales = optimal_scales(w, length, f32::abs);
        for (at, (scale, grid)) in scales.into_iter().zip(grids).enumerate() {
            *grid = Grid { scale: nearest(scale).map_err(|source| (at * length, source))?, offset: 0.0 };
        }
        Ok(())
    }

    #[inline(always)]
    fn round(&self, w: f32, grid: Grid) -> u8 {
        let on = (2.0 * w.abs() > grid.scale) & (grid.scale > 0.0);
        u8::from(on) << u8::from(w < 0.0)
    }

    #[inline(always)]
    fn value(&self, code: u8, grid: Grid) -> f32 {
        grid.scale * (f32::from(code & 1) - f32::from(code >> 1))
    }
}

impl GroupFormat for Asymmetric {
    /// Only [`Optimal`](Self::Optimal) heeds `weights`.
    #[inline(always)]
    fn fit(&self, w: &[f32], weights: Option<&[f64]>) -> Result<Grid, GridError> {
        check_finite(w)?;
        let level = |sign: f32| match self {
            Self::Optimal => optimal_scale(w, weights, |w| part(w * sign)) as f32,
            Self::MinMax => w.iter().fold(0f32, |max, &w| max.max(part(w * sign))),
        };
        // 0 − 0 rather than −0.
        Ok(Grid { scale: nearest(level(1.0))?, offset: 0.0 - nearest(level(-1.0))? })
    }

    #[inline(always)]
    fn fit_each(
        &self,
        w: &[f32],
        length: usize,
        weights: Option<&[f64]>,
        grids: &mut [Grid],
    ) -> Result<(), (usize, GridError)> {
        if !matches!(self, Self::Optimal) || weights.is_some() || !side_by_side(w, length) {
            return one_by_one(self, w, length, weights, grids);
        }
        let above = optimal_scales(w, length, part);
        let below = optimal_scales(w, length, |w| part(-w));
        for (at, (grid, (above, below))) in grids.iter_mut().zip(above.into_iter().zip(below)).enumerate() {
            let level = |level| nearest(level).map_err(|source| (at * length, source));
            *grid = Grid { scale: level(above)?, offset: 0.0 - level(below)? };
        }
        Ok(())
    }

    #[inline(always)]
    fn round(&self, w: f32, grid: Grid) -> u8 {
        let above = (2.0 * w > grid.scale) & (grid.scale > 0.0);
        let below = (2.0 * w < grid.offset) & (grid.offset < 0.0);
        u8::from(above) | u8::from(below) << 1
    }

    #[inline(always)]
    fn value(&self, code: u8, grid: Grid) -> f32 {
        [0.0, grid.scale, grid.offset, 0.0][usize::from(code & 3)]
    }

    /// The two levels are means of their own weights.
    fn least_squares(&self, scale: Scale, terms: &mut dyn Iterator<Item = (f64, u8, f64)>) -> Option<Grid> {
        let mut sums = [(0.0, 0.0); 3];
        for (target, code, h) in terms {
            if let Some((sum, mass)) = sums.get_mut(usize::from(code)) {
                (*sum, *mass) = (*sum + h * target, *mass + h);
            }
        }
        let [_, above, below] = sums.map(|(sum, mass)| if mass > 0.0 { sum / mass } else { 0.0 });
        let scale = scale.nearest(above.max(0.0) as f32)?;
        Some(Grid { scale, offset: Scale::F16.nearest(below.min(0.0) as f32)? })
    }
}

/// What is positive of a weight, without −0, whose bits are not in order.
#[inline(always)]
fn part(w: f32) -> f32 {
    if w > 0.0 { w } else { 0.0 }
}

/// Whether weights are as many groups of that length as are fitted side by side, and finite. Longer groups are as fast one by one.
#[inline(always)]
fn side_by_side(w: &[f32], length: usize) -> bool {
    matches!(length, 16 | 32 | 64) && w.len() == LANES * length && check_finite(w).is_ok()
}

/// The scales of least squared error of groups that fit [`side_by_side`].
#[inline(always)]
fn optimal_scales(w: &[f32], length: usize, magnitude: impl Fn(f32) -> f32) -> [f32; LANES] {
    match length {
        16 => best_means::<16>(w, magnitude),
        32 => best_means::<32>(w, magnitude),
        _ => best_means::<64>(w, magnitude),
    }
}

/// The scale of least squared error for weights of that magnitude.
#[inline(always)]
fn optimal_scale(w: &[f32], weights: Option<&[f64]>, magnitude: impl Fn(f32) -> f32) -> f64 {
    match some_count(weights) {
        Some(h) => weighted_scale(w, h, magnitude),
        None => f64::from(best_mean(w, magnitude)),
    }
}

/// Of weights sorted by magnitude the support is a prefix, and a prefix with mean a gains (Σ h|w|)² / Σ h over all zeros.
fn weighted_scale(w: &[f32], h: &[f64], magnitude: impl Fn(f32) -> f32) -> f64 {
    // Magnitude above, inverted index below: one integer sorts by magnitude, ties by index.
    let key = |(i, &w): (usize, &f32)| u64::from(magnitude(w).to_bits()) << 32 | u64::from(!(i as u32));
    let mut keys: Vec<u64> = w.iter().enumerate().map(key).collect();
    keys.sort_unstable_by(|a, b| b.cmp(a));
    let (mut sum, mut mass) = (0.0, 0.0);
    let (mut best_gain, mut best_scale) = (0.0, 0.0);
    for key in keys {
        let h = h[!(key as u32) as usize];
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
    use super::super::refine;
    use super::Symmetric::Optimal;
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
        let grid = Asymmetric::Optimal.fit(&w, None).unwrap();
        assert!((grid.scale - 0.9).abs() < 1e-3 && (grid.offset + 0.5).abs() < 1e-3);
        assert!((refine::error(&Asymmetric::Optimal, &w, None, grid) - 0.0129).abs() < 1e-3);
        assert_eq!(Asymmetric::MinMax.fit(&w, None), Ok(grid), "of these weights");
        let grid = Symmetric::AbsMean.fit(&w, None).unwrap();
        assert!((grid.scale - 0.314).abs() < 1e-3);
        assert_eq!(w.map(|w| Optimal.round(w, grid)), [1, 2, 0, 0, 0]);
        assert!((error(&w, &[1.0; 5], grid) - 0.3909).abs() < 1e-3);
    }

    #[test]
    fn one_sided_groups() {
        let w = [0.5, 0.25, 0.0, 1.0];
        for format in [Asymmetric::Optimal, Asymmetric::MinMax] {
            let grid = format.fit(&w, None).unwrap();
            assert!(grid.scale > 0.0 && grid.offset.to_bits() == 0);
            let mirrored = format.fit(&w.map(|w| -w), None).unwrap();
            assert_eq!((mirrored.scale, mirrored.offset), (0.0, -grid.scale));
            assert_eq!(format.round(-1.0, grid), 0);
            assert_eq!(format.round(-1.0, mirrored), 2);
            assert_eq!(format.fit(&[], None), Ok(Grid::default()));
            assert_eq!(format.fit(&[0.0, f32::NAN], None), Err(GridError::NotFinite { index: 1 }));
            assert!(matches!(format.fit(&[-1e6], None), Err(GridError::Overflow { .. })));
        }
    }

    #[test]
    fn other_scales() {
        let w = [0.75, -0.5, 0.25, 0.0];
        let scale = |grid: Symmetric| grid.fit(&w, Some(&[1.0, 0.0, 0.0, 0.0])).unwrap().scale;
        assert_eq!(scale(Symmetric::AbsMean), 0.375);
        assert_eq!(scale(Symmetric::MinMax), 0.75);
        assert_eq!(scale(Optimal), 0.75, "only the first weight counts");
        for grid in [Symmetric::AbsMean, Symmetric::MinMax] {
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
            // Either sign on its own, and so no worse than both together.
            let sides = Asymmetric::Optimal.fit(&w, Some(&h)).unwrap();
            let of = |sign: f32| -> Vec<f32> { w.iter().map(|w| (w * sign).max(0.0)).collect() };
            let separate = brute_force(&of(1.0), &h) + brute_force(&of(-1.0), &h);
            let found = refine::error(&Asymmetric::Optimal, &w, Some(&h), sides);
            prop_assert!((found - separate).abs() <= 1e-6 * energy + 1e-12, "{} {}", found, separate);
            for other in [Symmetric::AbsMean, Symmetric::MinMax] {
                let other = other.fit(&w, Some(&h)).unwrap();
                prop_assert!(error(&w, &h, grid) <= error(&w, &h, other) + 1e-6 * energy + 1e-12);
            }
        }
    }
}
