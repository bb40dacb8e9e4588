//! A model that a command runs.

use super::Context;
use super::experts::{self, Memory};
use crate::failure::{Failure, Reason};
use crate::output;
use moepress_checkpoint::{Checkpoint, ErrorKind, Source, available_memory};
use moepress_runtime::{Model, RuntimeError};
use moepress_text::Tokenizer;
use std::path::Path;
use std::sync::Arc;

/// Opens a checkpoint that is about to be run: a compact one must match its digests.
pub fn open(context: &Context, path: &Path) -> Result<Checkpoint, Failure> {
    let checkpoint = Checkpoint::open(&context.files, path)?;
    checkpoint.verify()?;
    context.interrupt.check()?;
    Ok(checkpoint)
}

/// Loads all weights, if there is memory for them and for `more` bytes.
pub fn load(context: &Context, checkpoint: &Checkpoint, more: u64) -> Result<Model, Failure> {
    room(checkpoint, checkpoint.spec().total_bytes().saturating_add(more))?;
    let model = Model::load(checkpoint)?;
    context.interrupt.check()?;
    Ok(model)
}

/// Loads what the budget allows, which is all where there is none.
pub fn load_within(
    context: &Context,
    checkpoint: &Arc<Checkpoint>,
    memory: &Memory,
) -> Result<Model, Failure> {
    let spec = checkpoint.spec();
    let Some(budget) = memory.budget.filter(|&budget| budget < spec.total_bytes()) else {
        return load(context, checkpoint, 0);
    };
    room(checkpoint, budget)?;
    let before = memory.used_before.as_ref().map(|path| experts::read(context, path, spec)).transpose()?;
    let policy = (memory.policy.0)(before.as_ref());
    let model = Model::load_within(checkpoint.clone(), budget, policy, memory.read_ahead)?;
    context.interrupt.check()?;
    Ok(model)
}

fn room(checkpoint: &Checkpoint, needed: u64) -> Result<(), Failure> {
    if let Some(available) = available_memory().filter(|&available| available < needed) {
        let (needed, available) = (output::bytes(needed), output::bytes(available));
        let message = format!(
            "{}: not enough memory: at least {needed} needed, {available} available",
            checkpoint.dir().display()
        );
        return Err(Failure::new(Reason::NoSpace, message));
    }
    Ok(())
}

/// What went wrong while a checkpoint ran on tokens: the fault of the model, or of `tokens`, an option or a file.
pub fn blame(checkpoint: &Checkpoint, tokens: &str, error: RuntimeError) -> Failure {
    let at_fault = match error.kind() {
        ErrorKind::BadInput if !matches!(error, RuntimeError::Checkpoint(_)) => {
            checkpoint.dir().display().to_string()
        }
        ErrorKind::Usage => tokens.to_owned(),
        _ => return error.into(),
    };
    let message = format!("{at_fault}: {error}");
    Failure { message, ..error.into() }
}

/// The tokenizer of a checkpoint.
pub fn tokenizer(context: &Context, checkpoint: &Checkpoint) -> Result<Tokenizer, Failure> {
    Ok(Tokenizer::open(context.files.as_ref(), checkpoint.dir(), checkpoint.spec().vocab)?)
}
