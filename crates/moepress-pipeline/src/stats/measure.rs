//! Measuring one shard of the calibration windows.

use crate::PipelineError;
use crate::memory::{Load, allowed, predict};
use crate::plan::{plan, unedited_needs};
use crate::stats::{Shard, StatisticsFile, StatisticsHeader, all_windows, text_of_windows};
use crate::texts::load_texts;
use moepress_calibrate::{Means, Spool, Windows, sweep};
use moepress_checkpoint::{Checkpoint, Files, Progress, Source};
use moepress_nn::Device;
use moepress_recipe::Recipe;
use moepress_stats::Needs;
use moepress_text::Tokenizer;
use std::path::PathBuf;
use std::sync::Arc;

/// The first measurement of a recipe, in part.
pub struct Measure<'a> {
    /// All input.
    pub files: &'a Arc<dyn Files>,
    /// What the statistics are for.
    pub recipe: &'a Recipe,
    /// What to measure in place of what that recipe measures first.
    pub needs: Option<&'a Needs>,
    /// Which part of the calibration windows.
    pub shard: Shard,
    /// Where to compute.
    pub device: Device,
    /// A directory, not yet there, for activations that do not fit into memory.
    pub spool: PathBuf,
}

/// Measures what a recipe measures first, on one shard of its calibration windows.
///
/// # Errors
/// The recipe is wrong, measures nothing or edits the model before it measures; an input cannot be read;
/// there is too little memory or text; or the caller cancelled.
pub fn measure(job: &Measure<'_>, progress: &dyn Progress) -> Result<StatisticsFile, PipelineError> {
    let checkpoint = Checkpoint::open(job.files, &job.recipe.model)?;
    let (plan, _) = plan(job.recipe, &checkpoint)?;
    let (needs, calibration) = unedited_needs(job.recipe, &plan)?;
    let needs = job.needs.unwrap_or(needs);
    let spec = checkpoint.spec();
    let tokenizer = Tokenizer::open(job.files.as_ref(), checkpoint.dir(), spec.vocab)?;
    let set = load_texts(job.files.as_ref(), &tokenizer, calibration)?;
    set.notes.iter().for_each(|note| progress.note(note));
    let all = all_windows(&set);
    let windows = job.shard.of_windows(&all, calibration.window)?;
    let texts = job.shard.of_windows(&text_of_windows(&set), calibration.window)?;
    let load = Load {
        rounding: None,
        sweeps: vec![needs],
        tokens: windows.iter().map(Vec::len).sum(),
        window: calibration.window,
        evaluates: None,
        threads: rayon::current_num_threads(),
        limit: job.recipe.limits.memory,
    };
    predict(spec, spec, &load)?;
    let digests = checkpoint.input_digests()?;
    let header = StatisticsHeader::new(&digests, &[], &all, &needs.groups, job.shard)?;
    let spool = Spool { files: job.files.clone(), dir: job.spool.clone() };
    let memory = allowed(job.recipe.limits.memory);
    let means = Means { device: job.device.clone(), memory, spool: Some(spool) };
    let windows = Windows::of_texts(&windows, texts, set.texts.len());
    let sums = sweep(&checkpoint, windows, needs, &means, progress)?;
    if progress.cancelled() {
        return Err(PipelineError::Cancelled);
    }
    Ok(StatisticsFile { header, sums })
}
