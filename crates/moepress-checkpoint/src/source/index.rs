//! Which files make up a checkpoint.

use crate::{CheckpointError, Files, read_json};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub(super) const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
const INDEX_BYTES: u64 = 64 << 20;

/// What an index says.
#[derive(serde::Deserialize)]
pub(super) struct Index {
    /// The file of every tensor.
    pub weight_map: BTreeMap<String, String>,
    /// Read as whatever it is: nothing depends on it.
    #[serde(default)]
    metadata: Value,
}

impl Index {
    /// The bytes of all tensors, where it says so.
    pub(super) fn total_size(&self) -> Option<f64> {
        self.metadata.get("total_size")?.as_f64()
    }
}

/// The index, with every file name in it checked, before any of them is opened.
pub(super) fn read_index(
    files: &dyn Files,
    dir: &Path,
    names: &BTreeSet<&str>,
) -> Result<Index, CheckpointError> {
    let path = dir.join(INDEX);
    let bad = |field: &str, reason: &str| Err(CheckpointError::bad_input(&path, field, reason));
    let index: Index = read_json(files, &path, INDEX_BYTES)?;
    let weight_map = &index.weight_map;
    if weight_map.is_empty() {
        return bad("weight_map", "empty");
    }
    for (name, shard) in weight_map {
        let field = format!("weight_map[{name:?}]");
        if !is_shard_name(shard) {
            return bad(
                &field,
                &format!("{shard:?} is not the plain name of a .safetensors file beside the index"),
            );
        }
        if !names.contains(shard.as_str()) {
            return bad(&field, &format!("{shard} is missing (is the download complete?)"));
        }
    }
    let used: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    // Other safetensors may lie beside the checkpoint; one named as a part of a set belongs to it.
    match names.iter().find(|name| name.contains("-of-") && is_shard_name(name) && !used.contains(*name)) {
        Some(name) => bad("weight_map", &format!("does not list the shard {name} (mixed downloads?)")),
        None => Ok(index),
    }
}

/// ASCII, one path component, no more than 255 bytes.
fn is_shard_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'\\' | b':');
    name.len() <= 255 && name.bytes().all(plain) && name.ends_with(".safetensors")
}

/// The one file of a checkpoint without an index.
pub(super) fn find_single<'a>(dir: &Path, names: &BTreeSet<&'a str>) -> Result<&'a str, CheckpointError> {
    if let Some(name) = names.get(SINGLE) {
        return Ok(name);
    }
    let ending = |endings: &[&str]| {
        names.iter().copied().filter(|name| endings.iter().any(|end| name.ends_with(end))).collect::<Vec<_>>()
    };
    let bad = |reason: &str| Err(CheckpointError::bad_input(dir, "weights", reason));
    match ending(&[".safetensors"])[..] {
        [name] => Ok(name),
        [] if ending(&[".bin", ".pt", ".pth"]).is_empty() => bad("no .safetensors file"),
        [] => bad("safetensors required: pickled weights can run code and are not read (convert them first)"),
        _ => bad(&format!("several .safetensors files and no {INDEX} to say which belong together")),
    }
}
