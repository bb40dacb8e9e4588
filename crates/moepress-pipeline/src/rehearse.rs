//! A rehearsal: what a recipe measures first, on the first layer with experts and a few windows.

use crate::PipelineError;
use crate::memory::allowed;
use crate::plan::plan;
use crate::stats::all_windows;
use crate::texts::load_texts;
use moepress_calibrate::{Means, Spool, Windows, sweep, windows_per_chunk};
use moepress_checkpoint::{Checkpoint, CheckpointError, Files, Progress, Share, Source, peak_memory};
use moepress_model::{LayerWeights, ModelSpec, Tensor};
use moepress_nn::Device;
use moepress_quant::Stored;
use moepress_recipe::Recipe;
use moepress_text::Tokenizer;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// A recipe to rehearse.
pub struct Rehearse<'a> {
    /// All input.
    pub files: &'a Arc<dyn Files>,
    /// What is meant to run.
    pub recipe: &'a Recipe,
    /// Where to compute.
    pub device: Device,
    /// A directory, not yet there, for activations that do not fit into memory.
    pub spool: PathBuf,
}

/// How a rehearsal went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rehearsal {
    /// Layers that were walked: those up to the first with experts.
    pub layers: usize,
    /// Layers of the model.
    pub of_layers: usize,
    /// Tokens that went through them.
    pub tokens: usize,
    /// Tokens of the calibration.
    pub of_tokens: usize,
    /// Wall time that took.
    pub seconds: f64,
    /// The same for all layers and tokens, in proportion to the weights that a token meets: the time of the first
    /// measurement.
    pub whole_seconds: f64,
    /// Peak of resident memory so far.
    pub peak_memory_bytes: Option<u64>,
}

/// Reads all text of a recipe, and measures what it measures first on a beginning of the model and of the calibration.
/// Nothing is written. None where the recipe measures nothing before it writes.
///
/// # Errors
/// As a run: what would end that early ends this.
pub fn rehearse(job: &Rehearse<'_>, progress: &dyn Progress) -> Result<Option<Rehearsal>, PipelineError> {
    let checkpoint = Checkpoint::open(job.files, &job.recipe.model)?;
    let (plan, _) = plan(job.recipe, &checkpoint)?;
    let tokenizer = Tokenizer::open(job.files.as_ref(), checkpoint.dir(), checkpoint.spec().vocab)?;
    if let Some(texts) = &job.recipe.evaluate {
        load_texts(job.files.as_ref(), &tokenizer, texts)?;
    }
    let first = plan.needs.iter().flatten().next();
    let (Some(needs), Some(calibration)) = (first, &job.recipe.calibration) else { return Ok(None) };
    let set = load_texts(job.files.as_ref(), &tokenizer, calibration)?;
    let all = all_windows(&set);
    let count = windows_per_chunk(calibration.window) * rayon::current_num_threads();
    let windows = &all[..count.min(all.len())];
    let beginning = Beginning::new(&checkpoint);
    let spool = Spool { files: job.files.clone(), dir: job.spool.clone() };
    let memory = allowed(job.recipe.limits.memory);
    let means = Means { device: job.device.clone(), memory, spool: Some(spool) };
    let started = Instant::now();
    sweep(&beginning, Windows::of_texts(windows, vec![0; windows.len()], 1), needs, &means, progress)?;
    let seconds = started.elapsed().as_secs_f64();
    let (layers, of_layers) = (beginning.spec.layers.len(), checkpoint.spec().layers.len());
    let tokens = |windows: &[Vec<u32>]| windows.iter().map(Vec::len).sum::<usize>();
    let (tokens, of_tokens) = (tokens(windows), tokens(&all));
    let times = work(checkpoint.spec()) / work(&beginning.spec) * of_tokens as f64 / tokens.max(1) as f64;
    Ok(Some(Rehearsal {
        layers,
        of_layers,
        tokens,
        of_tokens,
        seconds,
        whole_seconds: seconds * times,
        peak_memory_bytes: peak_memory(),
    }))
}

/// Weights that a token meets.
fn work(spec: &ModelSpec) -> f64 {
    let weights = |tensor| spec.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>()) as f64;
    spec.tensors().into_iter().map(|tensor| spec.met(tensor) * weights(tensor)).sum::<f64>().max(1.0)
}

/// A model that ends after its first layer with experts.
struct Beginning<'a> {
    source: &'a dyn Source,
    spec: ModelSpec,
}

impl<'a> Beginning<'a> {
    fn new(source: &'a dyn Source) -> Self {
        let mut spec = source.spec().clone();
        let first = spec.moe_layers().next().map_or(0, |(layer, _)| layer);
        spec.layers.truncate(first + 1);
        Self { source, spec }
    }
}

impl Source for Beginning<'_> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
        self.source.tensor(tensor)
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights, CheckpointError> {
        self.source.layer(layer)
    }

    fn share(&self, layer: usize, share: &Share) -> Result<LayerWeights, CheckpointError> {
        self.source.share(layer, share)
    }
}
