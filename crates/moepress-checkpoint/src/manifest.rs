//! `moepress.json`: what a compact checkpoint is. Specified in `docs/format.md`.

use crate::{CheckpointError, FileRecord, Files, Kind, read_json};
use moepress_model::ModelSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The name of the manifest in a compact checkpoint.
pub const MANIFEST: &str = "moepress.json";
/// The version of the format this build writes and the latest it reads.
pub const FORMAT_VERSION: u64 = 3;
const MAX_BYTES: u64 = 256 << 20;

/// The description of a compact checkpoint. Nothing in it depends on when, where or with how many threads
/// it was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format.
    pub format_version: u64,
    /// Version of moepress that wrote it.
    pub written_by: String,
    /// The model after all edits, with the format of every tensor.
    pub model: ModelSpec,
    /// SHA-256 of everything the result was computed from: `model` and `calibration` files by name.
    pub inputs: BTreeMap<String, BTreeMap<String, String>>,
    /// The recipe as resolved, YAML.
    pub recipe: String,
    /// Length and SHA-256 of every other file of the checkpoint, the reports excepted.
    pub files: BTreeMap<String, FileRecord>,
}

impl Manifest {
    /// The first name in the table of formats that is no tensor of the model.
    pub(crate) fn unknown_format(&self) -> Option<&str> {
        let known: BTreeSet<String> = self.model.tensors().iter().map(ToString::to_string).collect();
        self.model.formats.keys().find(|name| !known.contains(*name)).map(String::as_str)
    }

    /// Reads and checks the manifest of the checkpoint in `dir`, and the lengths of the files it lists.
    ///
    /// # Errors
    /// It is malformed, of a future version, or a file is missing or of another length.
    pub fn read(files: &dyn Files, dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join(MANIFEST);
        let bad = |field: &str, reason: String| CheckpointError::bad_input(&path, field, reason);
        let value: Value = read_json(files, &path, MAX_BYTES)?;
        // The version first: another version may have other fields.
        match value.get("format_version").and_then(Value::as_u64) {
            Some(1..=FORMAT_VERSION) => {}
            Some(version) if version > FORMAT_VERSION => {
                let reason =
                    format!("is {version}, this build reads up to {FORMAT_VERSION} (use a newer moepress)");
                return Err(bad("format_version", reason));
            }
            _ => return Err(bad("format_version", format!("must be an integer from 1 to {FORMAT_VERSION}"))),
        }
        let manifest: Self = serde_json::from_value(value).map_err(|e| bad("JSON", e.to_string()))?;
        manifest.model.validate().map_err(|e| bad("model", e.to_string()))?;
        for (name, record) in &manifest.files {
            let file = dir.join(name);
            let plain = Path::new(name).file_name() == Some(name.as_ref());
            if !plain
                || files.kind(&file).map_err(|e| CheckpointError::reading(&file, e))? != Some(Kind::File)
            {
                return Err(bad("files", format!("{name:?} is not a file of this directory")));
            }
            let found = files.open(&file).map_err(|e| CheckpointError::reading(&file, e))?.len();
            if found != record.bytes {
                let reason =
                    format!("is {found} bytes, {MANIFEST} says {} (truncated or changed)", record.bytes);
                return Err(CheckpointError::bad_input(&file, "length", reason));
            }
        }
        Ok(manifest)
    }
}
