//! Walking the layers.

use crate::chunk::windows_per_chunk;
use moepress_checkpoint::{CheckpointError, Progress, Source};
use moepress_model::Tensor as Name;
use moepress_nn::{Block, BlockError, Builder, Device, Ends, Rotary, dense, to_rows};
use moepress_stats::{Need, Needs, Of, Quantity, Statistics, StatisticsError};
use rayon::prelude::*;

/// Chunks whose sums are held at a time; fixed, so that the order of additions is.
const CHUNKS_AT_ONCE: usize = 8;

/// Why a sweep ended early.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// Weights could not be read.
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
    /// The caller asked for an end.
    #[error("interrupted")]
    Cancelled,
}

/// Windows of equal length that run as one batch.
pub(crate) struct Chunk {
    ids: Vec<u32>,
    pub(crate) batch: usize,
    window: usize,
}

/// The rows of a chunk that predict, and what they should predict.
pub(crate) struct Predicting {
    pub(crate) rows: Vec<u32>,
    pub(crate) targets: Vec<u32>,
}

impl Chunk {
    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Every token but the last of a window predicts the next.
    pub(crate) fn predicting(&self) -> Predicting {
        let rows: Vec<u32> =
            (0..self.ids.len() as u32).filter(|row| !(row + 1).is_multiple_of(self.window as u32)).collect();
        let targets = rows.iter().map(|&row| self.ids[row as usize + 1]).collect();
        Predicting { rows, targets }
    }
}

/// What stays the same during a sweep.
pub(crate) struct Sweep<'a> {
    pub(crate) needs: &'a Needs,
    pub(crate) hidden: usize,
    pub(crate) device: Device,
    pub(crate) rotary: Rotary,
}

/// Measures `needs` on windows of token ids of one length, on the model as `source` has it. Tensors live on
/// `device`; only on the CPU is the result the same bit for bit wherever it runs.
///
/// # Errors
/// The weights cannot be read or do not fit, a statistic is not finite, or the caller cancelled.
pub fn sweep(
    source: &dyn Source,
    windows: &[Vec<u32>],
    needs: &Needs,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Statistics, CalibrateError> {
    let spec = source.spec();
    let device = device.clone();
    let window = windows.first().map_or(0, Vec::len);
    let chunks: Vec<Chunk> = windows
        .chunks(windows_per_chunk(window))
        .map(|windows| Chunk { ids: windows.concat(), batch: windows.len(), window })
        .collect();
    let rotary = Rotary::new(&spec.attention, 0, window, &device);
    let run = Sweep { needs, hidden: spec.hidden, device, rotary };
    let ends = Ends::new(
        spec,
        |name| source.tensor(name).map_err(CalibrateError::from),
        &|stored| dense(&stored, &run.device),
        &run.device,
    )?;
    let steps = spec.layers.len() as u64 * if needs.backward() { 2 } else { 1 };
    let mut stats = Statistics::default();
    stats.add(Of::Model, Quantity::Tokens, vec![(windows.len() * window) as f64])?;

    let mut boundaries: Vec<Vec<Vec<f32>>> = Vec::new();
    let mut hidden: Vec<Vec<f32>> =
        chunks.iter().map(|chunk| to_rows(ends.embed(&chunk.ids, &run.device))).collect();
    for layer in 0..spec.layers.len() {
        check(progress)?;
        let block = load_block(source, layer, &run.device)?;
        let next = in_order(&chunks, &mut stats, |index, chunk| {
            run.forward(&block, layer, chunk, hidden[index].clone())
        })?;
        let before = std::mem::replace(&mut hidden, next);
        if needs.backward() {
            boundaries.push(before);
        }
        progress.step("calibrate", layer as u64 + 1, steps);
    }
    if needs.backward() {
        let mut gradients =
            in_order(&chunks, &mut stats, |index, chunk| run.loss(&ends, chunk, hidden[index].clone()))?;
        while let Some(before) = boundaries.pop() {
            let layer = boundaries.len();
            check(progress)?;
            let block = load_block(source, layer, &run.device)?;
            gradients = in_order(&chunks, &mut stats, |index, chunk| {
                run.backward(&block, layer, chunk, &before[index], gradients[index].clone())
            })?;
            progress.step("calibrate", steps - layer as u64, steps);
        }
        if needs.has(Need::Fisher) {
            embedding_weights(spec.vocab, spec.hidden, &chunks, &gradients, &mut stats)?;
        }
    }
    stats.check_finite()?;
    Ok(stats)
}

/// Runs `work` on every chunk in parallel and adds its sums in the order of the chunks.
fn in_order<T: Send>(
    chunks: &[Chunk],
    stats: &mut Statistics,
    work: impl Fn(usize, &Chunk) -> Result<(T, Statistics), CalibrateError> + Sync,
) -> Result<Vec<T>, CalibrateError> {
    let mut all = Vec::with_capacity(chunks.len());
    for (block, group) in chunks.chunks(CHUNKS_AT_ONCE).enumerate() {
        let results: Vec<_> = group
            .par_iter()
            .enumerate()
            .map(|(index, chunk)| work(block * CHUNKS_AT_ONCE + index, chunk))
            .collect();
        for result in results {
            let (value, part) = result?;
            stats.merge(part)?;
            all.push(value);
        }
    }
    Ok(all)
}

/// Uses of every token, and the gradient energy of the embedded hidden states.
fn embedding_weights(
    vocab: usize,
    hidden: usize,
    chunks: &[Chunk],
    gradients: &[Vec<f32>],
    stats: &mut Statistics,
) -> Result<(), StatisticsError> {
    let of = Of::Tensor(Name::Embedding);
    let mut uses = vec![0.0; vocab];
    chunks.iter().flat_map(|chunk| &chunk.ids).for_each(|&id| uses[id as usize] += 1.0);
    stats.add(of, Quantity::RowWeight, uses)?;
    gradients.iter().try_for_each(|g| stats.add(of, Quantity::ColumnWeight, crate::sums::squares(g, hidden)))
}

fn load_block(source: &dyn Source, layer: usize, device: &Device) -> Result<Block, CalibrateError> {
    let weights = source.layer(layer)?;
    Ok(Builder::new(source.spec(), layer, weights, &|stored| dense(&stored, device), device).block()?)
}

fn check(progress: &dyn Progress) -> Result<(), CalibrateError> {
    if progress.cancelled() { Err(CalibrateError::Cancelled) } else { Ok(()) }
}
