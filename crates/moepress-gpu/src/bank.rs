//! Matrices of one format, one behind the other in the memory of a device.

use crate::GpuError;
use crate::device::{Buffer, Gpu};
use crate::kernels::{Coding, Scaling, Segment};
use moepress_quant::codec::{Codes, Packing};
use moepress_quant::{Packed, Plain, Stored};

/// Matrices being put together on the host.
///
/// On the device every row is padded with zeros to whole chunks of [`Coding::chunk`] codes; otherwise words and scales
/// are those of the file. Entropy codes become fields.
pub struct Packer {
    coding: Coding,
    words: Vec<u8>,
    scales: Vec<u8>,
    offsets: Vec<u8>,
    segments: Vec<Segment>,
}

/// The description that kernels for a stored matrix are compiled for.
///
/// # Errors
/// There are none for matrices of low rank.
pub fn coding_of(stored: &Stored) -> Result<Coding, GpuError> {
    match stored {
        Stored::Plain(plain) => Ok(Coding::plain(plain.dtype)),
        Stored::Packed(packed) => Ok(Coding::grouped(packed.format, packed.codes.codec())),
        Stored::Factored(_) => Err(GpuError::LowRank),
    }
}

impl Packer {
    /// None yet.
    pub fn new(coding: Coding) -> Self {
        Self { coding, words: vec![], scales: vec![], offsets: vec![], segments: vec![] }
    }

    /// Appends a matrix that reads x from `x_column` and writes its outputs from `out_column`; its index.
    ///
    /// # Errors
    /// It is of another coding than the others, or they are more than 32-bit indices reach.
    pub fn push(&mut self, stored: &Stored, x_column: usize, out_column: usize) -> Result<usize, GpuError> {
        let found = coding_of(stored)?;
        if found != self.coding {
            return Err(GpuError::Coding { expected: self.coding, found });
        }
        let (rows, cols) = stored.matrix_shape();
        let size = self.coding.words() * 4;
        let number =
            |n: usize| u32::try_from(n).map_err(|_| GpuError::TooLarge { bytes: self.words.len() as u64 });
        let segment = Segment {
            chunk: number(self.words.len() / size)?,
            scale: number(self.scales.len() / self.scale_bytes().max(1))?,
            rows: number(rows)?,
            cols: number(cols)?,
            x_column: number(x_column)?,
            out_column: number(out_column)?,
        };
        // The last word and the last scale of the matrix can be counted, too.
        number(self.words.len() / 4 + rows * self.coding.chunks(cols) * self.coding.words())?;
        match stored {
            Stored::Plain(Plain { bytes, dtype, .. }) => self.rows(bytes, rows, cols * dtype.bytes(), cols),
            Stored::Packed(packed) => self.packed(packed),
            Stored::Factored(_) => return Err(GpuError::LowRank),
        }
        self.segments.push(segment);
        Ok(self.segments.len() - 1)
    }

    fn scale_bytes(&self) -> usize {
        match self.coding.scaling {
            Scaling::None => 0,
            Scaling::Half => 2,
            Scaling::Byte | Scaling::Power => 1,
        }
    }

    fn packed(&mut self, packed: &Packed) {
        let Packed { rows, cols, codes, .. } = packed;
        let fields;
        let codes = match codes {
            Codes::Fields(_) | Codes::Trits(_) => codes,
            Codes::Planes(_) | Codes::Entropy(_) => {
                fields = packed.clone().repacked(Packing::Fields).codes;
                &fields
            }
        };
        let width = codes.bytes().len().checked_div(*rows).unwrap_or(0);
        self.rows(codes.bytes(), *rows, width, *cols);
        self.scales.extend(packed.format.scale.to_bytes(&packed.scales));
        self.offsets.extend(packed.offsets.iter().flat_map(|bits| bits.to_le_bytes()));
    }

    /// Appends rows of `width` bytes, padded.
    fn rows(&mut self, bytes: &[u8], rows: usize, width: usize, cols: usize) {
        let padded = self.coding.chunks(cols) * self.coding.words() * 4;
        for row in bytes.chunks_exact(width.max(1)).take(rows) {
            self.words.extend_from_slice(row);
            self.words.resize(self.words.len() + padded - width, 0);
        }
    }

    /// Bytes that the matrices take on a device.
    pub fn bytes(&self) -> u64 {
        (self.words.len() + self.scales.len() + self.offsets.len()) as u64
    }

    /// Moves them to the device.
    ///
    /// # Errors
    /// The device has no buffers of that size.
    pub fn finish(self, gpu: &Gpu) -> Result<Bank, GpuError> {
        let table: Vec<u32> = self.segments.iter().flat_map(Segment::numbers).collect();
        Ok(Bank {
            coding: self.coding,
            words: gpu.upload(self.words)?,
            scales: gpu.upload(self.scales)?,
            offsets: gpu.upload(self.offsets)?,
            table: gpu.numbers(&table)?,
            segments: self.segments,
        })
    }
}

/// Matrices of one coding on a device.
pub struct Bank {
    /// What kernels are compiled for.
    pub(crate) coding: Coding,
    pub(crate) words: Buffer,
    pub(crate) scales: Buffer,
    pub(crate) offsets: Buffer,
    pub(crate) table: Buffer,
    /// Where each lies.
    pub(crate) segments: Vec<Segment>,
}

impl Bank {
    /// A bank of one matrix.
    ///
    /// # Errors
    /// As [`Packer::push`] and [`Packer::finish`].
    pub fn one(gpu: &Gpu, stored: &Stored) -> Result<Self, GpuError> {
        let mut packer = Packer::new(coding_of(stored)?);
        packer.push(stored, 0, 0)?;
        packer.finish(gpu)
    }

    /// Bytes of weights, scales and offsets, padding included.
    pub fn bytes(&self) -> usize {
        4 * (self.words.len + self.scales.len + self.offsets.len)
    }
}
