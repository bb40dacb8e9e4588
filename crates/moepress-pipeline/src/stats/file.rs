//! A statistics file: safetensors, one F64 vector per name, and a header.

use crate::PipelineError;
use crate::stats::StatisticsHeader;
use moepress_checkpoint::{CheckpointError, Files, RawDtype, RawTensor, TensorFile, encode_with_text};
use moepress_stats::{Key, Of, Quantity, Statistics};
use std::path::Path;

/// The name of the header in the metadata.
const HEADER: &str = "moepress_statistics";

/// Sums, and what they are of.
#[derive(Clone, Debug, PartialEq)]
pub struct StatisticsFile {
    /// What they are of.
    pub header: StatisticsHeader,
    /// The sums.
    pub sums: Statistics,
}

impl StatisticsFile {
    /// Tokens that were measured.
    ///
    /// # Errors
    /// The file does not say.
    pub fn tokens(&self) -> Result<f64, PipelineError> {
        Ok(self.sums.scalar(Of::Model, Quantity::Tokens)?)
    }

    /// The bytes of the file: same sums, same header, same bytes.
    ///
    /// # Errors
    /// More vectors than the container can name.
    pub fn encode(&self) -> Result<Vec<u8>, PipelineError> {
        let tensor = |values: &[f64]| RawTensor {
            dtype: RawDtype::F64,
            shape: vec![values.len()],
            bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        let header = serde_json::to_string(&self.header).map_err(|e| PipelineError::Report(e.to_string()))?;
        let vectors = self.sums.iter().map(|(key, values)| (key.to_string(), tensor(values))).collect();
        Ok(encode_with_text(&vectors, HEADER, &header)?)
    }

    /// Reads a file. What it claims is checked in itself, not against a model.
    ///
    /// # Errors
    /// It is missing or malformed, or holds what no measurement comes to.
    pub fn read(files: &dyn Files, path: &Path) -> Result<Self, CheckpointError> {
        let file = TensorFile::open(files, path)?;
        let header = header(&file, path)?;
        let mut sums = Statistics::default();
        for tensor in file.tensors() {
            let (name, raw) = tensor?;
            let bad =
                |reason: String| Err(CheckpointError::bad_input(path, &format!("tensor {name:?}"), reason));
            let key: Key = match name.parse() {
                Ok(key) => key,
                Err(_) => return bad("is the name of no statistic".to_owned()),
            };
            if (raw.dtype, raw.shape.len()) != (RawDtype::F64, 1) {
                return bad(format!("{} {:?} where a vector of F64 is needed", raw.dtype, raw.shape));
            }
            let (values, _) = raw.bytes.as_chunks::<8>();
            let values = values.iter().copied().map(f64::from_le_bytes).collect();
            sums.add(key.of, key.quantity, values)
                .map_err(|e| CheckpointError::bad_input(path, "sums", e))?;
        }
        sums.check_values().map_err(|e| CheckpointError::bad_input(path, "sums", e))?;
        Ok(Self { header, sums })
    }

    /// Reads the header of a file and none of its sums.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_header(files: &dyn Files, path: &Path) -> Result<StatisticsHeader, CheckpointError> {
        header(&TensorFile::open(files, path)?, path)
    }
}

fn header(file: &TensorFile, path: &Path) -> Result<StatisticsHeader, CheckpointError> {
    match file.text(HEADER) {
        Some(text) => StatisticsHeader::parse(path, text),
        None => {
            let reason = format!("has no `{HEADER}`: not a statistics file, or of an early version");
            Err(CheckpointError::bad_input(path, "metadata", reason))
        }
    }
}
