//! Adding statistics of disjoint shards.

use crate::PipelineError;
use crate::stats::header::differs;
use crate::stats::{StatisticsFile, StatisticsHeader};
use moepress_checkpoint::{CheckpointError, Files, Progress};
use std::path::{Path, PathBuf};

/// Adds the sums of files of one model, text and version. They are added in the order of their shards: the
/// same files come to the same bytes in whatever order they are named.
///
/// # Errors
/// A file is malformed, differs from the first in a key, or holds a shard that another holds too; or the
/// caller cancelled.
pub fn merge(
    files: &dyn Files,
    paths: &[PathBuf],
    progress: &dyn Progress,
) -> Result<StatisticsFile, PipelineError> {
    let mut parts: Vec<(StatisticsHeader, &Path)> = Vec::with_capacity(paths.len());
    for path in paths {
        let header = StatisticsFile::read_header(files, path)?;
        if let Some((first, first_path)) = parts.first() {
            check_addable(&header, path, first, first_path)?;
        }
        for (other, other_path) in &parts {
            if let Some(shard) = header.shards.intersection(&other.shards).next() {
                let reason =
                    format!("has shard {shard} of {}, {} has it too", header.of, other_path.display());
                return Err(CheckpointError::bad_input(path, "key `shards`", reason).into());
            }
        }
        parts.push((header, path));
    }
    // Disjoint and not empty: no two have the same first shard.
    parts.sort_by_key(|(header, _)| header.shards.first().copied());
    let mut whole: Option<StatisticsFile> = None;
    let count = parts.len() as u64;
    for (done, (header, path)) in parts.into_iter().enumerate() {
        if progress.cancelled() {
            return Err(PipelineError::Cancelled);
        }
        let part = StatisticsFile::read(files, path)?;
        if part.header != header {
            return Err(CheckpointError::bad_input(path, "file", "changed while in use").into());
        }
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => {
                let added = whole.sums.merge(part.sums);
                added.map_err(|e| CheckpointError::bad_input(path, "sums", e))?;
                whole.header.shards.extend(part.header.shards);
            }
        }
        progress.step("merge", done as u64 + 1, count);
    }
    whole.ok_or_else(|| PipelineError::Usage("there are no statistics files to add".to_owned()))
}

/// Checks that the sums of two files are of the same model, text, version, groups and number of shards.
fn check_addable(
    header: &StatisticsHeader,
    path: &Path,
    first: &StatisticsHeader,
    first_path: &Path,
) -> Result<(), CheckpointError> {
    let whose = first_path.display().to_string();
    header.check_same(path, first, &whose)?;
    if header.groups != first.groups {
        return Err(differs(path, "groups", &header.groups_line(), &whose, &first.groups_line()));
    }
    if header.of != first.of {
        return Err(differs(path, "of", &header.of.to_string(), &whose, &first.of.to_string()));
    }
    Ok(())
}
