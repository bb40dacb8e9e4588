//! A model directory, plain or compact, as weights by their place in the model.

mod carried;
mod compact;
mod plain;
#[cfg(test)]
mod tests;

use crate::location::Location;
use crate::manifest::{MANIFEST, Manifest};
use crate::shard::read_low_rank;
use crate::{CheckpointError, Files, RawTensor, Shards, Share, Source, digest, read_packed};
use moepress_model::{LayerWeights, ModelSpec, Tensor};
use moepress_quant::{Factored, Format, Stored};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
const CONFIG: &str = "config.json";
const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

/// An opened model directory: headers checked, no weight read.
pub struct Checkpoint {
    files: Arc<dyn Files>,
    dir: PathBuf,
    spec: ModelSpec,
    shards: Shards,
    layout: Layout,
    notes: Vec<String>,
}

/// How the tensors lie in the files.
enum Layout {
    /// As the family has them.
    Plain(BTreeMap<Tensor, Location>),
    /// As the manifest says.
    Compact(Box<Manifest>),
}

impl Checkpoint {
    /// Opens a directory: compact when it holds `moepress.json`, else plain. Every tensor of the model must
    /// be there in the right shape, and nothing else.
    ///
    /// # Errors
    /// The directory is no checkpoint, of an unknown family or a future version, or a tensor is missing,
    /// in excess or misshapen.
    pub fn open(files: &Arc<dyn Files>, dir: &Path) -> Result<Self, CheckpointError> {
        match files.kind(dir).map_err(|e| CheckpointError::reading(dir, e))? {
            Some(crate::Kind::Directory) => {}
            // A link to a directory is as good: models are often kept elsewhere.
            Some(_) if matches!(files.kind(&dir.join(".")), Ok(Some(crate::Kind::Directory))) => {}
            Some(_) => return Err(CheckpointError::bad_input(dir, "path", "is not a directory")),
            None => return Err(CheckpointError::bad_input(dir, "path", "does not exist")),
        }
        let manifest = dir.join(MANIFEST);
        match files.kind(&manifest).map_err(|e| CheckpointError::reading(&manifest, e))? {
            Some(_) => Self::open_compact(files, dir),
            None => Self::open_plain(files, dir),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file system it is in.
    pub fn files(&self) -> &dyn Files {
        self.files.as_ref()
    }

    /// The manifest of a compact checkpoint.
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.layout {
            Layout::Compact(manifest) => Some(manifest),
            Layout::Plain(_) => None,
        }
    }

    /// What is worth knowing about how the model is read, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bytes that a tensor takes in the files, scales included: what [`ModelSpec::stored_bytes`] says of it unless it
    /// is stored in a format that it is not read as.
    pub fn disk_bytes(&self, tensor: Tensor) -> u64 {
        match &self.layout {
            Layout::Plain(all) => all.get(&tensor).map_or(0, |location| location.disk_bytes(&self.shards)),
            Layout::Compact(_) => self.spec.stored_bytes(tensor),
        }
    }

    /// The format that a tensor has in the files; none when the model does not have it.
    pub fn disk_format(&self, tensor: Tensor) -> Option<String> {
        match &self.layout {
            Layout::Plain(all) => all.get(&tensor).map(Location::format),
            Layout::Compact(_) => self.spec.format(tensor).map(|format| format.to_string()),
        }
    }

    /// Compares every file of a compact checkpoint with its digest; a plain one has none to compare with.
    ///
    /// # Errors
    /// A file is missing or differs.
    pub fn verify(&self) -> Result<(), CheckpointError> {
        let Some(manifest) = self.manifest() else { return Ok(()) };
        for (name, record) in &manifest.files {
            let path = self.dir.join(name);
            if digest(self.files.as_ref(), &path)? != record.sha256 {
                let reason =
                    format!("differs from its digest in {MANIFEST} (the file was changed or damaged)");
                return Err(CheckpointError::bad_input(&path, "contents", reason));
            }
        }
        Ok(())
    }

    /// The tokenizer and generation files that are there, by name.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn tokenizer_files(&self) -> Result<BTreeMap<String, Vec<u8>>, CheckpointError> {
        let mut found = BTreeMap::new();
        for name in TOKENIZER_FILES {
            let path = self.dir.join(name);
            if self.files.kind(&path).map_err(|e| CheckpointError::reading(&path, e))?.is_some() {
                found.insert(name.to_owned(), crate::read_file(self.files.as_ref(), &path, 64 * MIB)?);
            }
        }
        Ok(found)
    }

    /// SHA-256 of every file that decides what the model is, by name.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn input_digests(&self) -> Result<BTreeMap<String, String>, CheckpointError> {
        let fixed = [CONFIG, MANIFEST, "tokenizer.json", "model.safetensors.index.json"];
        let mut paths: BTreeSet<PathBuf> = self.shards.paths().iter().cloned().collect();
        for path in fixed.map(|name| self.dir.join(name)) {
            if self.files.kind(&path).map_err(|e| CheckpointError::reading(&path, e))?.is_some() {
                paths.insert(path);
            }
        }
        let entry = |path: PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, digest(self.files.as_ref(), &path)?))
        };
        paths.into_iter().map(entry).collect()
    }

    fn read(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
        let name = tensor.to_string();
        if let Layout::Plain(locations) = &self.layout {
            let missing = || self.shards.bad_tensor(&name, "is not a tensor of the model");
            return locations.get(&tensor).ok_or_else(missing)?.read(&self.shards);
        }
        let shape = self.spec.shape(tensor).unwrap_or_default();
        match (self.spec.format(tensor), &shape[..]) {
            (Some(Format::Grouped(format)), &[rows, cols]) => {
                read_packed(&self.shards, &name, format, rows, cols)
            }
            (Some(Format::LowRank(format)), &[rows, cols]) => {
                read_low_rank(&self.shards, &name, format, [rows, cols])
            }
            _ => {
                let stored = Stored::Plain(self.shards.read_plain(&name)?);
                stored.validate().map_err(|e| self.shards.bad_tensor(&name, e))?;
                Ok(stored)
            }
        }
    }
}

impl Source for Checkpoint {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
        self.read(tensor)
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights, CheckpointError> {
        let read = |part| Ok((part, self.read(Tensor::Layer(layer, part))?));
        self.spec.parts(layer).into_iter().map(read).collect()
    }

    fn share(&self, layer: usize, share: &Share) -> Result<LayerWeights, CheckpointError> {
        let read = |part| Ok((part, self.read(Tensor::Layer(layer, part))?));
        self.spec.parts(layer).into_iter().filter(|part| share.holds(*part)).map(read).collect()
    }

    fn scattered(&self) {
        self.shards.scattered();
    }

    fn reuse(&self, weights: Stored) {
        match weights {
            Stored::Plain(plain) => self.shards.reuse(plain.bytes),
            Stored::Packed(packed) => self.shards.reuse(packed.codes.into_bytes()),
            Stored::Factored(Factored { left, right, rest, .. }) => {
                [left, right, rest].into_iter().for_each(|part| self.reuse(*part));
            }
        }
    }

    fn carried(&self, name: &str) -> Result<RawTensor, CheckpointError> {
        match self.spec.carried.contains_key(name) {
            true => self.shards.read(name),
            false => Err(self.shards.bad_tensor(name, "is not carried along")),
        }
    }
}
