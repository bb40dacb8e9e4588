//! What a statistics file says about itself.

use crate::PipelineError;
use crate::run::lines;
use crate::stats::Shard;
use moepress_checkpoint::{CheckpointError, digest_of, parse_json};
use moepress_model::Edit;
use moepress_stats::Need;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const FORMAT_VERSION: u64 = 1;
/// The key `edits` of a model as it came.
const NO_EDITS: &str = "none";

/// What the sums of a statistics file are of. Two files add up when all of it but `shards` is equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatisticsHeader {
    /// Version of the format.
    pub format_version: u64,
    /// Version of moepress that measured.
    pub moepress: String,
    /// SHA-256 of the files of the model.
    pub model: String,
    /// SHA-256 of the edits before the measurement as `edits.json` would hold them; `none` without edits.
    pub edits: String,
    /// SHA-256 of the windows of all shards.
    pub tokens: String,
    /// Groups of names that are in the file: words of [`Need`].
    pub groups: BTreeSet<String>,
    /// Shards that were added, from 1.
    pub shards: BTreeSet<usize>,
    /// How many shards there are.
    pub of: usize,
}

impl StatisticsHeader {
    /// Of a measurement that is about to be made or was just made. `model` are the digests of its files by
    /// name, `windows` those of all shards.
    ///
    /// # Errors
    /// The edits cannot be encoded.
    pub fn new(
        model: &BTreeMap<String, String>,
        edits: &[Edit],
        windows: &[Vec<u32>],
        groups: &BTreeSet<Need>,
        shard: Shard,
    ) -> Result<Self, PipelineError> {
        let listed: String = model.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
        let sizes = [windows.first().map_or(0, Vec::len) as u32, windows.len() as u32];
        let ids = sizes.iter().chain(windows.iter().flatten());
        Ok(Self {
            format_version: FORMAT_VERSION,
            moepress: env!("CARGO_PKG_VERSION").to_owned(),
            model: digest_of(listed.as_bytes()),
            edits: if edits.is_empty() { NO_EDITS.to_owned() } else { digest_of(&lines(edits)?) },
            tokens: digest_of(&ids.flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>()),
            groups: groups.iter().map(|need| need.name().to_owned()).collect(),
            shards: BTreeSet::from([shard.number()]),
            of: shard.of(),
        })
    }

    /// Reads the header `text` of `file`.
    ///
    /// # Errors
    /// It is malformed or of another version.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self, CheckpointError> {
        let bad = |field: &str, reason: String| CheckpointError::bad_input(file, field, reason);
        let value: Value = parse_json(file, "header", text.as_bytes())?;
        // The version first: another version may have other fields.
        let version = &value["format_version"];
        if version.as_u64() != Some(FORMAT_VERSION) {
            let reason = format!("is {version}, this build reads {FORMAT_VERSION} (measure again)");
            return Err(bad("key `format_version`", reason));
        }
        let listed = value["shards"].as_array().map_or(0, Vec::len);
        let header: Self = serde_json::from_value(value).map_err(|e| bad("header", e.to_string()))?;
        if let Some(group) = header.groups.iter().find(|name| Need::from_name(name).is_none()) {
            return Err(bad("key `groups`", format!("`{group}` is not known to this build")));
        }
        let (first, last) = (header.shards.first().copied(), header.shards.last().copied());
        if first.is_none_or(|first| first == 0) || last > Some(header.of) || listed != header.shards.len() {
            let of = header.of;
            return Err(bad(
                "key `shards`",
                format!("must be different numbers from 1 to `of`, which is {of}"),
            ));
        }
        Ok(header)
    }

    /// Whether all shards are there.
    pub fn is_complete(&self) -> bool {
        self.shards.len() == self.of
    }

    /// The first key in which `file`, which has this header, differs from `other`, which `whose` has.
    pub(crate) fn check_same(&self, file: &Path, other: &Self, whose: &str) -> Result<(), CheckpointError> {
        let keys = |header: &Self| {
            [
                ("moepress", header.moepress.clone()),
                ("model", header.model.clone()),
                ("edits", header.edits.clone()),
                ("tokens", header.tokens.clone()),
            ]
        };
        let mut pairs = keys(self).into_iter().zip(keys(other));
        match pairs.find(|(here, there)| here != there) {
            None => Ok(()),
            Some(((key, here), (_, there))) => Err(differs(file, key, &here, whose, &there)),
        }
    }

    /// The groups in one line.
    pub fn groups_line(&self) -> String {
        joined(&self.groups)
    }

    /// The shards in one line.
    pub fn shards_line(&self) -> String {
        format!("{} of {}", joined(&self.shards), self.of)
    }
}

/// The error that `file` has `here` as its `key`, where `whose` has `there`.
pub(crate) fn differs(file: &Path, key: &str, here: &str, whose: &str, there: &str) -> CheckpointError {
    CheckpointError::bad_input(file, &format!("key `{key}`"), format!("is {here}, {whose} has {there}"))
}

fn joined(items: &BTreeSet<impl ToString>) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
