//! The names of formats and the bytes they cost.

use crate::LowRank;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// An unquantized number type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// 16 bits, 8 of them exponent.
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl Dtype {
    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

/// What the codes of a grouped format stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// −1, 0, +1 times the group's scale, or with an offset that in the place of −scale.
    Ternary,
    /// Unsigned integers of that many bits (2, 3, 4 or 8) on the group's grid.
    Int(u8),
    /// Four bits, e2m1: sign, two bits of exponent, one of mantissa (OCP Microscaling Formats, version 1.0).
    Fp4,
    /// Eight bits, e4m3, without infinities (OCP 8-bit Floating Point, version 1.0).
    Fp8,
}

/// The number type of scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scale {
    /// IEEE half precision.
    F16,
    /// One byte, e5m3: half precision that is not negative, without its last seven bits of mantissa.
    Ue5m3,
    /// One byte, e8m0: powers of two from 2⁻¹²⁷ to 2¹²⁷.
    E8m0,
}

impl Scale {
    /// Bytes of one scale.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::Ue5m3 | Self::E8m0 => 1,
        }
    }
}

/// A format whose weights share a scale per group of consecutive weights of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grouped {
    /// The meaning of a code.
    pub code: Code,
    /// Weights that share a scale: one of [`Grouped::GROUPS`]. The last group of a row may be shorter.
    pub group: usize,
    /// The grid is symmetric about zero and stores no offset.
    pub symmetric: bool,
    /// The type of the scales. Offsets are f16.
    pub scale: Scale,
}

impl Grouped {
    /// The group of every weight of a row, however long: no slice has more.
    pub const ROW: usize = usize::MAX;

    /// The groups there are.
    pub const GROUPS: [usize; 5] = [16, 32, 64, 128, Self::ROW];

    /// MXFP4 (OCP Microscaling Formats, version 1.0).
    pub const MXFP4: Self = Self { code: Code::Fp4, group: 32, symmetric: true, scale: Scale::E8m0 };

    /// Codes, symmetric or not, in groups of that many weights with f16 scales; as ternary and floating-point codes are
    /// stored when nothing else is asked for.
    pub const fn new(code: Code, group: usize, symmetric: bool) -> Self {
        Self { code, group, symmetric, scale: Scale::F16 }
    }

    /// Whether there is such a format.
    pub fn exists(self) -> bool {
        let Self { code, group, symmetric, scale } = self;
        Self::GROUPS.contains(&group)
            && match (code, scale) {
                (Code::Fp4, Scale::E8m0) => self == Self::MXFP4,
                (_, Scale::E8m0) | (Code::Fp4, _) => false,
                (Code::Ternary, _) => true,
                (Code::Fp8, _) => symmetric,
                // Its levels may be mirrored by a negative scale.
                (Code::Int(2), Scale::Ue5m3) => !symmetric,
                (Code::Int(bits), _) => matches!(bits, 2 | 3 | 4 | 8),
            }
    }

    /// Every format there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let ints = [2, 3, 4, 8].map(Code::Int);
        let codes = [Code::Ternary].into_iter().chain(ints).chain([Code::Fp4, Code::Fp8]);
        codes
            .flat_map(|code| [true, false].map(|symmetric| (code, symmetric)))
            .flat_map(|(code, symmetric)| Self::GROUPS.map(|group| Self::new(code, group, symmetric)))
            .flat_map(|format| [Scale::F16, Scale::Ue5m3, Scale::E8m0].map(|scale| Self { scale, ..format }))
            .filter(|format| format.exists())
    }

    /// Bits of one code in a field of its own.
    pub const fn bits(self) -> usize {
        match self.code {
            Code::Ternary => 2,
            Code::Int(bits) => bits as usize,
            Code::Fp4 => 4,
            Code::Fp8 => 8,
        }
    }

    /// Codes are below this.
    pub const fn levels(self) -> usize {
        match self.code {
            Code::Ternary => 3,
            _ => 1 << self.bits(),
        }
    }

    /// Whether `code` stands for a number.
    pub const fn has(self, code: u8) -> bool {
        match self.code {
            Code::Fp8 => code & 0x7f != 0x7f,
            _ => (code as usize) < self.levels(),
        }
    }

    /// Bytes of one row of `cols` codes in bit fields; every row starts on a byte.
    pub const fn row_bytes(self, cols: usize) -> usize {
        // Whole bytes first, so that no `cols` overflows.
        cols / 8 * self.bits() + (cols % 8 * self.bits()).div_ceil(8)
    }

    /// Bytes of a `rows` × `cols` matrix with codes in bit fields, scales and offsets included.
    pub const fn stored_bytes(self, rows: usize, cols: usize) -> u64 {
        Format::Grouped(self).stored_bytes(rows, cols)
    }

    /// Groups of one row of `cols` weights.
    pub const fn row_groups(self, cols: usize) -> usize {
        cols.div_ceil(self.group)
    }

    /// Whether an f16 offset is stored beside each scale.
    pub const fn has_offsets(self) -> bool {
        !self.symmetric
    }

    /// Bytes of the scales and offsets of a `rows` × `cols` matrix.
    pub const fn grid_bytes(self, rows: usize, cols: usize) -> usize {
        rows * self.row_groups(cols) * (self.scale.bytes() + if self.has_offsets() { 2 } else { 0 })
    }
}

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::MXFP4 {
            return f.write_str("mxfp4");
        }
        match (self.code, self.symmetric) {
            (Code::Ternary, true) => f.write_str("ternary")?,
            (Code::Ternary, false) => f.write_str("ternary-asym")?,
            (Code::Int(bits), symmetric) => write!(f, "int{bits}{}", if symmetric { "-sym" } else { "" })?,
            (Code::Fp4, _) => f.write_str("fp4")?,
            (Code::Fp8, _) => f.write_str("fp8")?,
        }
        match self.group {
            Self::ROW => f.write_str("-row")?,
            group => write!(f, "-g{group}")?,
        }
        match self.scale {
            Scale::F16 => Ok(()),
            Scale::Ue5m3 => f.write_str("-ue5m3"),
            Scale::E8m0 => f.write_str("-e8m0"),
        }
    }
}

/// How the numbers of one tensor are stored. Written `bf16`, `ternary-g32`, `int4-g64`, `int4-sym-row`, `fp8-row`, `mxfp4`,
/// with one-byte scales `ternary-row-ue5m3`, `low-rank-r32-s102`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// As plain numbers.
    Plain(Dtype),
    /// As packed codes with scales per group.
    Grouped(Grouped),
    /// As the product of two thin matrices, and some rows of what it lacks.
    LowRank(LowRank),
}

impl Format {
    /// Bytes of a `rows` × `cols` matrix in this format with codes in bit fields, scales and offsets included; with
    /// [`Packing::Best`](crate::codec::Packing::Best) it may take less, depending on the codes.
    pub const fn stored_bytes(self, rows: usize, cols: usize) -> u64 {
        let bytes = match self {
            Self::Plain(dtype) => rows * cols * dtype.bytes(),
            Self::Grouped(g) => rows * g.row_bytes(cols) + g.grid_bytes(rows, cols),
            Self::LowRank(low_rank) => return low_rank.stored_bytes(rows, cols),
        };
        bytes as u64
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(dtype) => f.write_str(dtype.name()),
            Self::Grouped(grouped) => grouped.fmt(f),
            Self::LowRank(low_rank) => low_rank.fmt(f),
        }
    }
}

/// A word that names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no format (bf16, f16, f32, mxfp4, or one of ternary, ternary-asym, intB, intB-sym with B in 2, 3, 4, 8, and fp8, \
     with -g16, -g32, -g64, -g128 or -row and perhaps -ue5m3 behind it, or low-rank-rR-sS)"
)]
pub struct FormatError(pub String);

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let plain = [Dtype::Bf16, Dtype::F16, Dtype::F32].into_iter().find(|dtype| dtype.name() == text);
        let low_rank = || LowRank::named(text).map(Self::LowRank);
        let found = plain.map(Self::Plain).or_else(|| grouped(text).map(Self::Grouped)).or_else(low_rank);
        found.ok_or_else(|| FormatError(text.to_owned()))
    }
}

fn grouped(text: &str) -> Option<Grouped> {
    if text == "mxfp4" {
        return Some(Grouped::MXFP4);
    }
    let (text, scale) = match text.strip_suffix("-ue5m3") {
        Some(text) => (text, Scale::Ue5m3),
        None => (text, Scale::F16),
    };
    let (code, group) = text.rsplit_once('-')?;
    let group = match group {
        "g16" => 16,
        "g32" => 32,
        "g64" => 64,
        "g128" => 128,
        "row" => Grouped::ROW,
        _ => return None,
    };
    let (code, symmetric) = match code {
        "ternary" => (Code::Ternary, true),
        "ternary-asym" => (Code::Ternary, false),
        "fp8" => (Code::Fp8, true),
        _ => {
            let (bits, symmetric) = match code.strip_suffix("-sym") {
                Some(bits) => (bits, true),
                None => (code, false),
            };
            let bits = match bits {
                "int2" => 2,
                "int3" => 3,
                "int4" => 4,
                "int8" => 8,
                _ => return None,
            };
            (Code::Int(bits), symmetric)
        }
    };
    Some(Grouped { code, group, symmetric, scale }).filter(|format| format.exists())
}

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in [
            "bf16",
            "f16",
            "f32",
            "mxfp4",
            "ternary-g16",
            "int8-row",
            "ternary-asym-row",
            "int3-sym-g128-ue5m3",
        ] {
            assert_eq!(name.parse::<Format>().unwrap().to_string(), name);
        }
        let all: Vec<Grouped> = Grouped::all().collect();
        // Ten codes in five groups with either scale, but for two-bit symmetric ones, and MXFP4.
        assert_eq!(all.len(), 5 * (2 + 8 + 1) * 2 - 5 + 1);
        for format in all {
            assert_eq!(format.to_string().parse(), Ok(Format::Grouped(format)));
        }
        let none = [
            "",
            "int5-g32",
            "ternary",
            "ternary-sym-g32",
            "int4-g0",
            "int4-g33",
            "int4-g032",
            "-g32",
            "row",
            "-row",
        ];
        let more = [
            "int4-g",
            "int4-rows",
            "int4-grow",
            "mxfp4-g32",
            "fp4-g32-e8m0",
            "int2-sym-row-ue5m3",
            "int4-row-f16",
            "int-row",
        ];
        for name in none.into_iter().chain(more) {
            assert!(name.parse::<Format>().is_err(), "{name}");
        }
    }

    #[test]
    fn bytes_count_everything() {
        let bytes = |name: &str, rows, cols| name.parse::<Format>().unwrap().stored_bytes(rows, cols);
        assert_eq!(bytes("bf16", 3, 5), 30);
        assert_eq!(bytes("ternary-g32", 2, 33), 2 * (9 + 2 * 2));
        assert_eq!(bytes("ternary-asym-g32", 2, 33), 2 * (9 + 2 * 4));
        assert_eq!(bytes("int3-g32", 1, 32), 12 + 4);
        assert_eq!(bytes("int3-sym-g64", 1, 65), 25 + 4);
        assert_eq!(bytes("int8-g128", 4, 0), 0);
        assert_eq!(bytes("int3-row", 5, 1001), 5 * (376 + 4));
        assert_eq!(bytes("ternary-row", 5, 0), 0);
        assert_eq!(bytes("int2-g16", 2, 17), 2 * (5 + 8));
        assert_eq!(bytes("int4-row-ue5m3", 2, 10), 2 * (5 + 3));
        assert_eq!(bytes("fp8-row", 2, 10), 2 * (10 + 2));
        assert_eq!(bytes("mxfp4", 2, 40), 2 * (20 + 2));
    }

    #[test]
    fn codes_that_stand_for_nothing() {
        let has = |name: &str, code| match name.parse() {
            Ok(Format::Grouped(format)) => format.has(code),
            other => panic!("{name}: {other:?}"),
        };
        assert!(has("ternary-row", 2) && !has("ternary-row", 3));
        assert!(has("int8-row", 255) && has("mxfp4", 15) && !has("mxfp4", 16));
        assert!(has("fp8-row", 0xfe) && !has("fp8-row", 0x7f) && !has("fp8-row", 0xff));
    }
}
