//! Experts that do not all fit: budget, policy, and files of which experts were used.

use super::Context;
use crate::failure::Failure;
use moepress_checkpoint::{CheckpointError, read_json};
use moepress_model::ModelSpec;
use moepress_recipe::size_in_bytes;
use moepress_runtime::{CacheReport, ExpertId, MakePolicy, OnMiss, POLICIES, Trace, Used};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Of a file of uses.
const MAX_BYTES: u64 = 1 << 30;

/// How much of a model is in memory.
#[derive(Debug, clap::Args)]
pub struct Memory {
    /// Bytes of weights in memory, such as 300MiB: all but routed experts stay, those are read as needed [default: all,
    /// with codes of other codecs unpacked into bit fields]
    #[arg(long = "memory-budget", value_name = "SIZE", value_parser = size_in_bytes)]
    pub budget: Option<u64>,
    /// Which experts stay within the budget: lru, pinned (those used most, before and now) or gate-mass
    #[arg(long = "cache", value_name = "POLICY", default_value = "gate-mass", value_parser = policy, requires = "budget")]
    pub policy: NamedPolicy,
    /// Read the experts ahead that the next layer will probably choose
    #[arg(long, requires = "budget")]
    pub read_ahead: bool,
    /// What is done for an expert that is not in memory: exact (it is read), or low-plane (where its gates are below the mean of
    /// those of its layer, the higher half of its bits does, which stays in memory; needs experts in planes)
    #[arg(long, value_name = "HOW", default_value = "exact", value_parser = on_miss, requires = "budget")]
    pub on_miss: OnMiss,
    /// Which experts were used before, for pinned: a file of generate --record-experts
    #[arg(long, value_name = "FILE", requires = "budget")]
    pub used_before: Option<PathBuf>,
}

/// A policy, chosen by name.
#[derive(Clone, Copy, Debug)]
pub struct NamedPolicy(pub MakePolicy);

fn policy(word: &str) -> Result<NamedPolicy, String> {
    let found = POLICIES.into_iter().find(|(name, _)| *name == word);
    let names = POLICIES.map(|(name, _)| name).join(", ");
    found.map(|(_, make)| NamedPolicy(make)).ok_or_else(|| format!("must be one of {names}"))
}

fn on_miss(word: &str) -> Result<OnMiss, String> {
    match word {
        "exact" => Ok(OnMiss::Exact),
        "low-plane" => Ok(OnMiss::LowPlane),
        _ => Err("must be exact or low-plane".to_owned()),
    }
}

/// Uses as a file holds them: `uses` are layer, expert and the sum of gates, in order.
pub fn document(trace: &Trace) -> Value {
    let uses = trace.uses.iter().map(|used| json!([used.id.layer, used.id.expert, used.gates]));
    json!({ "schema_version": 1, "uses": uses.collect::<Vec<_>>() })
}

/// Reads a file of [`document`], of a model of this shape.
pub fn read(context: &Context, path: &Path, spec: &ModelSpec) -> Result<Trace, Failure> {
    let json: Value = read_json(context.files.as_ref(), path, MAX_BYTES)?;
    let bad = |field: &str, reason: &str| Failure::from(CheckpointError::bad_input(path, field, reason));
    if json.get("schema_version").and_then(Value::as_u64) != Some(1) {
        return Err(bad("schema_version", "must be 1 (is this a file of generate --record-experts?)"));
    }
    let uses = json.get("uses").and_then(Value::as_array).ok_or_else(|| bad("uses", "must be a list"))?;
    let used = |(index, value): (usize, &Value)| {
        let parts = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let parsed = match parts {
            [layer, expert, gates] => {
                layer.as_u64().zip(expert.as_u64()).zip(gates.as_f64()).filter(|(_, gates)| gates.is_finite())
            }
            _ => None,
        };
        let found = parsed.map(|((layer, expert), gates)| Used {
            id: ExpertId { layer: layer as usize, expert: expert as usize },
            gates: gates as f32,
        });
        let known =
            |used: &Used| spec.moe(used.id.layer).is_some_and(|moe| used.id.expert < moe.experts.len());
        found.filter(known).ok_or_else(|| {
            bad(&format!("uses[{index}]"), "must be layer, expert and gates of an expert of this model")
        })
    };
    Ok(Trace { uses: uses.iter().enumerate().map(used).collect::<Result<_, _>>()? })
}

/// The same for programs.
pub fn figures(report: &CacheReport) -> Value {
    let CacheReport { uses, hits, bytes_read, read_ahead, read_ahead_used, stalled, low_plane } = report;
    json!({
        "uses": uses, "hits": hits, "bytes_read": bytes_read, "read_ahead": read_ahead,
        "read_ahead_used": read_ahead_used, "stalled_seconds": stalled.as_secs_f64(), "low_plane": low_plane,
    })
}

/// One line about a cache.
pub fn line(report: &CacheReport) -> String {
    let CacheReport { uses, hits, bytes_read, read_ahead, read_ahead_used, stalled, low_plane } = report;
    let ahead = match read_ahead {
        0 => String::new(),
        _ => format!(", {read_ahead_used} of {read_ahead} read ahead were used"),
    };
    let low = match low_plane {
        0 => String::new(),
        _ => format!(", {low_plane} uses of high bits alone"),
    };
    format!(
        "experts: {:.1} % of {uses} uses in memory, {} read, {:.3} s waited{ahead}{low}",
        100.0 * *hits as f64 / (*uses).max(1) as f64,
        crate::output::bytes(*bytes_read),
        stalled.as_secs_f64()
    )
}
