//! A model directory, plain or compact, as weights by their place in the model.

use crate::manifest::{MANIFEST, Manifest};
use crate::{CheckpointError, Files, RawDtype, Shards, Source, digest, read_json, read_packed};
use moepress_model::families::FAMILIES;
use moepress_model::{Config, Family, LayerWeights, ModelSpec, Tensor, family};
use moepress_quant::{Dtype, Format, Stored};
use serde_json::{Map, Value};
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
    /// Plain checkpoints only: what the family calls its tensors.
    family: Option<&'static Family>,
    /// Compact checkpoints only.
    manifest: Option<Manifest>,
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
            Some(_) => return Err(CheckpointError::bad_input(dir, "path", "is not a directory")),
            None => return Err(CheckpointError::bad_input(dir, "path", "does not exist")),
        }
        let manifest = dir.join(MANIFEST);
        match files.kind(&manifest).map_err(|e| CheckpointError::reading(&manifest, e))? {
            Some(_) => Self::open_compact(files, dir),
            None => Self::open_plain(files, dir),
        }
    }

    fn open_plain(files: &Arc<dyn Files>, dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join(CONFIG);
        let config: Map<String, Value> = read_json(files.as_ref(), &path, MIB)?;
        let bad = |e: moepress_model::ConfigError| {
            CheckpointError::bad_input(&path, &format!("field `{}`", e.field), e.reason)
        };
        let family = family(Config(&config)).map_err(bad)?;
        let mut spec = (family.spec)(Config(&config)).map_err(bad)?;
        spec.validate().map_err(|e| CheckpointError::bad_input(&path, "sizes", e))?;
        let shards = Shards::open(files, dir)?;
        let mut unused: BTreeSet<&str> = shards.tensors().map(|(name, _)| name).collect();
        for tensor in spec.tensors() {
            let name = (family.source_name)(tensor);
            let info = shards.info(&name)?;
            let dtype = plain_dtype(info.dtype).ok_or_else(|| {
                shards.bad_tensor(&name, format!("dtype {}; only BF16, F16 and F32 can be read", info.dtype))
            })?;
            shards.expect(&name, info.dtype, &spec.shape(tensor).unwrap_or_default())?;
            unused.remove(name.as_str());
            spec.set_format(tensor, Format::Plain(dtype));
        }
        if let Some(name) = unused.first() {
            let reason = format!("is not a tensor of the {} model that {CONFIG} describes", spec.family);
            return Err(shards.bad_tensor(name, reason));
        }
        let (files, dir) = (files.clone(), dir.to_owned());
        Ok(Self { files, dir, spec, shards, family: Some(family), manifest: None })
    }

    fn open_compact(files: &Arc<dyn Files>, dir: &Path) -> Result<Self, CheckpointError> {
        let manifest = Manifest::read(files.as_ref(), dir)?;
        let spec = manifest.model.clone();
        if !FAMILIES.iter().any(|family| family.model_type == spec.family) {
            let reason = format!("{:?} is not supported by this build", spec.family);
            return Err(CheckpointError::bad_input(&dir.join(MANIFEST), "model.family", reason));
        }
        let shards = Shards::open(files, dir)?;
        let mut used = shards.paths().to_vec();
        for path in TOKENIZER_FILES.map(|name| dir.join(name)) {
            if files.kind(&path).map_err(|e| CheckpointError::reading(&path, e))?.is_some() {
                used.push(path);
            }
        }
        for path in used {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !manifest.files.contains_key(name.as_ref()) {
                return Err(CheckpointError::bad_input(
                    &path,
                    "file",
                    format!("is not listed in {MANIFEST}"),
                ));
            }
        }
        if let Some(name) = manifest.unknown_format() {
            let reason = format!("{name:?} is no tensor of this model outside the experts");
            return Err(CheckpointError::bad_input(&dir.join(MANIFEST), "model.formats", reason));
        }
        let mut known = BTreeSet::new();
        for tensor in spec.tensors() {
            let name = tensor.to_string();
            let shape = spec.shape(tensor).unwrap_or_default();
            let expect = |name: String, dtype, shape: &[usize], known: &mut BTreeSet<String>| {
                shards.expect(&name, dtype, shape)?;
                known.insert(name);
                Ok::<_, CheckpointError>(())
            };
            match spec.format(tensor) {
                None => return Err(CheckpointError::bad_input(&dir.join(MANIFEST), &name, "has no format")),
                Some(Format::Plain(dtype)) => expect(name, raw_dtype(dtype), &shape, &mut known)?,
                Some(Format::Grouped(format)) => {
                    let [rows, cols] = shape[..] else {
                        return Err(shards.bad_tensor(&name, "only a matrix can be in a grouped format"));
                    };
                    let groups = [rows, format.row_groups(cols)];
                    let codes = [rows, format.row_bytes(cols)];
                    expect(format!("{name}.codes"), RawDtype::U8, &codes, &mut known)?;
                    expect(format!("{name}.scales"), RawDtype::F16, &groups, &mut known)?;
                    if format.has_offsets() {
                        expect(format!("{name}.offsets"), RawDtype::F16, &groups, &mut known)?;
                    }
                }
            }
        }
        if let Some((name, _)) = shards.tensors().find(|(name, _)| !known.contains(*name)) {
            return Err(shards.bad_tensor(name, format!("is not a tensor of the model in {MANIFEST}")));
        }
        let (files, dir) = (files.clone(), dir.to_owned());
        Ok(Self { files, dir, spec, shards, family: None, manifest: Some(manifest) })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest of a compact checkpoint.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Compares every file of a compact checkpoint with its digest; a plain one has none to compare with.
    ///
    /// # Errors
    /// A file is missing or differs.
    pub fn verify(&self) -> Result<(), CheckpointError> {
        let Some(manifest) = &self.manifest else { return Ok(()) };
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
        let name = self.family.map_or_else(|| tensor.to_string(), |family| (family.source_name)(tensor));
        let shape = self.spec.shape(tensor).unwrap_or_default();
        match (self.spec.format(tensor), &shape[..]) {
            (Some(Format::Grouped(format)), &[rows, cols]) => {
                read_packed(&self.shards, &name, format, rows, cols)
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
}

fn plain_dtype(dtype: RawDtype) -> Option<Dtype> {
    match dtype {
        RawDtype::BF16 => Some(Dtype::Bf16),
        RawDtype::F16 => Some(Dtype::F16),
        RawDtype::F32 => Some(Dtype::F32),
        _ => None,
    }
}

fn raw_dtype(dtype: Dtype) -> RawDtype {
    match dtype {
        Dtype::Bf16 => RawDtype::BF16,
        Dtype::F16 => RawDtype::F16,
        Dtype::F32 => RawDtype::F32,
    }
}
