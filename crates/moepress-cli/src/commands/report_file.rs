//! A report that was written before.

use super::Context;
use crate::failure::Failure;
use moepress_checkpoint::{CheckpointError, read_json};
use moepress_pipeline::SCHEMA_VERSION;
use serde_json::Value;
use std::path::Path;

const NAME: &str = "report.json";
/// A report has some hundred bytes per expert of the original.
const MAX_BYTES: u64 = 256 << 20;

/// The report at `path`: the file, or the one in that directory.
pub fn read(context: &Context, path: &Path) -> Result<Value, Failure> {
    let file = if path.is_dir() { path.join(NAME) } else { path.to_owned() };
    let report: Value = read_json(context.files.as_ref(), &file, MAX_BYTES)?;
    match report["schema_version"].as_u64() {
        Some(version) if version == u64::from(SCHEMA_VERSION) && report["after"].is_object() => Ok(report),
        Some(version) if report["after"].is_object() => {
            let reason = format!("is {version}, this build reads {SCHEMA_VERSION}");
            Err(CheckpointError::bad_input(&file, "schema_version", reason).into())
        }
        _ => {
            let reason = "is no report of `moepress run` or `moepress eval`";
            Err(CheckpointError::bad_input(&file, "file", reason).into())
        }
    }
}
