//! What a run did, for people and programs. The only part of an output that may differ between runs.

use crate::layers::LayerReport;
use crate::plan::Sizes;
use crate::routing::RoutingReport;
use crate::texts::TextsReport;
use moepress_eval::Evaluation;
use serde::Serialize;

/// The whole story of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Version of this structure.
    pub schema_version: u32,
    /// Version of moepress.
    pub moepress: &'static str,
    /// Directory of the original, as given.
    pub model: String,
    /// Its family.
    pub family: String,
    /// Size of the original.
    pub before: Sizes,
    /// Size of the result.
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
    /// Wall time.
    pub seconds: Seconds,
    /// Threads.
    pub threads: usize,
    /// Predicted and actual peak of resident memory in bytes; the actual one where the system tells.
    pub predicted_peak_memory_bytes: u64,
    /// Predicted size of the activations that calibration kept on disk, in bytes.
    pub spool_bytes: u64,
    /// See above.
    pub peak_memory_bytes: Option<u64>,
    /// The recipe as resolved, YAML.
    pub recipe: String,
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
    /// The original on the evaluation text.
    pub original: Evaluation,
    /// The result on it, with its divergence from the original.
    pub compact: Evaluation,
    /// What was taken of every file of text.
    pub sampling: TextsReport,
    /// Greedy decoding, one sequence: tokens per second of the original; none when it does not fit into memory.
    pub original_decode_tokens_per_second: Option<f64>,
    /// The same of the result.
    pub compact_decode_tokens_per_second: Option<f64>,
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
