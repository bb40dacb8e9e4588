//! What a kernel is compiled for: how the codes of a matrix lie in words, what they stand for and how they are scaled.

use moepress_quant::codec::Codec;
use moepress_quant::{Code, Dtype, Grouped, Scale};

/// What the codes of a matrix stand for, before scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// 0, +1, −1 in fields of two bits.
    Ternary,
    /// 0, the scale, the offset in fields of two bits.
    TwoSided,
    /// 0, +1, −1, five a byte.
    Trits,
    /// 0, the scale, the offset, five a byte.
    TwoSidedTrits,
    /// Unsigned integers less `middle`, in fields.
    Int {
        /// Bits of a field: 2, 3, 4 or 8.
        bits: u32,
        /// What stands for zero.
        middle: u32,
    },
    /// A sign, `exponent` bits and `mantissa` bits, as IEEE 754 reads them, of finite numbers.
    Float {
        /// Bits of the exponent.
        exponent: u32,
        /// Bits of the mantissa.
        mantissa: u32,
    },
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scaling {
    /// There are none.
    None,
    /// f16, two a word.
    Half,
    /// e5m3, four a word.
    Byte,
    /// e8m0, four a word.
    Power,
}

/// The part of a matrix's description that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Coding {
    /// What codes stand for.
    pub level: Level,
    /// How scales are stored.
    pub scaling: Scaling,
    /// Whether an f16 offset lies beside each scale.
    pub offsets: bool,
    /// Columns that share a scale; 0: all of a row.
    pub group: usize,
}

impl Coding {
    /// Plain numbers.
    pub fn plain(dtype: Dtype) -> Self {
        let (exponent, mantissa) = match dtype {
            Dtype::Bf16 => (8, 7),
            Dtype::F16 => (5, 10),
            Dtype::F32 => (8, 23),
        };
        let level = Level::Float { exponent, mantissa };
        Self { level, scaling: Scaling::None, offsets: false, group: 0 }
    }

    /// Codes of a grouped format. Entropy codes are unpacked to fields before they reach a device.
    pub fn grouped(format: Grouped, codec: Codec) -> Self {
        let level = match (format.code, codec, format.symmetric) {
            (Code::Ternary, Codec::Trits, true) => Level::Trits,
            (Code::Ternary, Codec::Trits, false) => Level::TwoSidedTrits,
            (Code::Ternary, _, true) => Level::Ternary,
            (Code::Ternary, _, false) => Level::TwoSided,
            (Code::Int(bits), ..) => {
                let middle = if format.symmetric { 1 << (bits - 1) } else { 0 };
                Level::Int { bits: bits.into(), middle }
            }
            (Code::Fp4, ..) => Level::Float { exponent: 2, mantissa: 1 },
            (Code::Fp8, ..) => Level::Float { exponent: 4, mantissa: 3 },
        };
        let scaling = match format.scale {
            Scale::F16 => Scaling::Half,
            Scale::Ue5m3 => Scaling::Byte,
            Scale::E8m0 => Scaling::Power,
        };
        let group = if format.group == Grouped::ROW { 0 } else { format.group };
        Self { level, scaling, offsets: format.has_offsets(), group }
    }

    /// Codes that are unpacked together; a row is padded to whole chunks.
    pub const fn chunk(&self) -> usize {
        match self.level {
            Level::Trits | Level::TwoSidedTrits => 20,
            Level::Int { bits: 3, .. } => 32,
            _ => 16,
        }
    }

    /// 32-bit words of a chunk.
    pub const fn words(&self) -> usize {
        match self.level {
            Level::Trits | Level::TwoSidedTrits => 1,
            _ => self.chunk() * self.bits() / 32,
        }
    }

    /// Words that are read by one load: 1, 2 or 4.
    pub const fn width(&self) -> usize {
        match self.words() {
            words if words.is_multiple_of(4) => 4,
            words if words.is_multiple_of(2) => 2,
            _ => 1,
        }
    }

    /// Bits of a field.
    pub const fn bits(&self) -> usize {
        match self.level {
            Level::Int { bits, .. } => bits as usize,
            Level::Float { exponent, mantissa } => 1 + (exponent + mantissa) as usize,
            _ => 2,
        }
    }

    /// Codes of a chunk that share a scale, wherever the chunk begins.
    pub const fn run(&self) -> usize {
        let (mut a, mut b) = (self.chunk(), self.group);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    }

    /// Scales in a word.
    pub const fn scales_per_word(&self) -> usize {
        match self.scaling {
            Scaling::Byte | Scaling::Power => 4,
            _ => 2,
        }
    }

    /// Whether a code chooses between scale and offset, instead of offsets being added to every weight.
    pub const fn two_sided(&self) -> bool {
        matches!(self.level, Level::TwoSided | Level::TwoSidedTrits)
    }

    /// Chunks of a row.
    pub const fn chunks(&self, cols: usize) -> usize {
        cols.div_ceil(self.chunk())
    }

    /// Scales of a row.
    pub const fn groups(&self, cols: usize) -> usize {
        match (self.scaling, self.group) {
            (Scaling::None, _) => 0,
            (_, 0) => 1,
            (_, group) => cols.div_ceil(group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_quant::Format;

    fn coding(format: &str, codec: Codec) -> Coding {
        match format.parse().unwrap() {
            Format::Plain(dtype) => Coding::plain(dtype),
            Format::Grouped(format) => Coding::grouped(format, codec),
            Format::LowRank(_) => unreachable!("{format} has no coding"),
        }
    }

    #[test]
    fn chunks_fill_words() {
        let of = |format, codec| {
            let coding = coding(format, codec);
            (coding.chunk(), coding.words(), coding.width(), coding.run())
        };
        assert_eq!(of("ternary-g32", Codec::Fields), (16, 1, 1, 16));
        assert_eq!(of("ternary-g32", Codec::Trits), (20, 1, 1, 4));
        assert_eq!(of("ternary-row", Codec::Trits), (20, 1, 1, 20));
        assert_eq!(of("int3-g16", Codec::Fields), (32, 3, 1, 16));
        assert_eq!(of("int4-g128", Codec::Fields), (16, 2, 2, 16));
        assert_eq!(of("bf16", Codec::Fields), (16, 8, 4, 16));
        assert_eq!(of("f32", Codec::Fields), (16, 16, 4, 16));
    }
}
