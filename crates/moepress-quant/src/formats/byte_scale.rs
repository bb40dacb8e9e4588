//! Scales of one byte: the format's own grid, with the better of the two scales that come nearest.

use super::grid::UE5M3_STEP;
use super::refine::{descend, least};
use super::{Grid, GridError, GroupFormat};
use crate::Scale;

/// A format with scales of type [`Scale::Ue5m3`]. Codes are chosen on the scale as it is stored, so all that is lost is
/// that it is up to a sixteenth off the best one.
pub(super) struct ByteScale<T>(pub(super) T);

impl<T: GroupFormat> GroupFormat for ByteScale<T> {
    #[inline(always)]
    fn fit(&self, w: &[f32], weights: Option<&[f64]>) -> Result<Grid, GridError> {
        let grid = self.0.fit(w, weights)?;
        let below = Scale::F16.bits(grid.scale) & !(UE5M3_STEP - 1);
        let scales = [below, below + UE5M3_STEP].into_iter().filter(|&bits| Scale::Ue5m3.is_number(bits));
        let grids = scales.map(|bits| Grid { scale: Scale::Ue5m3.value(bits), ..grid });
        let best = least(&self.0, w, weights, grids).ok_or(GridError::Overflow { value: grid.scale })?;
        Ok(descend(&self.0, Scale::Ue5m3, w, weights, best))
    }

    #[inline(always)]
    fn round(&self, w: f32, grid: Grid) -> u8 {
        self.0.round(w, grid)
    }

    #[inline(always)]
    fn value(&self, code: u8, grid: Grid) -> f32 {
        self.0.value(code, grid)
    }

    fn least_squares(&self, scale: Scale, terms: &mut dyn Iterator<Item = (f64, u8, f64)>) -> Option<Grid> {
        self.0.least_squares(scale, terms)
    }
}
