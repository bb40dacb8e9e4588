//! Storage codecs: how the codes of a matrix become bytes, whatever solver chose them. All are lossless.

mod bits;
mod entropy;
mod planes;
mod trits;

pub use entropy::Entropy;

use crate::formats::pack;
use crate::{Code, Format, Grouped, StoredError};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How the codes of a matrix lie in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codec {
    /// A field of as many bits as a code has for each; rows start on a byte.
    Fields,
    /// Five ternary codes a byte; rows start on a byte.
    Trits,
    /// A bit of every code after the other, the highest first.
    Planes,
    /// A static entropy code.
    Entropy,
}

/// Which codec the codes of a tensor are stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Bit fields: the fastest to compute with.
    #[default]
    Fields,
    /// The codec of fewest bytes, tensor by tensor; of equals the faster one.
    Best,
    /// Planes, of which a reader may do with the first.
    Planes,
}

impl Codec {
    /// The dimensions of the bytes of `rows` × `cols` codes; `None` where they depend on the codes.
    pub fn shape(self, format: Grouped, rows: usize, cols: usize) -> Option<Vec<usize>> {
        match self {
            Self::Fields => Some(vec![rows, format.row_bytes(cols)]),
            Self::Trits => Some(vec![rows, trits::row_bytes(cols)]),
            Self::Planes => Some(vec![format.bits(), rows, planes::row_bytes(cols)]),
            Self::Entropy => None,
        }
    }

    /// Whether codes of that format can be in planes: those whose highest bits alone say something.
    pub const fn has_planes(format: Grouped) -> bool {
        matches!(format.code, Code::Int(_))
    }

    /// The codec of fixed width that takes fewest bytes, and a row's bytes in it.
    fn narrowest(format: Grouped, cols: usize) -> (Self, usize) {
        let (fields, trits) = (format.row_bytes(cols), trits::row_bytes(cols));
        match format.code {
            Code::Ternary if trits < fields => (Self::Trits, trits),
            _ => (Self::Fields, fields),
        }
    }
}

/// Bytes of a matrix whose codes are `codes`, `[rows, cols]`, one a byte, scales and offsets included: exactly those
/// that storing it will take.
///
/// Rows of other than `cols` codes, and codes that `format` does not have, are not told apart from good ones.
pub fn stored_bytes(format: Grouped, rows: usize, cols: usize, codes: &[u8], packing: Packing) -> u64 {
    let fields = rows * format.row_bytes(cols);
    let packed = match packing {
        Packing::Fields => fields,
        Packing::Planes => format.bits() * rows * planes::row_bytes(cols),
        Packing::Best => {
            let narrow = rows * Codec::narrowest(format, cols).1;
            Entropy::size(cols, codes, narrow).unwrap_or(narrow)
        }
    };
    Format::Grouped(format).stored_bytes(rows, cols) - fields as u64 + packed as u64
}

/// The codes of a matrix as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Codes {
    /// In [`Codec::Fields`], row-major.
    Fields(Vec<u8>),
    /// In [`Codec::Trits`], row-major.
    Trits(Vec<u8>),
    /// In [`Codec::Planes`], plane by plane.
    Planes(Vec<u8>),
    /// In [`Codec::Entropy`].
    Entropy(Entropy),
}

impl Codes {
    /// Packs codes of `format`, `[rows, cols]`, one a byte.
    pub(crate) fn pack(format: Grouped, rows: usize, cols: usize, codes: &[u8], packing: Packing) -> Self {
        if packing == Packing::Planes {
            return Self::Planes(planes::pack(format.bits(), rows, cols, codes));
        }
        let fields = (Codec::Fields, format.row_bytes(cols));
        let (codec, width) = match packing {
            Packing::Best if rows > 0 => Codec::narrowest(format, cols),
            _ => fields,
        };
        if packing == Packing::Best
            && let Some(entropy) = Entropy::encode(cols, codes, rows * width)
        {
            return Self::Entropy(entropy);
        }
        let mut bytes = vec![0; rows * width];
        let pack = |(codes, bytes): (&[u8], &mut [u8])| match codec {
            Codec::Trits => trits::pack(codes, bytes),
            _ => pack::pack(format.bits(), codes, bytes),
        };
        if !codes.is_empty() {
            codes.par_chunks_exact(cols).zip(bytes.par_chunks_exact_mut(width)).for_each(pack);
        }
        match codec {
            Codec::Trits => Self::Trits(bytes),
            _ => Self::Fields(bytes),
        }
    }

    /// Codes of `format` in bit fields, rows of `cols` one after the other, on the calling thread.
    pub fn fields(format: Grouped, cols: usize, codes: &[u8]) -> Self {
        let width = format.row_bytes(cols);
        let mut bytes = vec![0; codes.len().checked_div(cols).unwrap_or(0) * width];
        if width > 0 {
            let rows = codes.chunks_exact(cols).zip(bytes.chunks_exact_mut(width));
            rows.for_each(|(codes, bytes)| pack::pack(format.bits(), codes, bytes));
        }
        Self::Fields(bytes)
    }

    /// Ternary codes in five-trit bytes, rows of `cols` one after the other, on the calling thread.
    pub fn trits(cols: usize, codes: &[u8]) -> Self {
        let width = trits::row_bytes(cols);
        let mut bytes = vec![0; codes.len().checked_div(cols).unwrap_or(0) * width];
        if width > 0 {
            let rows = codes.chunks_exact(cols).zip(bytes.chunks_exact_mut(width));
            rows.for_each(|(codes, bytes)| trits::pack(codes, bytes));
        }
        Self::Trits(bytes)
    }

    /// The codec they are in.
    pub fn codec(&self) -> Codec {
        match self {
            Self::Fields(_) => Codec::Fields,
            Self::Trits(_) => Codec::Trits,
            Self::Planes(_) => Codec::Planes,
            Self::Entropy(_) => Codec::Entropy,
        }
    }

    /// Their bytes in a file.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Fields(bytes) | Self::Trits(bytes) | Self::Planes(bytes) => bytes,
            Self::Entropy(entropy) => entropy.bytes(),
        }
    }

    /// Their bytes in a file.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Fields(bytes) | Self::Trits(bytes) | Self::Planes(bytes) => bytes,
            Self::Entropy(entropy) => entropy.into_bytes(),
        }
    }

    /// Unpacks the rows from `first` on into `out`, `[rows, cols]`, one code a byte.
    pub(crate) fn read(&self, format: Grouped, cols: usize, first: usize, out: &mut [u8]) {
        if out.is_empty() {
            return;
        }
        let rows = |bytes: &[u8], width: usize, out: &mut [u8], unpack: &dyn Fn(&[u8], &mut [u8])| {
            let bytes = bytes[first * width..].chunks_exact(width);
            out.chunks_exact_mut(cols).zip(bytes).for_each(|(out, bytes)| unpack(bytes, out));
        };
        match self {
            Self::Fields(bytes) => {
                let unpack = |bytes: &[u8], out: &mut [u8]| pack::unpack(format.bits(), bytes, out);
                rows(bytes, format.row_bytes(cols), out, &unpack);
            }
            Self::Trits(bytes) => rows(bytes, trits::row_bytes(cols), out, &trits::unpack),
            Self::Planes(bytes) => {
                let rows = bytes.len() / (format.bits() * planes::row_bytes(cols));
                planes::unpack(format.bits(), rows, cols, bytes, first, out);
            }
            Self::Entropy(entropy) => entropy.read(cols, first, out),
        }
    }

    /// Checks that they are codes of `format` for a matrix of that shape.
    pub(crate) fn check(&self, format: Grouped, rows: usize, cols: usize) -> Result<(), StoredError> {
        let Some(shape) = self.codec().shape(format, rows, cols) else {
            let Self::Entropy(entropy) = self else { return Ok(()) };
            let checked = entropy.check(rows, cols, |code| format.has(code));
            return checked.map_err(|(row, reason)| StoredError::Codes { row, reason });
        };
        let (bytes, expected) = (self.bytes(), shape.iter().fold(1usize, |all, &n| all.saturating_mul(n)));
        if bytes.len() != expected {
            return Err(StoredError::Length { part: "codes", expected, found: bytes.len() });
        }
        let width = shape.last().copied().unwrap_or(1);
        let row_of = |wrong: &dyn Fn(u8) -> bool| Some(bytes.iter().position(|&byte| wrong(byte))? / width);
        let wrong = match (self.codec(), format.code) {
            (Codec::Trits, Code::Ternary) => row_of(&|byte| usize::from(byte) >= trits::VALUES)
                .map(|row| (row, "hold a byte that is no five trits")),
            (Codec::Trits, _) => Some((0, "are trits, but the format is not ternary")),
            (Codec::Planes, _) if !Codec::has_planes(format) => {
                Some((0, "are planes, but the format has no whole numbers"))
            }
            // Two bits that are both set.
            (_, Code::Ternary) => row_of(&|byte| byte & (byte >> 1) & 0x55 != 0).map(|row| (row, "hold a 3")),
            (_, Code::Fp8) => row_of(&|code| !format.has(code)).map(|row| (row, "hold a NaN")),
            _ => None,
        };
        wrong.map_or(Ok(()), |(row, reason)| Err(StoredError::Codes { row, reason }))
    }
}

#[cfg(test)]
mod tests;
