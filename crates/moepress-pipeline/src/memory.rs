//! How much memory a run will need, from sizes alone.

use moepress_model::{ModelSpec, Tensor};

/// What a run holds at its peak.
pub struct Load {
    /// Calibration tokens; none when nothing is measured.
    pub tokens: usize,
    /// Tokens of a window.
    pub window: usize,
    /// Whether a sweep goes backward.
    pub backward: bool,
    /// Whether the result is compared with the original.
    pub evaluates: bool,
    /// Threads.
    pub threads: usize,
}

/// Tokens of a chunk that a thread works on.
const CHUNK: usize = 1024;
/// The binary, the tokenizer, allocator slack.
const BASE: u64 = 60 << 20;

/// Predicted peak of resident memory in bytes.
pub fn peak(before: &ModelSpec, after: &ModelSpec, load: &Load) -> u64 {
    let weights =
        |tensor: Tensor| before.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>() as u64);
    let layer =
        |layer: usize| before.parts(layer).into_iter().map(|part| weights(Tensor::Layer(layer, part))).sum();
    let largest: u64 = (0..before.layers.len()).map(layer).max().unwrap_or(0);
    let ends = weights(Tensor::Embedding) + weights(Tensor::Head);
    let chunk = CHUNK.max(load.window) as u64;
    let threads = load.threads as u64;
    // f32 copies of the layer and of the ends, beside what they are stored as.
    let resident = 6 * (largest + ends);
    let boundaries = if load.backward { before.layers.len() as u64 + 2 } else { 3 };
    let kept = 4 * load.tokens as u64 * before.hidden as u64 * boundaries;
    let attention = chunk * load.window as u64 * before.attention.heads as u64 * 4;
    let logits = chunk * before.vocab as u64 * 4;
    let states = chunk * before.hidden as u64 * 4;
    let copies = if load.backward { 6 } else { 3 };
    let sweeping = resident + kept + threads * copies * (attention.max(logits) + 4 * states);
    // What is carried along is never loaded whole.
    let loaded = |spec: &ModelSpec| spec.total_bytes() - spec.carried.values().map(|c| c.bytes).sum::<u64>();
    let evaluating = loaded(before) + loaded(after) + threads * (3 * attention + (32 << 20) + 8 * states);
    let sweeping = if load.tokens > 0 { sweeping } else { resident };
    BASE + sweeping.max(if load.evaluates { evaluating } else { 0 })
}
