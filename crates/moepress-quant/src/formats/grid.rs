//! The grid of one group, in numbers that f16 can hold.

use half::f16;

/// Scale and offset of a group: f32 numbers that are exactly f16 numbers, so that codes are chosen on the
/// grid that is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Grid {
    /// Distance of neighbouring levels. Negative where a format mirrors its levels.
    pub scale: f32,
    /// Value of the lowest level; zero where the format stores none.
    pub offset: f32,
}

/// Why a group has no grid.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum GridError {
    /// A weight is NaN or infinite.
    #[error("weight {index} of the group is not finite")]
    NotFinite {
        /// Position in the group.
        index: usize,
    },
    /// The scale or the offset is no f16 number.
    #[error("the group needs {value} as scale or offset, which f16 (up to ±65504) cannot hold")]
    Overflow {
        /// The number.
        value: f32,
    },
}

impl Grid {
    /// The grid that f16 bits describe.
    pub fn from_bits(scale: u16, offset: u16) -> Self {
        Self { scale: f16::from_bits(scale).to_f32(), offset: f16::from_bits(offset).to_f32() }
    }

    /// f16 bits of the scale.
    pub fn scale_bits(self) -> u16 {
        f16::from_f32(self.scale).to_bits()
    }

    /// f16 bits of the offset.
    pub fn offset_bits(self) -> u16 {
        f16::from_f32(self.offset).to_bits()
    }

    /// One over the scale; zero for a grid of a single level.
    #[inline]
    pub(super) fn inverse_scale(self) -> f32 {
        if self.scale == 0.0 { 0.0 } else { 1.0 / self.scale }
    }
}

/// The f16 number nearest to `value`.
pub(super) fn nearest(value: f32) -> Result<f32, GridError> {
    finite(f16::from_f32(value), value)
}

/// The largest f16 number that is not above `value`.
pub(super) fn floor(value: f32) -> Result<f32, GridError> {
    let near = f16::from_f32(value);
    let floor = match near.to_bits() {
        _ if near.to_f32() <= value => near,
        0 => f16::from_bits(0x8001),
        bits if bits < 0x8000 => f16::from_bits(bits - 1),
        bits => f16::from_bits(bits + 1),
    };
    finite(floor, value)
}

/// The f16 step nearest to `range / steps` whose last level comes within half a step of `range` ≥ 0.
pub(super) fn step(range: f32, steps: f32) -> Result<f32, GridError> {
    let near = f16::from_f32(range / steps);
    // Only among subnormal scales is the nearest one that far off.
    let short = near.to_f32() * (steps + 0.5) < range;
    finite(if short { f16::from_bits(near.to_bits() + 1) } else { near }, range / steps)
}

/// The position of the first weight that is not finite, as an error.
pub(crate) fn check_finite(w: &[f32]) -> Result<(), GridError> {
    if w.iter().fold(true, |all, v| all & v.is_finite()) {
        return Ok(());
    }
    let index = w.iter().position(|v| !v.is_finite()).unwrap_or(0);
    Err(GridError::NotFinite { index })
}

fn finite(stored: f16, value: f32) -> Result<f32, GridError> {
    if stored.is_finite() { Ok(stored.to_f32()) } else { Err(GridError::Overflow { value }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn next_up(value: f32) -> f32 {
        let bits = f16::from_f32(value).to_bits();
        f16::from_bits(if bits & 0x7fff == 0 {
            1
        } else if bits < 0x8000 {
            bits + 1
        } else {
            bits - 1
        })
        .to_f32()
    }

    proptest! {
        #[test]
        fn floor_is_the_last_f16_below(value in -65504f32..65504.0) {
            let floor = floor(value).unwrap();
            prop_assert!(floor <= value && value < next_up(floor), "{floor}");
        }

        #[test]
        fn steps_reach_the_range(range in 0f32..1e5, shrink in 0..30, steps in 1..=255u8) {
            let (range, steps) = (range * 0.5f32.powi(shrink), f32::from(steps));
            if let Ok(step) = step(range, steps) {
                prop_assert!(step * (steps + 0.5) >= range);
                prop_assert!(step <= range / steps * (1.0 + 1e-3) + 6e-8);
            }
        }
    }

    #[test]
    fn numbers_beyond_f16_are_errors() {
        assert_eq!(nearest(65520.0), Err(GridError::Overflow { value: 65520.0 }));
        assert_eq!(floor(-65520.0), Err(GridError::Overflow { value: -65520.0 }));
        assert_eq!(floor(70000.0), Ok(65504.0));
        assert_eq!(step(1e6, 15.0), Err(GridError::Overflow { value: 1e6 / 15.0 }));
        assert_eq!(floor(-0.0), Ok(0.0));
        assert_eq!(floor(-1e-9), Ok(-(0.5f32.powi(24))));
        assert_eq!(check_finite(&[0.0, f32::NAN, f32::INFINITY]), Err(GridError::NotFinite { index: 1 }));
    }
}
