//! Keys and values of what a sequence has seen.

use moepress_model::Attention;

/// Tokens that a cache makes room for at a time.
const STEP: usize = 256;

/// A run of tokens of one sequence within a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Tokens.
    pub tokens: usize,
    /// Position of the first; as many are in the cache.
    pub start: usize,
    /// Tokens of the sequence when the batch is done; positions may turn by it.
    pub length: usize,
}

/// The cache of a sequence: one per layer.
pub(crate) type Cache = Vec<LayerCache>;

/// Keys and values of one layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerCache {
    /// Per key head the keys `[tokens, head_dim]`.
    pub(crate) keys: Vec<Vec<f32>>,
    /// Per key head the values `[tokens, value_dim]`.
    pub(crate) values: Vec<Vec<f32>>,
}

impl LayerCache {
    /// Appends keys `[tokens, kv_heads · head_dim]` and values `[tokens, kv_heads · value_dim]`.
    pub(crate) fn append(&mut self, attention: &Attention, keys: &[f32], values: &[f32]) {
        append(&mut self.keys, keys, attention.kv_heads, attention.head_dim);
        append(&mut self.values, values, attention.kv_heads, attention.value_dim);
    }

    /// Forgets everything, and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.keys.iter_mut().chain(&mut self.values).for_each(Vec::clear);
    }
}

fn append(heads: &mut Vec<Vec<f32>>, rows: &[f32], count: usize, channels: usize) {
    heads.resize_with(count, Vec::new);
    let tokens = rows.len() / (count * channels);
    for (head, seen) in heads.iter_mut().enumerate() {
        // Doubling would hold up to twice the memory that is needed.
        if seen.capacity() - seen.len() < tokens * channels {
            seen.reserve_exact(tokens.next_multiple_of(STEP) * channels);
        }
        for row in rows.chunks_exact(count * channels) {
            seen.extend_from_slice(&row[head * channels..(head + 1) * channels]);
        }
    }
}
