//! Writing a compact checkpoint, shard by shard.

mod carried;

use crate::manifest::{FORMAT_VERSION, MANIFEST, Manifest};
use crate::{CheckpointError, Files, Publisher, RawTensor, encode_shard, raw_parts};
use moepress_model::{ModelSpec, Tensor};
use moepress_quant::Stored;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A compact checkpoint in the making: one shard for what is outside the layers, then one per layer, and one of
/// its own for what is carried along.
pub struct CompactWriter {
    publisher: Publisher,
    shards: usize,
    written: usize,
    total: u64,
    weight_map: BTreeMap<String, String>,
    packed: BTreeMap<Tensor, u64>,
}

impl CompactWriter {
    /// Claims the output directory `out` for a model of that many layers.
    ///
    /// # Errors
    /// It exists, cannot be made, or is owned by another run.
    pub fn new(files: &Arc<dyn Files>, out: &Path, layers: usize) -> Result<Self, CheckpointError> {
        let publisher = Publisher::new(files, out)?;
        Ok(Self {
            publisher,
            shards: layers + 1,
            written: 0,
            total: 0,
            weight_map: BTreeMap::new(),
            packed: BTreeMap::new(),
        })
    }

    /// Checks that `bytes` fit on the disk.
    ///
    /// # Errors
    /// They do not.
    pub fn reserve(&self, bytes: u64) -> Result<(), CheckpointError> {
        self.publisher.reserve(bytes)
    }

    /// Writes the next shard.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn write_shard(
        &mut self,
        tensors: impl IntoIterator<Item = (Tensor, Stored)>,
    ) -> Result<(), CheckpointError> {
        self.written += 1;
        let file = format!("model-{:05}-of-{:05}.safetensors", self.written, self.shards);
        let mut parts: BTreeMap<String, RawTensor> = BTreeMap::new();
        for (tensor, stored) in tensors {
            if let Stored::Packed(packed) = &stored
                && packed.stored_bytes() != packed.format.stored_bytes(packed.rows, packed.cols)
            {
                self.packed.insert(tensor, packed.stored_bytes());
            }
            parts.extend(raw_parts(&tensor.to_string(), stored));
        }
        for (name, raw) in &parts {
            self.total += raw.bytes.len() as u64;
            self.weight_map.insert(name.clone(), file.clone());
        }
        self.publisher.write_file(&file, &encode_shard(&parts)?)
    }

    /// Writes another file that the manifest will list.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn write_file(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.publisher.write_file(name, bytes)
    }

    /// Writes the index and the manifest; afterwards [`Self::staging`] is a checkpoint that can be opened.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn write_manifest(
        &mut self,
        model: &ModelSpec,
        inputs: BTreeMap<String, BTreeMap<String, String>>,
        recipe: &str,
    ) -> Result<(), CheckpointError> {
        let index = json!({ "metadata": { "total_size": self.total }, "weight_map": self.weight_map });
        self.publisher.write_file("model.safetensors.index.json", &pretty(&index)?)?;
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            written_by: format!("moepress {}", env!("CARGO_PKG_VERSION")),
            model: model.clone(),
            inputs,
            recipe: recipe.to_owned(),
            files: self.publisher.written().clone(),
        };
        self.publisher.write_file(MANIFEST, &pretty(&manifest)?)
    }

    /// `model` with the sizes that its tensors have in the shards written so far.
    pub fn sized(&self, model: &ModelSpec) -> ModelSpec {
        ModelSpec { packed: self.packed.clone(), ..model.clone() }
    }

    /// Makes the directory where the files are until they are published, for what has to lie in it for a while.
    ///
    /// # Errors
    /// The disk fails.
    pub fn make_staging(&mut self) -> Result<(), CheckpointError> {
        self.publisher.make_staging()
    }

    /// Where the files are until they are published.
    pub fn staging(&self) -> &Path {
        self.publisher.staging()
    }

    /// Moves the checkpoint into place.
    ///
    /// # Errors
    /// The disk fails, or something now exists in its place.
    pub fn publish(self) -> Result<(), CheckpointError> {
        self.publisher.finish()
    }
}

fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>, CheckpointError> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|e| CheckpointError::Encode { reason: e.to_string() })?;
    bytes.push(b'\n');
    Ok(bytes)
}
