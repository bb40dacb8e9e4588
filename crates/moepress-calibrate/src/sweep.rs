//! Walking the layers.

use crate::activations::{Activations, Slot, Spool};
use crate::chunk::Chunk;
use crate::layer::{Layer, dense_on};
use crate::layout::{Layout, Work};
use crate::windows::Windows;
use moepress_checkpoint::{CheckpointError, ErrorKind, Progress, Source};
use moepress_model::{ModelSpec, Tensor as Name};
use moepress_nn::{BlockError, Device, Embedding, Head, Rotary, Tensor, from_rows, to_rows};
use moepress_stats::{Need, Needs, Of, Quantity, Statistics, StatisticsError};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a sweep ended early.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// Weights could not be read, or activations not kept.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Weights do not fit the description.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A sum is not finite.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// A gradient that every token has was not formed.
    #[error("no gradient reached {0}: this is a fault of moepress, please report it")]
    NoGradient(String),
    /// The limit on memory is too low for any way of working.
    #[error("at least {needed} bytes of memory are needed, the limit is {limit}")]
    Memory {
        /// The least that would do.
        needed: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The caller asked for an end.
    #[error("interrupted")]
    Cancelled,
}

impl CalibrateError {
    /// What the error means to whoever started the run; an interruption has no kind.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Checkpoint(e) => Some(e.kind()),
            Self::Block(_) | Self::NoGradient(_) => Some(ErrorKind::Io),
            Self::Statistics(_) => Some(ErrorKind::BadInput),
            Self::Memory { .. } => Some(ErrorKind::NoSpace),
            Self::Cancelled => None,
        }
    }
}

/// What a sweep may use.
#[derive(Clone)]
pub struct Means {
    /// Where tensors live; only on the CPU is the result the same bit for bit wherever it runs.
    pub device: Device,
    /// Most memory the process may have resident, in bytes; none for as much as the sweep likes.
    pub memory: Option<u64>,
    /// Where activations may go when they do not fit; without it they stay in memory.
    pub spool: Option<Spool>,
}

impl Means {
    /// This device, and as much memory as the sweep likes.
    pub fn unlimited(device: &Device) -> Self {
        Self { device: device.clone(), memory: None, spool: None }
    }
}

/// What stays the same during a sweep.
pub(crate) struct Sweep<'a> {
    pub needs: Needs,
    pub hidden: usize,
    pub device: Device,
    /// By the length of windows.
    rotary: BTreeMap<usize, Rotary>,
    pub chunks: Vec<Chunk>,
    /// Texts that the windows are from.
    pub texts: usize,
    pub progress: &'a dyn Progress,
    /// What it is called in progress.
    phase: &'static str,
    /// Chunk passes done, and in all; none in all where the caller has another measure of progress.
    steps: (AtomicU64, u64),
}

/// Measures `needs` on windows of token ids of one length, on the model as `source` has it. The memory that is
/// allowed decides how the sweep works, not what it comes to.
///
/// # Errors
/// The weights cannot be read or do not fit, a statistic is not finite, the memory is too little for any way of
/// working, or the caller cancelled.
pub fn sweep<'a>(
    source: &dyn Source,
    windows: impl Into<Windows<'a>>,
    needs: &Needs,
    means: &Means,
    progress: &dyn Progress,
) -> Result<Statistics, CalibrateError> {
    let windows = windows.into();
    let window = windows.ids.first().map_or(0, Vec::len);
    let (tokens, threads) = (windows.ids.len() * window, rayon::current_num_threads());
    let work = Work { tokens, window, threads, needs, packed: false };
    let layout = Layout::choose(source.spec(), &work, means.memory, means.spool.is_some())
        .map_err(|needed| CalibrateError::Memory { needed, limit: means.memory.unwrap_or(u64::MAX) })?;
    sweep_as(source, windows, needs, means, &layout, progress)
}

/// The same, in a way of working that the caller chose.
///
/// # Errors
/// As [`sweep`], but for the memory.
pub fn sweep_as<'a>(
    source: &dyn Source,
    windows: impl Into<Windows<'a>>,
    needs: &Needs,
    means: &Means,
    layout: &Layout,
    progress: &dyn Progress,
) -> Result<Statistics, CalibrateError> {
    let passes = layout.passes(source.spec(), needs);
    let windows = windows.into();
    let (chunks, texts) = (Chunk::cut(&windows), windows.texts);
    let run = Sweep::new(source.spec(), chunks, texts, needs.clone(), &means.device, passes, progress);
    let mut acts = Activations::new(means.spool.clone().filter(|_| layout.spooled))?;
    let stats = run.walk(source, layout, &mut acts)?;
    acts.close()?;
    stats.check_finite()?;
    Ok(stats)
}

impl<'a> Sweep<'a> {
    /// A sweep over chunks from so many texts that takes so many passes over all of them.
    pub fn new(
        spec: &ModelSpec,
        chunks: Vec<Chunk>,
        texts: usize,
        needs: Needs,
        device: &Device,
        passes: u64,
        progress: &'a dyn Progress,
    ) -> Self {
        let rotary =
            |chunk: &Chunk| (chunk.window(), Rotary::new(&spec.attention, 0, chunk.window(), device));
        Self {
            needs,
            hidden: spec.hidden,
            device: device.clone(),
            rotary: chunks.iter().map(rotary).collect(),
            phase: "calibrate",
            steps: (AtomicU64::new(0), passes * chunks.len() as u64),
            chunks,
            texts,
            progress,
        }
    }

    /// The same under another name in progress.
    pub fn called(self, phase: &'static str) -> Self {
        Self { phase, ..self }
    }

    fn walk(
        &self,
        source: &dyn Source,
        layout: &Layout,
        acts: &mut Activations,
    ) -> Result<Statistics, CalibrateError> {
        let spec = source.spec();
        let mut stats = Statistics::default();
        let tokens: usize = self.chunks.iter().map(Chunk::tokens).sum();
        stats.add(Of::Model, Quantity::Tokens, vec![tokens as f64])?;
        if self.needs.has(Need::Texts) {
            let mut tokens = vec![0.0; self.texts];
            for chunk in &self.chunks {
                (0..chunk.tokens()).for_each(|token| tokens[chunk.text_of(token)] += 1.0);
            }
            stats.add(Of::Model, Quantity::TextTokens, tokens)?;
        }
        self.embed(source, acts)?;
        let last = spec.layers.len();
        let linear = dense_on(&self.device);
        for layer in 0..last {
            let mut layer = Layer::new(source, layer, &linear, &self.device, layout.experts);
            if self.needs.has(Need::RoundedOutputs) {
                self.rounded(&layer, acts, &mut stats)?;
            }
            self.forward(&mut layer, acts, &mut stats)?;
            if !self.needs.backward() {
                acts.drop(Slot::Boundary(layer.index))?;
            }
        }
        if !self.needs.backward() {
            return Ok(stats);
        }
        let tensor = |name| source.tensor(name).map_err(CalibrateError::from);
        let head = Head::new(spec, tensor, None, &linear, &self.device)?;
        self.pass(acts, &mut stats, &[Slot::Gradient(last)], |acts, i, chunk| {
            let (gradient, stats) =
                self.loss(&head, spec.vocab, chunk, &acts.read(Slot::Boundary(last), i)?)?;
            Ok((vec![gradient], stats))
        })?;
        drop(head);
        acts.drop(Slot::Boundary(last))?;
        for layer in (0..last).rev() {
            let mut layer = Layer::new(source, layer, &linear, &self.device, layout.experts);
            self.backward(&mut layer, acts, &mut stats)?;
            acts.drop(Slot::Boundary(layer.index))?;
            acts.drop(Slot::Gradient(layer.index + 1))?;
        }
        if self.needs.has(Need::Fisher) {
            self.embedding_weights(spec.vocab, acts, &mut stats)?;
        }
        Ok(stats)
    }

    /// The hidden states before the first layer.
    pub fn embed(&self, source: &dyn Source, acts: &mut Activations) -> Result<(), CalibrateError> {
        let tensor = |name| source.tensor(name).map_err(CalibrateError::from);
        let embedding = Embedding::new(source.spec(), tensor)?;
        self.pass(acts, &mut Statistics::default(), &[Slot::Boundary(0)], |_, _, chunk| {
            Ok((vec![to_rows(embedding.embed(&chunk.ids, &self.device))], Statistics::default()))
        })
    }

    /// Runs `work` on every chunk in parallel; adds its sums and keeps what it returns for `slots` in the order of
    /// the chunks, so that neither depends on the number of threads.
    pub(crate) fn pass(
        &self,
        acts: &mut Activations,
        stats: &mut Statistics,
        slots: &[Slot],
        work: impl Fn(&Activations, usize, &Chunk) -> Result<(Vec<Vec<f32>>, Statistics), CalibrateError> + Sync,
    ) -> Result<(), CalibrateError> {
        let at_once = 2 * rayon::current_num_threads();
        let indexed: Vec<(usize, &Chunk)> = self.chunks.iter().enumerate().collect();
        for group in indexed.chunks(at_once) {
            if self.progress.cancelled() {
                return Err(CalibrateError::Cancelled);
            }
            let shared = &*acts;
            let results: Vec<_> =
                group.par_iter().map(|&(index, chunk)| work(shared, index, chunk)).collect();
            for (&(index, _), result) in group.iter().zip(results) {
                let (values, part) = result?;
                stats.merge(part)?;
                for (&slot, values) in slots.iter().zip(values) {
                    acts.write(slot, index, values)?;
                }
            }
            let (done, all) = (&self.steps.0, self.steps.1);
            let here = group.len() as u64;
            if all > 0 {
                self.progress.step(self.phase, done.fetch_add(here, Ordering::Relaxed) + here, all);
            }
        }
        slots.iter().try_for_each(|&slot| acts.finish(slot))
    }

    /// Rows of a chunk as a tensor.
    pub(crate) fn rows(&self, values: Vec<f32>, chunk: &Chunk) -> Tensor<2> {
        from_rows(values, [chunk.tokens(), self.hidden], &self.device)
    }

    /// Turns of the positions of a chunk.
    pub(crate) fn rotary(&self, chunk: &Chunk) -> &Rotary {
        &self.rotary[&chunk.window()]
    }

    /// Uses of every token, and the gradient energy of the embedded hidden states.
    fn embedding_weights(
        &self,
        vocab: usize,
        acts: &Activations,
        stats: &mut Statistics,
    ) -> Result<(), CalibrateError> {
        let of = Of::Tensor(Name::Embedding);
        let mut uses = vec![0.0; vocab];
        self.chunks.iter().flat_map(|chunk| &chunk.ids).for_each(|&id| uses[id as usize] += 1.0);
        stats.add(of, Quantity::RowWeight, uses)?;
        for index in 0..self.chunks.len() {
            let gradient = acts.read(Slot::Gradient(0), index)?;
            stats.add(of, Quantity::ColumnWeight, crate::sums::squares(&gradient, self.hidden))?;
        }
        Ok(())
    }
}
