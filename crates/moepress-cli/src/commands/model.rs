//! A model that a command runs.

use super::Context;
use super::experts::{self, Memory};
use crate::args::Place;
use crate::failure::{Failure, Reason};
use crate::output;
use moepress_checkpoint::{Checkpoint, ErrorKind, Source, available_memory};
use moepress_gpu::GpuError;
use moepress_nn::{Backend, Device};
use moepress_pipeline::{Loader, PipelineError};
use moepress_runtime::{Blocks, Model, RuntimeError};
use moepress_text::Tokenizer;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Opens a checkpoint that is about to be run: a compact one must match its digests.
pub fn open(context: &Context, path: &Path) -> Result<Checkpoint, Failure> {
    let checkpoint = Checkpoint::open(&context.files, path)?;
    checkpoint.verify()?;
    context.interrupt.check()?;
    Ok(checkpoint)
}

/// Loads all weights, if there is memory for them and for `more` bytes, onto the device asked for.
pub fn load(context: &Context, checkpoint: &Checkpoint, more: u64, place: Place) -> Result<Model, Failure> {
    let on = |backend| -> Result<Model, Failure> {
        if backend == Backend::Cpu {
            room(checkpoint, checkpoint.spec().unpacked().total_bytes().saturating_add(more))?;
        }
        Ok(moepress_gpu::load(checkpoint, backend)?)
    };
    let (model, _) = on_first(place, on)?;
    context.interrupt.check()?;
    Ok(model)
}

/// What `load` loads onto the device asked for, or where the choice is ours onto the first where it can, and which that
/// is. What was chosen goes to stderr.
fn on_first<T>(place: Place, load: impl Fn(Backend) -> Result<T, Failure>) -> Result<(T, Backend), Failure> {
    let Place::On(backend) = place else {
        let mut reasons = Vec::new();
        for backend in [Backend::Cuda, Backend::Wgpu] {
            match load(backend) {
                Ok(loaded) => {
                    output::stderr(&format!("computing on {backend}"));
                    return Ok((loaded, backend));
                }
                Err(failure) => reasons.push(failure.message),
            }
        }
        output::stderr(&format!("computing on the CPU: {}", reasons.join("; ")));
        return Ok((load(Backend::Cpu)?, Backend::Cpu));
    };
    Ok((load(backend)?, backend))
}

/// The device that calibration computes on, and of which backend it is.
pub fn device(place: Place) -> Result<(Device, Backend), Failure> {
    on_first(place, |backend| Ok(backend.device()?))
}

/// A device other than the CPU, for the pipeline.
pub struct OnDevice(Backend);

impl OnDevice {
    /// The device asked for, or the first that takes these models at once; none for the CPU.
    pub fn choose(place: Place, models: &[&Checkpoint]) -> Result<Option<Self>, Failure> {
        let (_, backend) = on_first(place, |backend| {
            let load = |model: &&Checkpoint| Ok(moepress_gpu::load_blocks(*model, backend)?);
            match (backend, place) {
                // Tried only where there is another choice.
                (Backend::Cuda | Backend::Wgpu, Place::Auto) => {
                    models.iter().map(load).collect::<Result<Vec<_>, Failure>>().map(drop)
                }
                _ => {
                    backend.device()?;
                    Ok(())
                }
            }
        })?;
        Ok((backend != Backend::Cpu).then_some(Self(backend)))
    }

    fn loaded<T>(loaded: Result<T, GpuError>) -> Result<T, PipelineError> {
        loaded.map_err(|error| PipelineError::Device { message: error.to_string(), kind: error.kind() })
    }
}

impl fmt::Display for OnDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Loader for OnDevice {
    fn blocks(&self, model: &Checkpoint) -> Result<Blocks, PipelineError> {
        Self::loaded(moepress_gpu::load_blocks(model, self.0))
    }

    fn model(&self, model: &Checkpoint) -> Result<Model, PipelineError> {
        Self::loaded(moepress_gpu::load(model, self.0))
    }
}

/// Loads what the budget allows, which is all where there is none. Codes go into bit fields only where all of them fit.
pub fn load_within(
    context: &Context,
    checkpoint: &Arc<Checkpoint>,
    memory: &Memory,
    place: Place,
) -> Result<Model, Failure> {
    let spec = checkpoint.spec();
    let Some(budget) = memory.budget.filter(|&budget| budget < spec.unpacked().total_bytes()) else {
        return load(context, checkpoint, 0, place);
    };
    if place != Place::On(Backend::Cpu) {
        return Err(Failure::usage(
            "--memory-budget needs --device cpu: on a device all weights are in its memory",
        ));
    }
    room(checkpoint, budget)?;
    if budget >= spec.total_bytes() {
        let model = Model::load_as_stored(&**checkpoint)?;
        context.interrupt.check()?;
        return Ok(model);
    }
    let before = memory.used_before.as_ref().map(|path| experts::read(context, path, spec)).transpose()?;
    let policy = (memory.policy.0)(before.as_ref());
    let model = Model::load_within(checkpoint.clone(), budget, policy, memory.read_ahead, memory.on_miss)?;
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
