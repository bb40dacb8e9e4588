//! Tensors as they are stored: plain numbers or packed codes, as owned little-endian bytes.

use crate::{Code, Dtype, Format, Grouped};
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
    /// `rows * format.row_bytes(cols)` bytes.
    pub codes: Vec<u8>,
    /// f16 bits, `[rows, format.row_groups(cols)]`.
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
    /// A code that the format cannot produce.
    #[error("row {row} holds code {code}, which the format does not have")]
    Code {
        /// Row of the first such code.
        row: usize,
        /// The code.
        code: u8,
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
        }
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Plain(plain) => plain.shape.clone(),
            Self::Packed(packed) => vec![packed.rows, packed.cols],
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

    /// Bytes it occupies, scales and offsets included.
    pub fn stored_bytes(&self) -> u64 {
        let (rows, cols) = self.matrix_shape();
        self.format().stored_bytes(rows, cols)
    }

    /// All weights as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Plain(plain) => plain.to_f32(),
            Self::Packed(packed) => packed.to_f32(),
        }
    }

    /// One row as f32 into `out` (as long as the last dimension).
    pub fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Plain(plain) => plain.read_f32(row * out.len(), out),
            Self::Packed(packed) => packed.row_to_f32(row, out),
        }
    }

    /// Checks lengths, and that every number and every code is one the format can hold.
    ///
    /// # Errors
    /// The first part that does not fit. A loaded tensor that passes can be computed with unchecked.
    pub fn validate(&self) -> Result<(), StoredError> {
        let length = |part, dimensions: &[usize], found| {
            // Beyond usize, even with empty dimensions left out, no product of them can be taken later.
            let area = dimensions.iter().try_fold(1usize, |area, &d| area.checked_mul(d.max(1)));
            let expected = area.map_or(usize::MAX, |area| if dimensions.contains(&0) { 0 } else { area });
            if expected == found { Ok(()) } else { Err(StoredError::Length { part, expected, found }) }
        };
        match self {
            Self::Plain(plain) => {
                let bytes = [plain.shape.as_slice(), &[plain.dtype.bytes()]].concat();
                length("data", &bytes, plain.bytes.len())?;
                finite("data", plain.to_f32().into_iter())
            }
            Self::Packed(packed) => {
                let format = packed.format;
                crate::formats::implementation(format).ok_or(StoredError::Format(self.format()))?;
                let (bytes, groups) = (format.row_bytes(packed.cols), format.row_groups(packed.cols));
                length("codes", &[packed.rows, bytes], packed.codes.len())?;
                length("scales", &[packed.rows, groups], packed.scales.len())?;
                let offsets = if format.has_offsets() { groups } else { 0 };
                length("offsets", &[packed.rows, offsets], packed.offsets.len())?;
                let f16 = |bits: &u16| half::f16::from_bits(*bits).to_f32();
                finite("scales", packed.scales.iter().map(f16))?;
                finite("offsets", packed.offsets.iter().map(f16))?;
                packed.check_codes()
            }
        }
    }
}

impl Packed {
    /// One row as f32 into `out` (length `cols`).
    pub fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        let (width, groups) = (self.format.row_bytes(self.cols), self.format.row_groups(self.cols));
        let bytes = &self.codes[row * width..(row + 1) * width];
        let scales = &self.scales[row * groups..(row + 1) * groups];
        let offsets = match self.format.has_offsets() {
            true => &self.offsets[row * groups..(row + 1) * groups],
            false => &[][..],
        };
        crate::formats::decode_row(self.format, bytes, scales, offsets, out);
    }

    /// All weights as f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        if self.cols > 0 {
            out.chunks_exact_mut(self.cols).enumerate().for_each(|(row, out)| self.row_to_f32(row, out));
        }
        out
    }

    fn check_codes(&self) -> Result<(), StoredError> {
        if self.format.code != Code::Ternary {
            return Ok(());
        }
        let width = self.format.row_bytes(self.cols);
        for (at, byte) in self.codes.iter().enumerate() {
            if byte & (byte >> 1) & 0x55 != 0 {
                return Err(StoredError::Code { row: at / width, code: 3 });
            }
        }
        Ok(())
    }
}

fn fill(out: &mut [f32], values: impl Iterator<Item = f32>) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
}

fn finite(part: &'static str, mut values: impl Iterator<Item = f32>) -> Result<(), StoredError> {
    match values.position(|v| !v.is_finite()) {
        Some(index) => Err(StoredError::NotFinite { part, index }),
        None => Ok(()),
    }
}
