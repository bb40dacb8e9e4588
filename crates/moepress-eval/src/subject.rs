//! What is evaluated: a model in memory, or one that is read layer by layer.

use crate::EvalError;
use crate::score::Chunk;
use moepress_calibrate::{Chunk as Windows, Layout, Passage, Spool};
use moepress_checkpoint::{Progress, Source};
use moepress_model::ModelSpec;
use moepress_nn::{Device, Head, Tensor};
use moepress_runtime::{Blocks, RuntimeError, check, packed};
use std::time::Instant;

/// A model to evaluate.
pub enum Subject<'a> {
    /// All of it is in memory.
    Loaded(&'a Blocks),
    /// It is read layer by layer.
    Streamed(Streamed<'a>),
}

/// A model that is read layer by layer while all windows go through it.
pub struct Streamed<'a> {
    /// Its weights.
    pub source: &'a dyn Source,
    /// How many experts of a layer are in memory at a time.
    pub layout: Layout,
    /// Where hidden states go: a directory for this model alone.
    pub spool: Spool,
}

impl Subject<'_> {
    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        match self {
            Self::Loaded(model) => model.spec(),
            Self::Streamed(streamed) => streamed.source.spec(),
        }
    }

    /// Makes ready to score these chunks; of a streamed model, takes them to its last layer. `phase` names that.
    pub(crate) fn start<'b>(
        &'b self,
        chunks: &[Chunk],
        phase: &'static str,
        progress: &'b dyn Progress,
    ) -> Result<Running<'b>, EvalError> {
        let Streamed { source, layout, spool } = match self {
            Self::Loaded(model) => return Ok(Running::Loaded(model)),
            Self::Streamed(streamed) => streamed,
        };
        let spec = source.spec();
        chunks.iter().try_for_each(|chunk| check(spec, &chunk.ids, chunk.window))?;
        let windows = |chunk: &Chunk| Windows::new(chunk.ids.clone(), chunk.window);
        let windows = chunks.iter().map(windows).collect();
        let started = Instant::now();
        let passage = Passage::new(*source, &packed, windows, layout, spool.clone(), phase, progress)?;
        let tensor = |tensor| source.tensor(tensor).map_err(RuntimeError::from);
        let head = Head::new(spec, tensor, None, &packed, &Device::flex())?;
        let seconds = started.elapsed().as_secs_f64();
        Ok(Running::Streamed(Box::new(Walked { spec, passage, head, seconds })))
    }
}

/// A model that is ready to score chunks.
pub(crate) enum Running<'a> {
    Loaded(&'a Blocks),
    Streamed(Box<Walked<'a>>),
}

/// All chunks after the layers of a model, and what follows those.
pub(crate) struct Walked<'a> {
    spec: &'a ModelSpec,
    passage: Passage<'a>,
    head: Head,
    /// Wall time that the layers took.
    seconds: f64,
}

impl Running<'_> {
    pub(crate) fn vocab(&self) -> usize {
        match self {
            Self::Loaded(model) => model.spec().vocab,
            Self::Streamed(walked) => walked.spec.vocab,
        }
    }

    /// Hidden states of a chunk after the last layer, `[tokens, hidden]`.
    pub(crate) fn hidden(&self, chunk: &Chunk) -> Result<Tensor<2>, EvalError> {
        match self {
            Self::Loaded(model) => Ok(model.hidden(&chunk.ids, chunk.ids.len() / chunk.window)?),
            Self::Streamed(walked) => Ok(walked.passage.hidden(chunk.index)?),
        }
    }

    pub(crate) fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Loaded(model) => model.logits(hidden),
            Self::Streamed(walked) => walked.head.logits(hidden),
        }
    }

    /// Wall time spent before any chunk was scored.
    pub(crate) fn seconds(&self) -> f64 {
        match self {
            Self::Loaded(_) => 0.0,
            Self::Streamed(walked) => walked.seconds,
        }
    }

    /// Removes what was kept on disk.
    pub(crate) fn close(self) -> Result<(), EvalError> {
        match self {
            Self::Loaded(_) => Ok(()),
            Self::Streamed(walked) => Ok(walked.passage.close()?),
        }
    }
}
