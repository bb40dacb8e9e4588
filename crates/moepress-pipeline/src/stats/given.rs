//! Statistics that a run takes from a file instead of its first sweep.

use crate::PipelineError;
use crate::stats::header::differs;
use crate::stats::{Shard, StatisticsFile, StatisticsHeader};
use moepress_checkpoint::{CheckpointError, Files, digest};
use moepress_model::ModelSpec;
use moepress_stats::{Needs, Of, Quantity};
use std::collections::BTreeMap;
use std::path::Path;

/// Statistics from a file, checked against what the run would have measured.
pub(crate) struct Given {
    pub file: StatisticsFile,
    /// The file's name and SHA-256.
    pub digests: BTreeMap<String, String>,
    /// A line for the report.
    pub note: String,
}

/// The measurement that a file stands for.
pub(crate) struct Wanted<'a> {
    pub spec: &'a ModelSpec,
    /// SHA-256 of the model's files by name.
    pub model: &'a BTreeMap<String, String>,
    pub windows: &'a [Vec<u32>],
    /// For every window the text it is from.
    pub texts: &'a [usize],
    pub needs: &'a Needs,
}

impl Given {
    /// Reads a file that must hold all shards of that measurement.
    ///
    /// # Errors
    /// It is malformed, of something else (names the key), or in part.
    pub fn read(files: &dyn Files, path: &Path, wanted: &Wanted<'_>) -> Result<Self, PipelineError> {
        let ours =
            StatisticsHeader::new(wanted.model, &[], wanted.windows, &wanted.needs.groups, Shard::WHOLE)?;
        let theirs = StatisticsFile::read_header(files, path)?;
        theirs.check_same(path, &ours, "this run")?;
        if !theirs.groups.is_superset(&ours.groups) {
            return Err(
                differs(path, "groups", &theirs.groups_line(), "this run", &ours.groups_line()).into()
            );
        }
        if !theirs.is_complete() {
            let reason = format!(
                "holds {}; measure the others and add them with `moepress stats merge`",
                theirs.shards_line()
            );
            return Err(CheckpointError::bad_input(path, "key `shards`", reason).into());
        }
        let digest = digest(files, path)?;
        let file = StatisticsFile::read(files, path)?;
        if file.header != theirs {
            return Err(CheckpointError::bad_input(path, "file", "changed while in use").into());
        }
        let bad = |reason: String| CheckpointError::bad_input(path, "sums", reason);
        let mut tokens = vec![0.0; wanted.texts.iter().max().map_or(0, |last| last + 1)];
        wanted.texts.iter().zip(wanted.windows).for_each(|(&text, ids)| tokens[text] += ids.len() as f64);
        file.sums.check_fit(wanted.spec, tokens.len(), wanted.needs).map_err(|e| bad(e.to_string()))?;
        if file.sums.get(Of::Model, Quantity::TextTokens).is_ok_and(|theirs| theirs != tokens) {
            return Err(
                bad("are of other calibration files, or other numbers of their windows".into()).into()
            );
        }
        let tokens: usize = wanted.windows.iter().map(Vec::len).sum();
        if file.tokens()? != tokens as f64 {
            return Err(bad(format!("are of {} tokens, this run has {tokens}", file.tokens()?)).into());
        }
        let note = format!("the first measurement is taken from {}, SHA-256 {digest}", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { file, digests: BTreeMap::from([(name, digest)]), note })
    }
}
