//! The golden checkpoints.

use crate::common::root;
use moepress_checkpoint::{Files, OsFiles, Shards};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder of a golden checkpoint.
pub fn folder(name: &str) -> PathBuf {
    root().join("tests/fixtures/golden").join(name)
}

/// All golden checkpoints, by the names of their folders.
pub fn all() -> Vec<String> {
    let entries = fs::read_dir(folder("")).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 41, "only {} golden checkpoints", names.len());
    names
}

/// Its `config.json`.
pub fn config(name: &str) -> Value {
    serde_json::from_slice(&fs::read(folder(name).join("config.json")).unwrap()).unwrap()
}

/// The safetensors files in a directory.
pub fn shards(dir: &Path) -> Shards {
    let files: Arc<dyn Files> = Arc::new(OsFiles);
    Shards::open(&files, dir).unwrap()
}

/// A tensor of f32 as bits.
pub fn bits(shards: &Shards, name: &str) -> Vec<u32> {
    let raw = shards.read(name).unwrap();
    raw.bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

/// A text as a command-line word.
pub fn word(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}
