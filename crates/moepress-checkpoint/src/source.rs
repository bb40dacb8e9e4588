//! A checkpoint directory: its safetensors files as one set of named tensors.
//!
//! Files may be symbolic links, as in download caches, but must lead to regular files; the names an index
//! gives cannot leave the directory.

mod index;

use self::index::{INDEX, Index, find_single, read_index};
use crate::header::Header;
use crate::input::buffer;
use crate::spare::Spare;
use crate::{CheckpointError, Files, RawDtype, RawTensor};
use moepress_quant::{Dtype, Plain};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a tensor is and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: RawDtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its file, as an index into [`Shards::paths`].
    pub shard: usize,
    /// Its bytes in that file.
    pub range: Range<u64>,
}

impl TensorInfo {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The tensors of a checkpoint directory, every header checked and no weight read.
pub struct Shards {
    files: Arc<dyn Files>,
    dir: PathBuf,
    paths: Vec<PathBuf>,
    lens: Vec<u64>,
    tensors: BTreeMap<String, TensorInfo>,
    notes: Vec<String>,
    spare: Spare,
    scattered: AtomicBool,
}

impl Shards {
    /// Finds the files of `dir` (by `model.safetensors.index.json`, else `model.safetensors`, else the only
    /// `.safetensors` there is) and checks their headers.
    ///
    /// # Errors
    /// A malformed header or index, a name that leaves the directory, a file or tensor that is missing, in
    /// excess or twice, or no safetensors at all.
    pub fn open(files: &Arc<dyn Files>, dir: &Path) -> Result<Self, CheckpointError> {
        let listed = files.list(dir).map_err(|e| CheckpointError::reading(dir, e))?;
        let names: BTreeSet<&str> = listed.iter().filter_map(|name| name.to_str()).collect();
        let index = match names.contains(INDEX) {
            true => Some(read_index(files.as_ref(), dir, &names)?),
            false => None,
        };
        let shard_names = match &index {
            Some(index) => index.weight_map.values().map(String::as_str).collect(),
            None => BTreeSet::from([find_single(dir, &names)?]),
        };
        let mut shards = Self {
            files: files.clone(),
            dir: dir.into(),
            paths: vec![],
            lens: vec![],
            tensors: BTreeMap::new(),
            notes: vec![],
            spare: Spare::default(),
            scattered: AtomicBool::new(false),
        };
        for name in shard_names {
            shards.add(dir.join(name))?;
        }
        if let Some(index) = &index {
            shards.check_index(index)?;
        }
        Ok(shards)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its safetensors files, sorted by name.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What is odd about the files without making them unusable, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn info(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        self.tensors.get(name).ok_or_else(|| self.bad_tensor(name, "missing"))
    }

    /// Whether there is a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Checks that `name` is a tensor of that type and shape.
    ///
    /// # Errors
    /// There is none, or it is another.
    pub fn expect(&self, name: &str, dtype: RawDtype, shape: &[usize]) -> Result<(), CheckpointError> {
        let info = self.info(name)?;
        if (info.dtype, info.shape.as_slice()) == (dtype, shape) {
            return Ok(());
        }
        let found = format!("{} {:?} instead of {dtype} {shape:?}", info.dtype, info.shape);
        Err(self.bad_tensor(name, found))
    }

    /// Reads a tensor.
    ///
    /// # Errors
    /// There is none of that name, or its file has changed since it was opened.
    pub fn read(&self, name: &str) -> Result<RawTensor, CheckpointError> {
        let info = self.info(name)?;
        let bytes = self.read_range(info.shard, info.range.clone())?;
        Ok(RawTensor { dtype: info.dtype, shape: info.shape.clone(), bytes })
    }

    /// Reads the slice `rows` of a tensor's outermost dimension.
    ///
    /// # Errors
    /// As [`Shards::read`]; or `rows` are not rows of the tensor.
    pub fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<RawTensor, CheckpointError> {
        let info = self.info(name)?;
        let Some((&count, inner)) = info.shape.split_first().filter(|_| rows.start <= rows.end) else {
            return Err(self.bad_tensor(name, format_args!("no rows {rows:?}")));
        };
        if rows.end > count {
            return Err(self.bad_tensor(name, format_args!("has {count} rows, {rows:?} were asked for")));
        }
        let row_bytes = info.bytes().checked_div(count as u64).unwrap_or(0);
        let at = |row: usize| info.range.start + row as u64 * row_bytes;
        let bytes = self.read_range(info.shard, at(rows.start)..at(rows.end))?;
        Ok(RawTensor { dtype: info.dtype, shape: [&[rows.len()], inner].concat(), bytes })
    }

    /// Reads a tensor of plain numbers: F32, F16 or BF16. Their values are not checked.
    ///
    /// # Errors
    /// As [`Shards::read`]; or the tensor has another type.
    pub fn read_plain(&self, name: &str) -> Result<Plain, CheckpointError> {
        let dtype = self.plain_dtype(name)?;
        self.read(name).map(|raw| Plain { dtype, shape: raw.shape, bytes: raw.bytes })
    }

    /// Reads the slice `rows` of the outermost dimension of a tensor of plain numbers.
    ///
    /// # Errors
    /// As [`Shards::read_rows`]; or the tensor has another type.
    pub fn read_plain_rows(&self, name: &str, rows: Range<usize>) -> Result<Plain, CheckpointError> {
        let dtype = self.plain_dtype(name)?;
        self.read_rows(name, rows).map(|raw| Plain { dtype, shape: raw.shape, bytes: raw.bytes })
    }

    /// Memory that is no longer needed, for tensors that are read from now on.
    pub fn reuse(&self, bytes: Vec<u8>) {
        self.spare.give(bytes);
    }

    /// From now on tensors are read here and there, so that nothing beyond them is worth reading.
    pub fn scattered(&self) {
        self.scattered.store(true, Ordering::Relaxed);
    }

    /// The error that tensor `name`, or the one whose parts are called `name.…`, is wrong for `reason`.
    pub fn bad_tensor(&self, name: &str, reason: impl ToString) -> CheckpointError {
        let prefix = format!("{name}.");
        let part = self.tensors.range(prefix.clone()..).next().filter(|(part, _)| part.starts_with(&prefix));
        let info = self.tensors.get(name).or(part.map(|(_, info)| info));
        let file = info.map_or(&self.dir, |info| &self.paths[info.shard]);
        CheckpointError::bad_input(file, &format!("tensor {name:?}"), reason)
    }

    fn plain_dtype(&self, name: &str) -> Result<Dtype, CheckpointError> {
        match self.info(name)?.dtype {
            RawDtype::BF16 => Ok(Dtype::Bf16),
            RawDtype::F16 => Ok(Dtype::F16),
            RawDtype::F32 => Ok(Dtype::F32),
            other => {
                Err(self.bad_tensor(name, format_args!("dtype {other} where BF16, F16 or F32 is needed")))
            }
        }
    }

    fn add(&mut self, path: PathBuf) -> Result<(), CheckpointError> {
        let file = self.files.open(&path).map_err(|e| CheckpointError::reading(&path, e))?;
        let header = Header::read(file.as_ref(), &path)?;
        let shard = self.paths.len();
        for (name, info) in header.tensors {
            let (begin, end) = info.data_offsets;
            let range = header.data_start + begin as u64..header.data_start + end as u64;
            if self.tensors.contains_key(&name) {
                let reason = format!("also in {}", path.display());
                return Err(self.bad_tensor(&name, reason));
            }
            self.tensors.insert(name, TensorInfo { dtype: info.dtype, shape: info.shape, shard, range });
        }
        self.lens.push(file.len());
        self.paths.push(path);
        Ok(())
    }

    fn check_index(&mut self, index: &Index) -> Result<(), CheckpointError> {
        let map = &index.weight_map;
        for (name, shard) in map {
            let found = self.info(name).map(|info| self.paths[info.shard].file_name());
            if found.ok().flatten() != Some(shard.as_ref()) {
                let reason = format!("not in {shard}, where {INDEX} says it is");
                return Err(self.bad_tensor(name, reason));
            }
        }
        if let Some(name) = self.tensors.keys().find(|&name| !map.contains_key(name)) {
            return Err(self.bad_tensor(name, format_args!("not listed in {INDEX}")));
        }
        let total: u64 = self.tensors.values().map(|info| info.range.end - info.range.start).sum();
        if let Some(said) = index.total_size().filter(|&said| said != total as f64) {
            self.notes.push(format!("{INDEX} says total_size {said}, the tensors have {total} bytes"));
        }
        Ok(())
    }

    fn read_range(&self, shard: usize, range: Range<u64>) -> Result<Vec<u8>, CheckpointError> {
        let path = &self.paths[shard];
        let reading = |e| CheckpointError::reading(path, e);
        // Opened anew: a checkpoint may have more files than a process may hold open.
        let file = self.files.open(path).map_err(reading)?;
        if file.len() != self.lens[shard] {
            let reason =
                format_args!("changed while in use: {} bytes instead of {}", file.len(), self.lens[shard]);
            return Err(CheckpointError::bad_input(path, "file", reason));
        }
        let len = range.end - range.start;
        let spare = usize::try_from(len).ok().and_then(|len| self.spare.take(len));
        if self.scattered.load(Ordering::Relaxed) {
            file.scattered();
        }
        let mut bytes = spare.map_or_else(|| buffer(path, len), Ok)?;
        file.read_at(range.start, &mut bytes).map_err(reading)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
