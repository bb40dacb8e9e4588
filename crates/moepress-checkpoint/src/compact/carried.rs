//! The shard of tensors that are carried along: written one tensor at a time, for they may be many gigabytes.

use super::CompactWriter;
use crate::{CheckpointError, RawDtype, Source};
use moepress_model::Carried;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as DtypeError;
use std::collections::{BTreeMap, HashMap};

/// The file that they lie in.
const FILE: &str = "carried.safetensors";
const ALIGNMENT: usize = 8;

impl CompactWriter {
    /// Writes the tensors that the description of `source` says are carried along, bytes unchanged, under their
    /// names in the original; nothing when there are none.
    ///
    /// # Errors
    /// One of them cannot be read or is not what the description says; the disk is full or fails.
    pub fn write_carried(&mut self, source: &dyn Source) -> Result<(), CheckpointError> {
        let carried = &source.spec().carried;
        if carried.is_empty() {
            return Ok(());
        }
        let tensors = lay_out(carried)?;
        let mut file = self.publisher.create(FILE)?;
        file.write(&header(&tensors)?)?;
        for (name, info) in tensors {
            let raw = source.carried(&name)?;
            let bytes = info.data_offsets.1 - info.data_offsets.0;
            if (raw.dtype, &raw.shape, raw.bytes.len()) != (info.dtype, &info.shape, bytes) {
                return Err(encode(&name, "is not what the description of the model says"));
            }
            file.write(&raw.bytes)?;
            self.total += bytes as u64;
            self.weight_map.insert(name, FILE.to_owned());
        }
        file.close()
    }
}

/// The tensors in the order of the file: as `encode_shard` orders them, the widest elements first.
fn lay_out(carried: &BTreeMap<String, Carried>) -> Result<Vec<(String, TensorInfo)>, CheckpointError> {
    let typed = |(name, carried): (&String, &Carried)| {
        let dtype = RawDtype::deserialize(carried.dtype.as_str().into_deserializer())
            .map_err(|e: DtypeError| encode(name, &e.to_string()))?;
        let bytes = usize::try_from(carried.bytes).map_err(|e| encode(name, &e.to_string()))?;
        Ok((name.clone(), TensorInfo { dtype, shape: carried.shape.clone(), data_offsets: (0, bytes) }))
    };
    let mut tensors = carried.iter().map(typed).collect::<Result<Vec<_>, CheckpointError>>()?;
    tensors.sort_by(|(a, x), (b, y)| y.dtype.cmp(&x.dtype).then_with(|| a.cmp(b)));
    let mut begin = 0;
    for (_, info) in &mut tensors {
        let end = begin + info.data_offsets.1;
        info.data_offsets = (begin, end);
        begin = end;
    }
    Ok(tensors)
}

/// Length and header of the file, as the container's own writer makes them.
fn header(tensors: &[(String, TensorInfo)]) -> Result<Vec<u8>, CheckpointError> {
    let failed = |reason: String| CheckpointError::Encode { reason };
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(metadata), tensors.to_vec()).map_err(|e| failed(e.to_string()))?;
    let mut text = serde_json::to_vec(&metadata).map_err(|e| failed(e.to_string()))?;
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    Ok([&(text.len() as u64).to_le_bytes()[..], &text].concat())
}

fn encode(name: &str, reason: &str) -> CheckpointError {
    CheckpointError::Encode { reason: format!("tensor {name:?}: {reason}") }
}
