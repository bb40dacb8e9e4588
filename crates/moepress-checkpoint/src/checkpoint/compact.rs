//! Opening a compact checkpoint: its manifest says which tensors there are.

use super::{Checkpoint, Layout, TOKENIZER_FILES, carried};
use crate::manifest::{MANIFEST, Manifest};
use crate::shard::{low_rank_parts, packed_parts};
use crate::{CheckpointError, Files, RawDtype, Shards, TensorInfo};
use moepress_model::families::FAMILIES;
use moepress_quant::{Dtype, Format};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

impl Checkpoint {
    pub(super) fn open_compact(files: &Arc<dyn Files>, dir: &Path) -> Result<Self, CheckpointError> {
        let manifest = Manifest::read(files.as_ref(), dir)?;
        let mut spec = manifest.model.clone();
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
            match spec.format(tensor) {
                None => return Err(CheckpointError::bad_input(&dir.join(MANIFEST), &name, "has no format")),
                Some(Format::Plain(dtype)) => {
                    shards.expect(&name, raw_dtype(dtype), &shape)?;
                    known.insert(name);
                }
                Some(Format::Grouped(format)) => {
                    let [rows, cols] = shape[..] else {
                        return Err(shards.bad_tensor(&name, "only a matrix can be in a grouped format"));
                    };
                    let (_, parts) = packed_parts(&shards, &name, format, rows, cols)?;
                    let lengths = parts.iter().map(|part| shards.info(part).map(TensorInfo::bytes));
                    let bytes = lengths.sum::<Result<_, _>>()?;
                    if bytes != format.stored_bytes(rows, cols) {
                        spec.packed.insert(tensor, bytes);
                    }
                    known.extend(parts);
                }
                Some(Format::LowRank(format)) => {
                    let [rows, cols] = shape[..] else {
                        return Err(shards.bad_tensor(&name, "only a matrix can be of low rank"));
                    };
                    known.extend(low_rank_parts(&shards, &name, format, [rows, cols])?);
                }
            }
        }
        carried::check(&shards, &spec.carried)?;
        for name in spec.carried.keys() {
            if !known.insert(name.clone()) {
                let reason = format!("{name:?} is a tensor of the model itself");
                return Err(CheckpointError::bad_input(&dir.join(MANIFEST), "model.carried", reason));
            }
        }
        if let Some((name, _)) = shards.tensors().find(|(name, _)| !known.contains(*name)) {
            return Err(shards.bad_tensor(name, format!("is not a tensor of the model in {MANIFEST}")));
        }
        let (files, dir, notes) = (files.clone(), dir.to_owned(), shards.notes().to_vec());
        Ok(Self { files, dir, spec, shards, notes, layout: Layout::Compact(Box::new(manifest)) })
    }
}

fn raw_dtype(dtype: Dtype) -> RawDtype {
    match dtype {
        Dtype::Bf16 => RawDtype::BF16,
        Dtype::F16 => RawDtype::F16,
        Dtype::F32 => RawDtype::F32,
    }
}
