//! Experts that do not all fit: budget, policy, and files of which experts were used.

use super::Context;
use crate::failure::Failure;
use moepress_checkpoint::{CheckpointError, read_json};
use moepress_model::ModelSpec;
use moepress_recipe::size_in_bytes;
use moepress_runtime::{CacheReport, MakePolicy, OnMiss, POLICIES, Trace, Used, Visit};
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
    /// Which experts stay within the budget: lru, pinned (those used most, before and now), gate-mass or hit-density
    #[arg(long = "cache", value_name = "POLICY", default_value = "hit-density", value_parser = policy, requires = "budget")]
    pub policy: NamedPolicy,
    /// Read the experts ahead that the next layer will probably choose
    #[arg(long, requires = "budget")]
    pub read_ahead: bool,
    /// What is done for an expert that is not in memory: exact (it is read), or low-plane (where its gates are below the mean of
    /// those of its layer, the higher half of its bits does, which stays in memory; needs experts in planes)
    #[arg(long, value_name = "HOW", default_value = "exact", value_parser = on_miss, requires = "budget")]
    pub on_miss: OnMiss,
    /// Which experts were used before, for pinned and hit-density: a file of generate --record-experts
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

/// A trace as a file holds it: `visits` are layer, tokens, uses (expert, tokens, sum of gates), and the experts expected of the
/// next layer, in order.
pub fn document(trace: &Trace) -> Value {
    let visit = |visit: &Visit| {
        let uses = visit.experts.iter().map(|used| json!([used.expert, used.tokens, used.gates]));
        json!([visit.layer, visit.tokens, uses.collect::<Vec<_>>(), visit.expected])
    };
    json!({ "schema_version": 2, "visits": trace.visits.iter().map(visit).collect::<Vec<_>>() })
}

/// Reads a file of [`document`], of a model of this shape.
pub fn read(context: &Context, path: &Path, spec: &ModelSpec) -> Result<Trace, Failure> {
    let json: Value = read_json(context.files.as_ref(), path, MAX_BYTES)?;
    let bad = |field: &str, reason: &str| Failure::from(CheckpointError::bad_input(path, field, reason));
    if json.get("schema_version").and_then(Value::as_u64) != Some(2) {
        return Err(bad(
            "schema_version",
            "must be 2 (is this a file of this version's generate --record-experts?)",
        ));
    }
    let visits =
        json.get("visits").and_then(Value::as_array).ok_or_else(|| bad("visits", "must be a list"))?;
    let visit = |(index, value): (usize, &Value)| {
        parsed(value, spec).ok_or_else(|| {
            let reason = "must be layer, tokens, uses (expert, tokens and gates) and experts expected of the next layer, \
                          all of this model";
            bad(&format!("visits[{index}]"), reason)
        })
    };
    Ok(Trace { visits: visits.iter().enumerate().map(visit).collect::<Result<_, _>>()? })
}

/// A visit whose experts the model has.
fn parsed(value: &Value, spec: &ModelSpec) -> Option<Visit> {
    let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
    let [layer, tokens, uses, expected] = value.as_array()?.as_slice() else { return None };
    let (layer, tokens) = (number(layer)?, number(tokens)?);
    let expert = |value: &Value, layer: usize| {
        number(value).filter(|&expert| spec.moe(layer).is_some_and(|moe| expert < moe.experts.len()))
    };
    let used = |value: &Value| {
        let [index, tokens, gates] = value.as_array()?.as_slice() else { return None };
        let gates = gates.as_f64().filter(|gates| gates.is_finite())? as f32;
        Some(Used { expert: expert(index, layer)?, tokens: number(tokens)?, gates })
    };
    let experts: Vec<Used> = uses.as_array()?.iter().map(used).collect::<Option<_>>()?;
    let expected: Vec<usize> =
        expected.as_array()?.iter().map(|value| expert(value, layer + 1)).collect::<Option<_>>()?;
    let within = layer < spec.layers.len() && experts.iter().all(|used| used.tokens <= tokens);
    within.then_some(Visit { layer, tokens, experts, expected })
}

/// The same for programs.
pub fn figures(report: &CacheReport) -> Value {
    let CacheReport { uses, kept, ahead, late, missed, low_plane, bytes_read, read_ahead, stalled } = report;
    json!({
        "uses": uses, "kept": kept, "ahead": ahead, "late": late, "missed": missed, "low_plane": low_plane,
        "bytes_read": bytes_read, "read_ahead": read_ahead, "stalled_seconds": stalled.as_secs_f64(),
    })
}

/// One line about a cache.
pub fn line(report: &CacheReport) -> String {
    let CacheReport { uses, kept, ahead, late, missed, low_plane, bytes_read, read_ahead, stalled } = *report;
    let share = |part: u64, of: u64| format!("{:.1} %", 100.0 * part as f64 / of.max(1) as f64);
    let ahead = match read_ahead {
        0 => String::new(),
        _ => format!(
            ", {} read ahead, {} still on their way; {} of those read ahead were used",
            share(ahead, uses),
            share(late, uses),
            share(ahead + late, read_ahead)
        ),
    };
    let low = match low_plane {
        0 => String::new(),
        _ => format!(", {} by high bits alone", share(low_plane, uses)),
    };
    format!(
        "experts: of {uses} uses {} had been kept, {} had to be read{low}{ahead}; {} read, {:.3} s waited",
        share(kept, uses),
        share(missed, uses),
        crate::output::bytes(bytes_read),
        stalled.as_secs_f64()
    )
}
