//! Choosing among grids by the squared error they leave.

use super::{Grid, GroupFormat};
use crate::Scale;

/// Rounds of moving the grid to the weights as they are coded.
const ROUNDS: usize = 4;

/// Σ hᵢ (wᵢ − qᵢ)² of a group rounded on `grid`; h is 1 without `weights`.
pub(super) fn error(format: &impl GroupFormat, w: &[f32], weights: Option<&[f64]>, grid: Grid) -> f64 {
    let square = |w: f32| f64::from(w - format.value(format.round(w, grid), grid)).powi(2);
    match weights {
        Some(h) => w.iter().zip(h).map(|(&w, h)| h * square(w)).sum(),
        None => w.iter().map(|&w| square(w)).sum(),
    }
}

/// The first of the grids with the least error, and that error.
pub(super) fn least(
    format: &impl GroupFormat,
    w: &[f32],
    weights: Option<&[f64]>,
    grids: impl IntoIterator<Item = Grid>,
) -> Option<(Grid, f64)> {
    let weights = some_count(weights);
    let graded = grids.into_iter().map(|grid| (grid, error(format, w, weights, grid)));
    graded.min_by(|(_, a), (_, b)| a.total_cmp(b))
}

/// A grid of at most the error of `grid`, which is `least`: in turn weights are rounded, and the grid becomes that of
/// least squares for their codes (Lloyd, "Least squares quantization in PCM", 1982).
pub(super) fn descend(
    format: &impl GroupFormat,
    scale: Scale,
    w: &[f32],
    weights: Option<&[f64]>,
    (mut grid, mut least): (Grid, f64),
) -> Grid {
    let weights = some_count(weights);
    for _ in 0..ROUNDS {
        let terms = w.iter().enumerate();
        let mut terms =
            terms.map(|(at, &w)| (f64::from(w), format.round(w, grid), weights.map_or(1.0, |h| h[at])));
        let Some(next) = format.least_squares(scale, &mut terms) else { break };
        let error = error(format, w, weights, next);
        if error >= least {
            break;
        }
        (grid, least) = (next, error);
    }
    grid
}

/// The grid with levels scale · level + offset, as it is stored, nearest to that of least Σ h (target − scale · level −
/// offset)², of terms (target, level, h); without `offsets` the offset is 0.
pub(super) fn line(
    scale: Scale,
    offsets: bool,
    terms: impl Iterator<Item = (f64, f64, f64)>,
) -> Option<Grid> {
    let (mut n, mut l, mut t, mut ll, mut lt) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (target, level, h) in terms {
        n += h;
        l += h * level;
        t += h * target;
        ll += h * level * level;
        lt += h * level * target;
    }
    let (mean_l, mean_t) = if offsets { (l / n, t / n) } else { (0.0, 0.0) };
    let slope = (lt - mean_l * mean_t * n) / (ll - mean_l * mean_l * n);
    let scale = scale.nearest(slope as f32).filter(|&scale| scale != 0.0)?;
    // The offset that is best for the scale as stored.
    let offset = Scale::F16.nearest((mean_t - f64::from(scale) * mean_l) as f32)?;
    Some(Grid { scale, offset })
}

/// Weights of which none counts are none.
pub(super) fn some_count(weights: Option<&[f64]>) -> Option<&[f64]> {
    weights.filter(|h| h.iter().any(|&h| h > 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Scale::{F16, Ue5m3};

    #[test]
    fn least_squares_is_exact_on_a_line() {
        let terms =
            |of: fn(f64) -> f64| [0.0, 1.0, 2.0, 3.0, 1.0].map(|level| (of(level), level, 2.0)).into_iter();
        assert_eq!(line(F16, true, terms(|l| 0.5 * l - 2.0)), Some(Grid { scale: 0.5, offset: -2.0 }));
        assert_eq!(line(F16, false, terms(|l| 0.25 * l)), Some(Grid { scale: 0.25, offset: 0.0 }));
        assert_eq!(line(F16, true, [(1.0, 3.0, 1.0), (2.0, 3.0, 1.0)].into_iter()), None, "one level");
        assert_eq!(line(F16, true, [(1.0, 1.0, 0.0), (2.0, 2.0, 0.0)].into_iter()), None, "none counts");
        assert_eq!(line(F16, false, [(1e9, 1.0, 1.0)].into_iter()), None, "beyond f16");
        assert_eq!(line(Ue5m3, false, terms(|l| -l)), None, "no sign");
    }
}
