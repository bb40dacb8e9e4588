//! The golden checkpoints and what `transformers` computes from them.

#![allow(dead_code)]

use moepress_checkpoint::{Checkpoint, CheckpointError, Files, OsFiles, Shards, Source};
use moepress_model::{LayerWeights, ModelSpec, Tensor};
use moepress_quant::Stored;
use std::path::PathBuf;
use std::sync::Arc;

pub fn files() -> Arc<dyn Files> {
    Arc::new(OsFiles)
}

pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden").join(name)
}

/// All golden checkpoints, by the names of their folders.
pub fn all() -> Vec<String> {
    let entries = std::fs::read_dir(folder("")).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = entries
        .filter(|path| path.join("config.json").exists())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 40, "only {} golden checkpoints", names.len());
    names
}

pub fn model(name: &str) -> Checkpoint {
    Checkpoint::open(&files(), &folder(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub struct Reference(pub Shards);

impl Reference {
    pub fn of(name: &str) -> Self {
        Self(Shards::open(&files(), &folder(name).join("reference")).unwrap())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    pub fn get(&self, name: &str) -> Vec<f32> {
        self.0.read_plain(name).unwrap().to_f32()
    }

    pub fn integers(&self, name: &str) -> Vec<u32> {
        let raw = self.0.read(name).unwrap();
        raw.bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// Windows of token ids.
    pub fn ids(&self) -> Vec<Vec<u32>> {
        let width = self.0.read("input_ids").unwrap().shape[1];
        self.integers("input_ids").chunks_exact(width).map(<[u32]>::to_vec).collect()
    }

    /// The chosen experts and their weights per token in a layer, in the router's own order; none where the
    /// layer has no router.
    pub fn routing(&self, layer: usize) -> Option<(Vec<u32>, Vec<f32>)> {
        let prefix = format!("router.model.layers.{layer}.");
        let names: Vec<&str> =
            self.0.tensors().map(|(name, _)| name).filter(|name| name.starts_with(&prefix)).collect();
        let (index, others): (Vec<&str>, Vec<&str>) =
            names.into_iter().partition(|name| self.0.info(name).unwrap().dtype.to_string() == "I32");
        let shape = |name: &str| self.0.info(name).unwrap().shape.clone();
        let index = *index.first()?;
        let weights = others.into_iter().find(|name| shape(name) == shape(index) && name.ends_with(".1"))?;
        Some((self.integers(index), self.get(weights)))
    }
}

/// Compares vectors relative to the largest magnitude of the wanted one.
pub fn all_close(found: impl IntoIterator<Item = f64>, wanted: &[f32], tolerance: f64, what: &str) {
    let largest = wanted.iter().fold(0.0f64, |m, &w| m.max(f64::from(w).abs()));
    let mut count = 0;
    for (found, &wanted) in found.into_iter().zip(wanted) {
        let wanted = f64::from(wanted);
        assert!(
            (found - wanted).abs() <= tolerance * largest,
            "{what}[{count}]: {found} instead of {wanted}"
        );
        count += 1;
    }
    assert_eq!(count, wanted.len(), "{what}");
}

/// A golden model whose layers are changed as they are read.
pub struct Changed<'a> {
    pub model: &'a Checkpoint,
    pub change: &'a (dyn Fn(usize, &mut LayerWeights) + Sync),
}

impl Source for Changed<'_> {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
        self.model.tensor(tensor)
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights, CheckpointError> {
        let mut weights = self.model.layer(layer)?;
        (self.change)(layer, &mut weights);
        Ok(weights)
    }
}
