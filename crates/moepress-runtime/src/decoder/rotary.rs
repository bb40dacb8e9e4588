//! Rotary positions.

use crate::decoder::Span;
use moepress_model::{Attention, Pairs};

/// Cosines and sines of the positions of a span, each `[tokens, pairs]`.
pub(crate) struct Rotary {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: Pairs,
    dims: usize,
}

impl Rotary {
    pub(crate) fn new(attention: &Attention, span: &Span) -> Self {
        let (frequencies, amplitude) = (attention.rope.frequencies(), attention.rope.amplitude(span.length));
        let angles = || {
            let positions = span.start..span.start + span.tokens;
            positions.flat_map(|position| frequencies.iter().map(move |f| position as f64 * f))
        };
        Self {
            cos: angles().map(|angle| (amplitude * angle.cos()) as f32).collect(),
            sin: angles().map(|angle| (amplitude * angle.sin()) as f32).collect(),
            pairs: attention.rope.pairs,
            dims: attention.rope.dims,
        }
    }

    /// Turns the `dims` rotated channels of a head of token `token` of the span.
    pub(crate) fn turn(&self, token: usize, channels: &mut [f32]) {
        let pairs = self.dims / 2;
        let table = |values: &[f32], pair: usize| values[token * pairs + pair];
        for pair in 0..pairs {
            let (low, high) = match self.pairs {
                Pairs::Halves => (pair, pair + pairs),
                Pairs::Neighbours => (2 * pair, 2 * pair + 1),
            };
            let (a, b) = (channels[low], channels[high]);
            let (cos, sin) = (table(&self.cos, pair), table(&self.sin, pair));
            channels[low] = a * cos - b * sin;
            channels[high] = b * cos + a * sin;
        }
    }
}
