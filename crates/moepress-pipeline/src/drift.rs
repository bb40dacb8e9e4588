//! What became of routing: two models layer by layer, and the locality of each.

use crate::PipelineError;
use crate::memory::{allowed, check};
use crate::plan::description;
use crate::routing::{RoutingReport, routing};
use moepress_calibrate::{Means, PROGRAM, Spool, sweep};
use moepress_checkpoint::{Checkpoint, Files, Progress, Source};
use moepress_eval::{Drift, Step, compare};
use moepress_model::ModelSpec;
use moepress_nn::Device;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// Two models and what they run on.
pub struct Walk<'a> {
    /// All input and output.
    pub files: &'a Arc<dyn Files>,
    /// The original.
    pub original: &'a Checkpoint,
    /// What was made of it.
    pub model: &'a Checkpoint,
    /// Token ids, all of one length.
    pub windows: &'a [Vec<u32>],
    /// The most that may be resident, in bytes; as much as the system has left when not given.
    pub memory: Option<u64>,
    /// A directory, not yet there, for what does not fit into memory.
    pub spool: &'a Path,
}

/// How two models part on the way through their layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DriftReport {
    /// Tokens that went through both.
    pub tokens: usize,
    /// Share of the tokens whose set of experts is another, the mean over layers.
    pub changed: f64,
    /// Share of the original's choices that the model makes too, the mean over layers.
    pub kept: f64,
    /// Share of the original's experts that these tokens reached, the mean over layers.
    pub coverage: f64,
    /// The same of the model.
    pub coverage_after: f64,
    /// Place by place.
    pub steps: Vec<Step>,
}

/// Walks both models, a layer of each in memory at a time, then measures the routing of the original and of the model.
///
/// # Errors
/// The models are not alike, cannot be read or run, or the memory is too little.
pub fn drift(
    walk: &Walk<'_>,
    progress: &dyn Progress,
) -> Result<(DriftReport, [Vec<RoutingReport>; 2]), PipelineError> {
    let tokens: usize = walk.windows.iter().map(Vec::len).sum();
    let specs = [walk.original.spec(), walk.model.spec()];
    let states = 8 * (tokens * specs[0].hidden) as u64;
    // Twice: as stored, and as the blocks are being made of them.
    let needed = PROGRAM + 2 * states + specs.iter().map(|spec| 2 * largest_layer(spec)).sum::<u64>();
    check(needed, walk.memory, true)?;
    let steps = compare(walk.original, walk.model, walk.windows, progress)?;
    let layers: Vec<Drift> = steps.iter().filter_map(|step| step.routing).collect();
    let mean = |of: fn(&Drift) -> f64| layers.iter().map(of).sum::<f64>() / layers.len().max(1) as f64;
    let report = DriftReport {
        tokens,
        changed: mean(|drift| drift.changed),
        kept: mean(|drift| drift.kept),
        coverage: mean(|drift| drift.coverage),
        coverage_after: mean(|drift| drift.coverage_after),
        steps,
    };
    let of = |model: &Checkpoint| {
        let spool = Spool { files: walk.files.clone(), dir: walk.spool.to_owned() };
        let means = Means { device: Device::flex(), memory: allowed(walk.memory), spool: Some(spool) };
        let stats = sweep(model, walk.windows, &description(), &means, progress)?;
        Ok::<_, PipelineError>(routing(model.spec(), &stats))
    };
    Ok((report, [of(walk.original)?, of(walk.model)?]))
}

/// Bytes of the layer that takes most, as it is stored.
fn largest_layer(spec: &ModelSpec) -> u64 {
    let layer = |layer: usize| -> u64 {
        let tensors = spec.tensors().into_iter().filter(|tensor| tensor.layer() == Some(layer));
        tensors.map(|tensor| spec.stored_bytes(tensor)).sum()
    };
    (0..spec.layers.len()).map(layer).max().unwrap_or(0)
}
