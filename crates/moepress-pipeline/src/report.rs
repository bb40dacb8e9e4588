//! What a run did, for people and programs. The only part of an output that may differ between runs.

use crate::PipelineError;
use crate::drift::DriftReport;
use crate::layers::LayerReport;
use crate::plan::Sizes;
use crate::routing::RoutingReport;
use crate::texts::TextsReport;
use moepress_eval::{Evaluation, TaskResult};
use serde::Serialize;
use std::collections::BTreeMap;

/// The version of [`Report`]; what is added to it leaves the version alone, see `docs/report.md`.
pub const SCHEMA_VERSION: u32 = 1;

/// The whole story of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Version of this structure.
    pub schema_version: u32,
    /// Version of moepress.
    pub moepress: &'static str,
    /// What was done: `run` or `eval`.
    pub command: &'static str,
    /// Directory of the original, as given; of `eval`, of the model that was evaluated.
    pub model: String,
    /// What `eval` compared it with, as given: a directory, or a file of `--save-base`.
    pub against: Option<String>,
    /// Its family.
    pub family: String,
    /// Size of the original; where `eval` had none to look at, the same as `after`.
    pub before: Sizes,
    /// Size of the result; of `eval`, of the model that was evaluated.
    pub after: Sizes,
    /// What was decided for the user before any stage, such as a text with fewer windows than asked for.
    pub notes: Vec<String>,
    /// What each stage did.
    pub stages: Vec<StageReport>,
    /// What became of every routed expert of the original.
    pub layers: Vec<LayerReport>,
    /// The routing of the original, layer by layer; empty when it was not measured, or only on an edited model.
    pub routing: Vec<RoutingReport>,
    /// The routing of the result, where the recipe asks for it. Matrices that gptq rounds are rounded to nearest there.
    pub routing_after: Vec<RoutingReport>,
    /// What was measured on, when anything was.
    pub calibration: Option<CalibrationReport>,
    /// Quality of the result beside the original, when the recipe asks for it.
    pub evaluation: Option<Comparison>,
    /// Increases of the loss that decisions were taken by, where a stage predicts any.
    pub losses: Vec<LossReport>,
    /// What questions with known answers came to, by task, under the keys of lm-evaluation-harness.
    pub results: BTreeMap<String, TaskResult>,
    /// The same of the original.
    pub original_results: BTreeMap<String, TaskResult>,
    /// Where the questions came from.
    pub tasks: Vec<TaskReport>,
    /// How the result and the original part on the way through their layers, where that was asked for.
    pub drift: Option<DriftReport>,
    /// What the quality gates came to.
    pub gates: Vec<Verdict>,
    /// Wall time.
    pub seconds: Seconds,
    /// Time and memory of every phase, in the order they happened.
    pub phases: Vec<PhaseReport>,
    /// Threads.
    pub threads: usize,
    /// Predicted and actual peak of resident memory in bytes; the actual one where the system tells.
    pub predicted_peak_memory_bytes: u64,
    /// Predicted size of the activations that calibration kept on disk, in bytes.
    pub spool_bytes: u64,
    /// See above.
    pub peak_memory_bytes: Option<u64>,
    /// The recipe as resolved, YAML; empty for `eval`.
    pub recipe: String,
}

impl Report {
    /// The bytes of `report.json`.
    ///
    /// # Errors
    /// A figure is no JSON.
    pub fn json(&self) -> Result<Vec<u8>, PipelineError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|e| PipelineError::Report(e.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// Where questions came from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskReport {
    /// The name of the task.
    pub name: String,
    /// The file.
    pub file: String,
    /// SHA-256 of it.
    pub sha256: String,
    /// `multiple_choice` or `generate_until`.
    pub kind: &'static str,
    /// Examples before every question, the first of the file.
    pub shots: usize,
    /// Questions that were asked.
    pub questions: usize,
}

/// A prediction that a stage decided by, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LossReport {
    /// What it is of.
    pub what: String,
    /// Predicted increase of the negative log-likelihood, nats per token.
    pub predicted: f64,
    /// The increase that was measured, when it was.
    pub measured: Option<f64>,
}

/// What a quality gate came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The condition as written, under which the command fails.
    pub gate: String,
    /// The value measured.
    pub value: Option<f64>,
    /// What it was held against.
    pub bound: Option<f64>,
    /// Whether the condition holds, or could not be judged.
    pub failed: bool,
}

impl Verdict {
    /// The line about a gate that failed.
    pub fn line(&self) -> Option<String> {
        let words = match (self.value, self.bound) {
            (None, _) => "not measured".to_owned(),
            (Some(value), None) => format!("measured {value}, nothing measured alike to hold it against"),
            (Some(value), Some(bound)) => format!("measured {value}, bound {bound}"),
        };
        self.failed.then(|| format!("{} ({words})", self.gate))
    }
}

/// Time and memory of a phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseReport {
    /// What was done.
    pub what: String,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Peak of resident memory from the start to its end, in bytes, where the system tells.
    pub peak_memory_bytes: Option<u64>,
}

/// What one stage did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageReport {
    /// The stage and what it was told.
    pub what: String,
    /// Number of edits.
    pub edits: usize,
    /// What was decided for the user.
    pub notes: Vec<String>,
    /// Size after it.
    pub after: Sizes,
}

/// What was measured on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CalibrationReport {
    /// Names of the texts.
    pub texts: Vec<String>,
    /// Tokens of a window.
    pub window: usize,
    /// All tokens.
    pub tokens: usize,
    /// What was taken of every file.
    pub sampling: TextsReport,
    /// Mean negative log-likelihood of the original on it, nats; only when a sweep went backward.
    pub nll: Option<f64>,
    /// Experts that no token reached in the first sweep, as layer and index; empty when routing was not seen.
    pub unreached: Vec<(usize, usize)>,
    /// Tokens below which the recipe calls an expert under-measured.
    pub min_tokens: usize,
    /// What became of those: `rank`, `keep` or `prune`, `error` where there were none.
    pub below_min_tokens: &'static str,
    /// Share of the experts that at least one token reached; none when routing was not seen.
    pub coverage: Option<f64>,
    /// Those of the first sweep; notes of stages name those of later ones.
    pub under_measured: Vec<UnderMeasuredReport>,
}

/// An expert that fewer tokens reached than the recipe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UnderMeasuredReport {
    /// Index of the layer.
    pub layer: usize,
    /// Index of the expert.
    pub expert: usize,
    /// Tokens routed to it.
    pub tokens: u64,
}

/// The result beside the original.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The original on the evaluation text; none where `eval` had none.
    pub original: Option<Evaluation>,
    /// What stood in for the original, where that was a file of distributions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseReport>,
    /// The result on it, with its divergence from the original.
    pub compact: Evaluation,
    /// What was taken of every file of text.
    pub sampling: TextsReport,
    /// Greedy decoding, one sequence: tokens per second of the original; of a `run`, and none when it does not fit
    /// into memory.
    pub original_decode_tokens_per_second: Option<f64>,
    /// The same of the result.
    pub compact_decode_tokens_per_second: Option<f64>,
}

impl Comparison {
    /// How much the negative log-likelihood grew, nats per token; none without the original.
    pub fn nll_increase(&self) -> Option<f64> {
        let original = self.original.as_ref()?;
        Some(self.compact.overall.likelihood.nll - original.overall.likelihood.nll)
    }
}

/// A file of an original's distributions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BaseReport {
    /// SHA-256 of its records.
    pub sha256: String,
    /// The model as it was named when they were kept.
    pub model: String,
    /// SHA-256 of the digests of the model's files.
    pub model_sha256: String,
    /// How many of the likeliest tokens are known of every distribution.
    pub top: usize,
}

/// Wall time in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Reading and tokenizing text.
    pub text: f64,
    /// Sweeps and rounding costs.
    pub measure: f64,
    /// Decisions.
    pub decide: f64,
    /// Applying edits and writing.
    pub write: f64,
    /// Evaluation.
    pub evaluate: f64,
    /// Everything.
    pub total: f64,
}
