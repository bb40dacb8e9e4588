//! Tensors as they are stored: plain numbers or packed codes, as owned little-endian bytes.

use crate::codec::{Codec, Codes, Packing};
use crate::formats::{decode_codes, decode_row};
use crate::{Dtype, Factored, Format, Grouped};
use half::slice::HalfFloatSliceExt;

/// Plain numbers, little-endian, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Number type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// `shape.product() * dtype.bytes()` bytes.
    pub bytes: Vec<u8>,
}

/// A matrix in a grouped format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The format of the codes.
    pub format: Grouped,
    /// Rows (outputs of a linear map).
    pub rows: usize,
    /// Columns (inputs of a linear map); groups run along them.
    pub cols: usize,
    /// The codes, row-major.
    pub codes: Codes,
    /// Bits of the format's type of scales, `[rows, format.row_groups(cols)]`: f16 for [`Scale::F16`](crate::Scale::F16)
    /// and [`Scale::Ue5m3`](crate::Scale::Ue5m3), the byte for [`Scale::E8m0`](crate::Scale::E8m0).
    pub scales: Vec<u16>,
    /// f16 bits of the same shape; empty when the format stores none.
    pub offsets: Vec<u16>,
}

/// A tensor in whatever format it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Unquantized.
    Plain(Plain),
    /// Quantized.
    Packed(Packed),
    /// Of low rank.
    Factored(Factored),
}

/// Why a tensor is not what its format promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// There is no such format.
    #[error("{0} is no format of a stored tensor")]
    Format(Format),
    /// A part has the wrong number of bytes or elements.
    #[error("{part} has {found} elements instead of {expected}")]
    Length {
        /// Which part.
        part: &'static str,
        /// What the shape asks for.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// A number is NaN or infinite.
    #[error("element {index} of {part} is not finite")]
    NotFinite {
        /// Which part.
        part: &'static str,
        /// Position of the first such element.
        index: usize,
    },
    /// Rows that are not those of a matrix.
    #[error("the places of rows are not in ascending order or not below {rows}")]
    Places {
        /// Rows of the matrix.
        rows: usize,
    },
    /// Bytes that no codec makes of the format's codes.
    #[error("the codes from row {row} on {reason}")]
    Codes {
        /// The first row they are of.
        row: usize,
        /// What is wrong with them.
        reason: &'static str,
    },
}

impl Plain {
    /// Numbers as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.bytes.len() / self.dtype.bytes()];
        self.read_f32(0, &mut out);
        out
    }

    /// Consecutive numbers from element `start` as f32 into `out`.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) {
        let bytes = &self.bytes[start * self.dtype.bytes()..(start + out.len()) * self.dtype.bytes()];
        let pairs = || bytes.as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b));
        match self.dtype {
            Dtype::F32 => fill(out, bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
            Dtype::F16 => {
                // By blocks: half looks for hardware conversion once per call.
                let mut block = [half::f16::ZERO; 256];
                let mut numbers = pairs().map(half::f16::from_bits);
                for out in out.chunks_mut(block.len()) {
                    block.iter_mut().zip(numbers.by_ref().take(out.len())).for_each(|(to, v)| *to = v);
                    block[..out.len()].convert_to_f32_slice(out);
                }
            }
            Dtype::Bf16 => fill(out, pairs().map(|bits| f32::from_bits(u32::from(bits) << 16))),
        }
    }

    /// Numbers rounded to `dtype` (to nearest, ties to even).
    pub fn from_f32(dtype: Dtype, shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = match dtype {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            Dtype::Bf16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        };
        Self { dtype, shape, bytes }
    }
}

impl Stored {
    /// The format the tensor is in.
    pub fn format(&self) -> Format {
        match self {
            Self::Plain(plain) => Format::Plain(plain.dtype),
            Self::Packed(packed) => Format::Grouped(packed.format),
            Self::Factored(factored) => Format::LowRank(factored.format()),
        }
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Plain(plain) => plain.shape.clone(),
            Self::Packed(packed) => vec![packed.rows, packed.cols],
            Self::Factored(factored) => <[usize; 2]>::from(factored.matrix_shape()).to_vec(),
        }
    }

    /// Rows and columns; a vector is one row, leading dimensions fold into rows.
    pub fn matrix_shape(&self) -> (usize, usize) {
        match self {
            Self::Plain(plain) => match plain.shape.split_last() {
                Some((&cols, rows)) => (rows.iter().product(), cols),
                None => (1, 1),
            },
            Self::Packed(packed) => (packed.rows, packed.cols),
            Self::Factored(factored) => factored.matrix_shape(),
        }
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        let (rows, cols) = self.matrix_shape();
        rows * cols
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes it occupies as it is stored, scales and offsets included.
    pub fn stored_bytes(&self) -> u64 {
        match self {
            Self::Plain(plain) => plain.bytes.len() as u64,
            Self::Packed(packed) => packed.stored_bytes(),
            Self::Factored(factored) => factored.stored_bytes(),
        }
    }

    /// The same with codes in bit fields where they are in a codec that takes longer to read.
    pub fn unpacked(self) -> Self {
        match self {
            Self::Packed(packed) => Self::Packed(packed.repacked(Packing::Fields)),
            others => others,
        }
    }

    /// All weights as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Plain(plain) => plain.to_f32(),
            Self::Packed(packed) => packed.to_f32(),
            Self::Factored(_) => {
                let mut out = vec![0.0; self.len()];
                self.rows_to_f32(0, &mut out);
                out
            }
        }
    }

    /// One row as f32 into `out` (as long as the last dimension).
    pub fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        self.rows_to_f32(row, out);
    }

    /// The rows from `first` on as f32 into `out`, a whole number of rows (as long as the last dimension).
    ///
    /// Many rows at a time cost less than one by one.
    pub fn rows_to_f32(&self, first: usize, out: &mut [f32]) {
        match self {
            Self::Plain(plain) => plain.read_f32(first * self.matrix_shape().1, out),
            Self::Packed(packed) => packed.rows_to_f32(first, out),
            Self::Factored(factored) => factored.rows_to_f32(first, out),
        }
    }

    /// Checks lengths, and that every number and every code is one the format can hold.
    ///
    /// # Errors
    /// The first part that does not fit. A loaded tensor that passes can be computed with unchecked.
    pub fn validate(&self) -> Result<(), StoredError> {
        match self {
            Self::Plain(plain) => {
                let bytes = [plain.shape.as_slice(), &[plain.dtype.bytes()]].concat();
                length("data", &bytes, plain.bytes.len())?;
                finite("data", plain.to_f32().into_iter())
            }
            Self::Packed(packed) => {
                let format = packed.format;
                if !format.exists() {
                    return Err(StoredError::Format(self.format()));
                }
                let groups = format.row_groups(packed.cols);
                length("scales", &[packed.rows, groups], packed.scales.len())?;
                let offsets = if format.has_offsets() { groups } else { 0 };
                length("offsets", &[packed.rows, offsets], packed.offsets.len())?;
                let f16 = |bits: &u16| half::f16::from_bits(*bits).to_f32();
                if let Some(index) = packed.scales.iter().position(|&bits| !format.scale.is_number(bits)) {
                    return Err(StoredError::NotFinite { part: "scales", index });
                }
                finite("offsets", packed.offsets.iter().map(f16))?;
                packed.codes.check(format, packed.rows, packed.cols)
            }
            Self::Factored(factored) => factored.validate(),
        }
    }
}

impl Packed {
    /// Bytes it occupies as it is stored, scales and offsets included.
    pub fn stored_bytes(&self) -> u64 {
        let scales = if self.one_scale() { 1 } else { self.scales.len() };
        let grids = self.format.scale.bytes() * scales + 2 * self.offsets.len();
        (self.codes.bytes().len() + grids) as u64
    }

    /// Whether one scale stands for all of them in a file.
    pub fn one_scale(&self) -> bool {
        self.offsets.is_empty()
            && self.scales.windows(2).all(|pair| pair[0] == pair[1])
            && !self.scales.is_empty()
    }

    /// The same matrix with its codes in another codec.
    pub fn repacked(self, packing: Packing) -> Self {
        if (packing, self.codes.codec()) == (Packing::Fields, Codec::Fields) {
            return self;
        }
        let mut codes = vec![0; self.rows * self.cols];
        self.read_codes(0, &mut codes);
        Self { codes: Codes::pack(self.format, self.rows, self.cols, &codes, packing), ..self }
    }

    /// The codes of the rows from `first` on into `out`, a whole number of rows, one a byte, in any codec.
    pub fn read_codes(&self, first: usize, out: &mut [u8]) {
        self.codes.read(self.format, self.cols, first, out);
    }

    /// The rows from `first` on as f32 into `out`, a whole number of rows.
    ///
    /// Many rows at a time cost less than one by one.
    pub fn rows_to_f32(&self, first: usize, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let groups = self.format.row_groups(self.cols);
        let grids = |row: usize| {
            let groups = row * groups..(row + 1) * groups;
            (&self.scales[groups.clone()], self.offsets.get(groups).unwrap_or_default())
        };
        let (len, rows) = (out.len(), out.chunks_exact_mut(self.cols).zip(first..));
        if let Codes::Fields(bytes) = &self.codes {
            let width = self.format.row_bytes(self.cols);
            for (out, row) in rows {
                let (scales, offsets) = grids(row);
                decode_row(self.format, &bytes[row * width..(row + 1) * width], scales, offsets, out);
            }
            return;
        }
        let mut codes = vec![0; len];
        self.read_codes(first, &mut codes);
        for ((out, row), codes) in rows.zip(codes.chunks_exact(self.cols)) {
            let (scales, offsets) = grids(row);
            decode_codes(self.format, codes, scales, offsets, out);
        }
    }

    /// All weights as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        self.rows_to_f32(0, &mut out);
        out
    }
}

fn fill(out: &mut [f32], values: impl Iterator<Item = f32>) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
}

/// Whether a part has as many elements as its dimensions ask for.
pub(crate) fn length(part: &'static str, dimensions: &[usize], found: usize) -> Result<(), StoredError> {
    // Beyond usize, even with empty dimensions left out, no product of them can be taken later.
    let area = dimensions.iter().try_fold(1usize, |area, &d| area.checked_mul(d.max(1)));
    let expected = area.map_or(usize::MAX, |area| if dimensions.contains(&0) { 0 } else { area });
    if expected == found { Ok(()) } else { Err(StoredError::Length { part, expected, found }) }
}

pub(crate) fn finite(part: &'static str, mut values: impl Iterator<Item = f32>) -> Result<(), StoredError> {
    match values.position(|v| !v.is_finite()) {
        Some(index) => Err(StoredError::NotFinite { part, index }),
        None => Ok(()),
    }
}
