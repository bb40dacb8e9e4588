//! How much memory a run will need, from sizes alone.

use crate::PipelineError;
use crate::evaluate::{Tokens, Way};
use crate::plan::Writes;
use moepress_calibrate::{Layout, Work, Writing};
use moepress_checkpoint::available_memory;
use moepress_model::{ModelSpec, Tensor};
use moepress_stats::Needs;

/// What a run does.
pub struct Load<'a> {
    /// What each sweep measures.
    pub sweeps: Vec<&'a Needs>,
    /// What the walk that writes decides, if anything.
    pub rounding: Option<&'a Writes>,
    /// Calibration tokens.
    pub tokens: usize,
    /// Tokens of a calibration window.
    pub window: usize,
    /// The texts that the result is compared with the original on.
    pub evaluates: Option<Tokens>,
    /// Threads.
    pub threads: usize,
    /// The most that may be resident, in bytes, if the recipe says.
    pub limit: Option<u64>,
}

/// What a run is expected to take.
#[derive(Clone, Copy, Debug)]
pub struct Prediction {
    /// Peak of resident memory in bytes.
    pub peak: u64,
    /// Activations on disk at their peak, in bytes.
    pub spool: u64,
}

/// The binary, the tokenizer, allocator slack.
const BASE: u64 = 60 << 20;

/// The memory a sweep may take: what the recipe allows, else nearly all that the system has left.
pub fn allowed(limit: Option<u64>) -> Option<u64> {
    limit.or_else(|| available_memory().map(|available| available / 10 * 9))
}

/// Predicts the peak over all phases; every phase must stay within the limit.
///
/// # Errors
/// A phase cannot, with the least that all of them need.
pub fn predict(before: &ModelSpec, after: &ModelSpec, load: &Load<'_>) -> Result<Prediction, PipelineError> {
    let mut prediction = Prediction { peak: writing(before, after), spool: 0 };
    let mut least = prediction.peak;
    let Load { tokens, window, threads, .. } = *load;
    let mut ways = vec![];
    for needs in &load.sweeps {
        let work = Work { tokens, window, threads, needs, packed: false };
        let chosen = Layout::choose(before, &work, allowed(load.limit), true);
        ways.push((chosen, Layout::least_allowed(before, &work)));
    }
    if let Some(Writes { unrounded, original, rows, rounded, refit }) = load.rounding {
        let work = Writing { tokens, window, threads, rounded, refit, original, rows };
        let chosen = Layout::writing(unrounded, &work, allowed(load.limit), true);
        let least = Layout::writing(unrounded, &work, Some(0), true);
        ways.push((chosen, least.map_or_else(|needed| needed, |layout| layout.peak)));
    }
    for (chosen, needed) in ways {
        least = least.max(needed);
        prediction.peak = prediction.peak.max(chosen.as_ref().map_or_else(|needed| *needed, |way| way.peak));
        prediction.spool = prediction.spool.max(chosen.map_or(0, |way| way.spool));
    }
    let mut evaluation = 0;
    if let Some(tokens) = load.evaluates {
        let way = Way::choose(&[after, before], tokens, threads, allowed(load.limit));
        evaluation = way.least;
        prediction.peak = prediction.peak.max(way.peak);
        prediction.spool = prediction.spool.max(way.spool);
    }
    check(least.max(evaluation), load.limit, evaluation > least)?;
    Ok(prediction)
}

/// Checks that the least that a run needs is there: within the limit, or what the system has left.
///
/// # Errors
/// It is not; `evaluation` says what needs so much.
pub fn check(needed: u64, limit: Option<u64>, evaluation: bool) -> Result<(), PipelineError> {
    match (limit, available_memory()) {
        (Some(limit), _) if limit < needed => Err(PipelineError::Limit { needed, limit, evaluation }),
        (None, Some(available)) if available < needed => Err(PipelineError::Memory { needed, available }),
        _ => Ok(()),
    }
}

/// A layer as it is stored, what an edit turns it into, and one tensor in f32; or the tensors outside.
fn writing(before: &ModelSpec, after: &ModelSpec) -> u64 {
    let elements = |spec: &ModelSpec, tensor| {
        spec.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>() as u64)
    };
    let stored = |spec: &ModelSpec, layer: Option<usize>| -> u64 {
        let tensors = spec.tensors().into_iter().filter(|tensor| tensor.layer() == layer);
        tensors.map(|tensor| spec.stored_bytes(tensor)).sum()
    };
    let layers = [None].into_iter().chain((0..before.layers.len()).map(Some));
    let largest = layers.map(|layer| stored(before, layer) + stored(after, layer)).max().unwrap_or(0);
    let widest =
        before.tensors().into_iter().map(|tensor: Tensor| elements(before, tensor)).max().unwrap_or(0);
    BASE + largest + 8 * widest
}
