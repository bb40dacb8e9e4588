//! Statistics as a safetensors file: one F64 vector per name.

use moepress_checkpoint::{CheckpointError, RawDtype, RawTensor, encode_shard};
use moepress_stats::Statistics;

/// The bytes of the file: same statistics, same bytes.
///
/// # Errors
/// More vectors than the container can name.
pub fn encode(stats: &Statistics) -> Result<Vec<u8>, CheckpointError> {
    let tensor = |values: &[f64]| RawTensor {
        dtype: RawDtype::F64,
        shape: vec![values.len()],
        bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    encode_shard(&stats.iter().map(|(key, values)| (key.to_string(), tensor(values))).collect())
}
