//! Where a plain checkpoint holds a tensor, and how it is read from there.

mod cut;
mod find;
mod fp8;
mod mxfp4;

use self::cut::Cut;
use crate::{CheckpointError, RawDtype, Shards};
use moepress_quant::{Dtype, Format, Plain, Stored};

/// A tensor found on disk, its type and shape checked.
pub(crate) struct Location {
    /// What it would be called in full; blocks of 4 bits add their endings.
    name: String,
    encoding: Encoding,
    /// None for a whole tensor.
    cut: Option<Cut>,
    shape: Vec<usize>,
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As they are.
    Plain(Dtype),
    /// FP8 E4M3 in blocks with scales; read as bf16.
    Fp8,
    /// MXFP4 blocks; read as bf16.
    Mxfp4,
}

impl Location {
    /// The tensors it is read from.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = &self.name;
        match self.encoding {
            Encoding::Plain(_) => vec![name.clone()],
            Encoding::Fp8 => vec![name.clone(), self.with(fp8::SCALES)],
            Encoding::Mxfp4 => vec![self.with(mxfp4::BLOCKS), self.with(mxfp4::SCALES)],
        }
    }

    /// How it is stored.
    pub(crate) const fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// What it is stored as, in a word.
    pub(crate) fn format(&self) -> String {
        match self.encoding {
            Encoding::Plain(dtype) => Format::Plain(dtype).to_string(),
            Encoding::Fp8 => "fp8".to_owned(),
            Encoding::Mxfp4 => "mxfp4".to_owned(),
        }
    }

    /// Its bytes on disk, scales included; of a fused tensor its share of them.
    pub(crate) fn disk_bytes(&self, shards: &Shards) -> u64 {
        let count = |shape: &[usize]| shape.iter().map(|&n| n as u64).product::<u64>();
        let bytes = |name: &String| shards.info(name).map_or(0, |info| info.range.end - info.range.start);
        let all: u64 = self.names().iter().map(bytes).sum();
        match &self.cut {
            None => all,
            Some(cut) => {
                let share = u128::from(all) * u128::from(count(&self.shape));
                (share / u128::from(count(&cut.disk_shape()).max(1))) as u64
            }
        }
    }

    /// The type it is read as.
    pub(crate) const fn dtype(&self) -> Dtype {
        match self.encoding {
            Encoding::Plain(dtype) => dtype,
            Encoding::Fp8 | Encoding::Mxfp4 => Dtype::Bf16,
        }
    }

    /// Reads it: of a fused tensor only the bytes of its expert. Every number is finite.
    ///
    /// # Errors
    /// The file has changed, or it holds a number that is not finite, a code or a scale that is none.
    pub(crate) fn read(&self, shards: &Shards) -> Result<Stored, CheckpointError> {
        let bytes = match self.encoding {
            Encoding::Plain(dtype) => self.of(self.bytes(shards, &self.name)?, dtype.bytes()),
            Encoding::Fp8 => self.of(self.fp8(shards)?, Dtype::Bf16.bytes()),
            Encoding::Mxfp4 => self.mxfp4(shards)?,
        };
        let stored = Stored::Plain(Plain { dtype: self.dtype(), shape: self.shape.clone(), bytes });
        stored.validate().map_err(|e| self.bad(shards, &self.names()[0], &e))?;
        Ok(stored)
    }

    fn fp8(&self, shards: &Shards) -> Result<Vec<u8>, CheckpointError> {
        let name = self.with(fp8::SCALES);
        let dtype = match shards.info(&name)?.dtype {
            RawDtype::BF16 => Dtype::Bf16,
            _ => Dtype::F32,
        };
        let bytes = self.bytes(shards, &name)?;
        let shape = vec![bytes.len() / dtype.bytes()];
        let scales = Plain { dtype, shape, bytes }.to_f32();
        if let Some(index) = scales.iter().position(|scale| !(scale.is_finite() && *scale > 0.0)) {
            let reason = format!("element {index} is {}; a scale must be a number above 0", scales[index]);
            return Err(self.bad(shards, &name, &reason));
        }
        let cols = self.disk_matrix().map_or(1, |(_, cols)| cols);
        fp8::decode(&self.bytes(shards, &self.name)?, cols, &scales)
            .map_err(|index| self.bad(shards, &self.name, &format!("element {index} is NaN")))
    }

    fn mxfp4(&self, shards: &Shards) -> Result<Vec<u8>, CheckpointError> {
        let cols = self.shape.last().copied().unwrap_or(1);
        let (blocks, scales) = (self.with(mxfp4::BLOCKS), self.with(mxfp4::SCALES));
        let lines = |name: &str, width| {
            let bytes = self.bytes(shards, name)?;
            Ok::<_, CheckpointError>(self.cut.as_ref().map_or(vec![], |cut| cut.lines(bytes, width)))
        };
        let picked = lines(&scales, cols / mxfp4::BLOCK)?;
        mxfp4::decode(&lines(&blocks, cols / 2)?, &picked, cols)
            .map_err(|e| self.bad(shards, &scales, &format!("element {} is NaN (255)", e.0)))
    }

    /// Rows and columns as they lie on disk; `None` for a vector.
    fn disk_matrix(&self) -> Option<(usize, usize)> {
        match (&self.cut, &self.shape[..]) {
            (Some(cut), [_, _]) => Some(cut.disk_matrix()),
            (None, &[rows, cols]) => Some((rows, cols)),
            _ => None,
        }
    }

    fn with(&self, ending: &str) -> String {
        format!("{}{ending}", self.name)
    }

    fn of(&self, bytes: Vec<u8>, size: usize) -> Vec<u8> {
        match &self.cut {
            Some(cut) => cut.of(bytes, size),
            None => bytes,
        }
    }

    fn bytes(&self, shards: &Shards, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let raw = match &self.cut {
            Some(Cut { expert, .. }) => shards.read_rows(name, *expert..expert + 1)?,
            None => shards.read(name)?,
        };
        Ok(raw.bytes)
    }

    /// An error whose positions count from the start of what the expert has.
    fn bad(&self, shards: &Shards, name: &str, reason: &dyn std::fmt::Display) -> CheckpointError {
        match &self.cut {
            Some(cut) => shards.bad_tensor(name, format!("expert {}: {reason}", cut.expert)),
            None => shards.bad_tensor(name, reason),
        }
    }
}
