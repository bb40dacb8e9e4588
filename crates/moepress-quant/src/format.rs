//! The names of formats and the bytes they cost.

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
}

/// What the codes of a grouped format stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// −1, 0, +1 times the group's scale; two bits where codes have fields.
    Ternary,
    /// Unsigned integers of that many bits (2, 3, 4 or 8) on the group's grid.
    Int(u8),
}

/// A format whose weights share an f16 scale per group of consecutive weights of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grouped {
    /// The meaning of a code.
    pub code: Code,
    /// Weights that share a scale: one of [`Grouped::GROUPS`]. The last group of a row may be shorter.
    pub group: usize,
    /// Integers only: the grid is centred on zero and stores no offset. Ternary is always symmetric.
    pub symmetric: bool,
}

impl Grouped {
    /// The group of every weight of a row, however long: no slice has more.
    pub const ROW: usize = usize::MAX;

    /// The groups there are.
    pub const GROUPS: [usize; 5] = [16, 32, 64, 128, Self::ROW];

    /// The name of a group in a format's: `g32` or `row`.
    fn group_name(group: usize) -> String {
        if group == Self::ROW { "row".to_owned() } else { format!("g{group}") }
    }

    /// Bits of one code in a field of its own.
    pub const fn bits(self) -> usize {
        match self.code {
            Code::Ternary => 2,
            Code::Int(bits) => bits as usize,
        }
    }

    /// Codes there are: 0 to one less.
    pub const fn levels(self) -> usize {
        match self.code {
            Code::Ternary => 3,
            Code::Int(bits) => 1 << bits,
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
}

/// How the numbers of one tensor are stored. Written `bf16`, `ternary-g32`, `int4-g64`, `int4-sym-row`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// As plain numbers.
    Plain(Dtype),
    /// As packed codes with scales per group.
    Grouped(Grouped),
}

impl Format {
    /// Bytes of a `rows` × `cols` matrix in this format with codes in bit fields, scales and offsets included. Of a
    /// ternary matrix and of any whose codes are not all alike often, [`Packing::Best`](crate::codec::Packing::Best)
    /// makes less.
    pub const fn stored_bytes(self, rows: usize, cols: usize) -> u64 {
        let bytes = match self {
            Self::Plain(dtype) => rows * cols * dtype.bytes(),
            Self::Grouped(g) => {
                let per_group = if g.has_offsets() { 4 } else { 2 };
                rows * (g.row_bytes(cols) + g.row_groups(cols) * per_group)
            }
        };
        bytes as u64
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Plain(Dtype::Bf16) => f.write_str("bf16"),
            Self::Plain(Dtype::F16) => f.write_str("f16"),
            Self::Plain(Dtype::F32) => f.write_str("f32"),
            Self::Grouped(Grouped { code, group, symmetric }) => {
                match code {
                    Code::Ternary => f.write_str("ternary")?,
                    Code::Int(bits) => write!(f, "int{bits}{}", if symmetric { "-sym" } else { "" })?,
                }
                write!(f, "-{}", Grouped::group_name(group))
            }
        }
    }
}

/// A word that names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no format (bf16, f16, f32, ternary-G, intB-G or intB-sym-G with B in 2, 3, 4, 8 and G in g16, g32, g64, g128, row)"
)]
pub struct FormatError(pub String);

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let fail = || FormatError(text.to_owned());
        match text {
            "bf16" => return Ok(Self::Plain(Dtype::Bf16)),
            "f16" => return Ok(Self::Plain(Dtype::F16)),
            "f32" => return Ok(Self::Plain(Dtype::F32)),
            _ => {}
        }
        let (head, name) = text.rsplit_once('-').ok_or_else(fail)?;
        let group = Grouped::GROUPS.into_iter().find(|&group| Grouped::group_name(group) == name);
        let group = group.ok_or_else(fail)?;
        let (code, symmetric) = match head.strip_suffix("-sym") {
            Some(code) => (code, true),
            None => (head, head == "ternary"),
        };
        let code = match (code, head) {
            ("ternary", "ternary") => Code::Ternary,
            ("int2", _) => Code::Int(2),
            ("int3", _) => Code::Int(3),
            ("int4", _) => Code::Int(4),
            ("int8", _) => Code::Int(8),
            _ => return Err(fail()),
        };
        Ok(Self::Grouped(Grouped { code, group, symmetric }))
    }
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
        for name in
            ["bf16", "f16", "f32", "ternary-g16", "int2-g64", "int3-sym-g128", "int8-row", "int4-sym-row"]
        {
            assert_eq!(name.parse::<Format>().unwrap().to_string(), name);
        }
        let none = ["", "int5-g32", "ternary", "ternary-sym-g32", "int4-g0", "int4-g33", "int4-g032", "-g32"];
        for name in none.into_iter().chain(["row", "-row", "int4-g", "int4-rows", "int4-grow"]) {
            assert!(name.parse::<Format>().is_err(), "{name}");
        }
    }

    #[test]
    fn bytes_count_everything() {
        let bytes = |name: &str, rows, cols| name.parse::<Format>().unwrap().stored_bytes(rows, cols);
        assert_eq!(bytes("bf16", 3, 5), 30);
        assert_eq!(bytes("ternary-g32", 2, 33), 2 * (9 + 2 * 2));
        assert_eq!(bytes("int3-g32", 1, 32), 12 + 4);
        assert_eq!(bytes("int3-sym-g64", 1, 65), 25 + 4);
        assert_eq!(bytes("int8-g128", 4, 0), 0);
        assert_eq!(bytes("int3-row", 5, 1001), 5 * (376 + 4));
        assert_eq!(bytes("ternary-row", 5, 0), 0);
        assert_eq!(bytes("int2-g16", 2, 17), 2 * (5 + 8));
    }
}
