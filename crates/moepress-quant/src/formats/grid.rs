//! The grid of one group, in numbers that can be stored.

use crate::{Grouped, Scale};
use half::f16;

/// Scale and offset of a group: f32 numbers that are exactly numbers of their stored types, so that codes are chosen
/// on the grid that is stored.
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
    /// The scale or the offset is no number of its stored type.
    #[error("the group needs {value} as scale or offset, which its type (f16 goes up to ±65504) cannot hold")]
    Overflow {
        /// The number.
        value: f32,
    },
}

impl Scale {
    /// The number that `bits`, as in [`Packed`](crate::Packed), stand for; NaN where they stand for none.
    pub fn value(self, bits: u16) -> f32 {
        match (self, bits) {
            (Self::F16 | Self::Ue5m3, _) => f16::from_bits(bits).to_f32(),
            // The one power of two that is no normal number.
            (Self::E8m0, 0) => f32::from_bits(1 << 22),
            (Self::E8m0, 1..=254) => f32::from_bits(u32::from(bits) << 23),
            (Self::E8m0, _) => f32::NAN,
        }
    }

    /// The bits of a number of this type.
    pub(crate) fn bits(self, value: f32) -> u16 {
        match self {
            Self::F16 | Self::Ue5m3 => f16::from_f32(value).to_bits(),
            Self::E8m0 => (value.to_bits() >> 23) as u16,
        }
    }

    /// The number of this type that is nearest to `value`, if there is one.
    pub(crate) fn nearest(self, value: f32) -> Option<f32> {
        let half = f16::from_f32(value);
        let bits = match self {
            Self::F16 => half.to_bits(),
            Self::Ue5m3 => half.to_bits().checked_add(UE5M3_STEP / 2)? & !(UE5M3_STEP - 1),
            // A mantissa of a half and more rounds up.
            Self::E8m0 => value.to_bits().checked_add(1 << 22).map(|bits| (bits >> 23) as u16)?,
        };
        self.is_number(bits).then(|| self.value(bits))
    }

    /// Whether `bits` are those of a finite number of this type.
    pub(crate) fn is_number(self, bits: u16) -> bool {
        match self {
            Self::F16 => f16::from_bits(bits).is_finite(),
            Self::Ue5m3 => bits < 0x7c00 && bits.is_multiple_of(UE5M3_STEP),
            Self::E8m0 => bits < 255,
        }
    }

    /// Whether `value` is a number of this type.
    pub(crate) fn holds(self, value: f32) -> bool {
        let bits = self.bits(value);
        self.is_number(bits) && self.value(bits).to_bits() == value.to_bits()
    }

    /// The bytes of scales in a file.
    pub fn to_bytes(self, scales: &[u16]) -> Vec<u8> {
        match self {
            Self::F16 => scales.iter().flat_map(|bits| bits.to_le_bytes()).collect(),
            Self::Ue5m3 => scales.iter().map(|bits| (bits / UE5M3_STEP) as u8).collect(),
            Self::E8m0 => scales.iter().map(|&bits| bits as u8).collect(),
        }
    }

    /// The scales of bytes in a file, as in [`Packed`](crate::Packed).
    pub fn from_bytes(self, bytes: &[u8]) -> Vec<u16> {
        match self {
            Self::F16 => bytes.as_chunks::<2>().0.iter().map(|&bits| u16::from_le_bytes(bits)).collect(),
            // What is above the largest exponent stays above it.
            Self::Ue5m3 => bytes.iter().map(|&byte| u16::from(byte) * UE5M3_STEP).collect(),
            Self::E8m0 => bytes.iter().map(|&byte| u16::from(byte)).collect(),
        }
    }
}

/// The bits of f16 that a scale of type [`Scale::Ue5m3`] does without, and one more than they can hold.
pub(super) const UE5M3_STEP: u16 = 1 << 7;

impl Grouped {
    /// The grid that the bits of a scale and of an f16 offset describe.
    pub fn grid(self, scale: u16, offset: u16) -> Grid {
        Grid { scale: self.scale.value(scale), offset: f16::from_bits(offset).to_f32() }
    }

    /// Whether the format can store that grid.
    pub(super) fn holds(self, grid: Grid) -> bool {
        self.scale.holds(grid.scale)
            && Scale::F16.holds(grid.offset)
            && (self.has_offsets() || grid.offset == 0.0)
    }
}

impl Grid {
    /// f16 bits of the offset.
    pub(crate) fn offset_bits(self) -> u16 {
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
    Scale::F16.nearest(value).ok_or(GridError::Overflow { value })
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
#[inline(always)]
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
        assert!(Scale::F16.holds(-0.25) && !Scale::F16.holds(0.1) && !Scale::F16.holds(1e6));
        assert!(Scale::Ue5m3.holds(0.0) && Scale::Ue5m3.holds(61_440.0) && Scale::Ue5m3.holds(1.125));
        assert!(
            !Scale::Ue5m3.holds(-1.0) && !Scale::Ue5m3.holds(1.0625) && !Scale::Ue5m3.holds(f32::INFINITY)
        );
        assert!(Scale::E8m0.holds(0.25) && !Scale::E8m0.holds(0.0) && !Scale::E8m0.holds(0.75));
        assert!(
            Scale::E8m0.holds(2f32.powi(-127))
                && Scale::E8m0.holds(2f32.powi(127))
                && !Scale::E8m0.holds(-1.0)
        );
        for (scale, bytes) in [
            (Scale::F16, vec![0x00, 0x3c, 0xff, 0x7b]),
            (Scale::Ue5m3, vec![0, 0x78, 0xf7]),
            (Scale::E8m0, vec![0, 254]),
        ] {
            let bits = scale.from_bytes(&bytes);
            assert_eq!(scale.to_bytes(&bits), bytes);
            assert!(bits.iter().all(|&bits| scale.is_number(bits) && scale.bits(scale.value(bits)) == bits));
        }
        for (scale, bytes) in [
            (Scale::F16, vec![0, 0x7c]),
            (Scale::Ue5m3, vec![0xf8]),
            (Scale::Ue5m3, vec![0xff]),
            (Scale::E8m0, vec![255]),
        ] {
            assert!(!scale.is_number(scale.from_bytes(&bytes)[0]));
        }
        assert_eq!(check_finite(&[0.0, f32::NAN, f32::INFINITY]), Err(GridError::NotFinite { index: 1 }));
    }
}
