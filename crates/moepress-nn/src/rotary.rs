//! Rotary positions.

use burn::tensor::{Device, Tensor, TensorData};
use moepress_model::{Attention, Pairs};
use std::ops::Range;

/// Cosines and sines of consecutive positions, each `[1, 1, tokens, dims]` (halves repeated).
pub struct Rotary {
    cos: Tensor<4>,
    sin: Tensor<4>,
    pairs: Pairs,
    /// Whether the rotated channels are the last of a head.
    last: bool,
}

impl Rotary {
    /// Tables for `tokens` positions from `start`, in a sequence that ends there.
    pub fn new(attention: &Attention, start: usize, tokens: usize, device: &Device) -> Self {
        Self::part(attention, start..start + tokens, start + tokens, device)
    }

    /// Tables for these positions in a sequence of `length` tokens.
    pub fn part(attention: &Attention, positions: Range<usize>, length: usize, device: &Device) -> Self {
        let rope = &attention.rope;
        let tokens = positions.len();
        let frequencies = rope.frequencies();
        let amplitude = rope.amplitude(length);
        let half = frequencies.len();
        let table = |f: fn(f64) -> f64| {
            let value = |position: usize, channel: usize| {
                (amplitude * f(position as f64 * frequencies[channel % half])) as f32
            };
            let values: Vec<f32> = positions
                .clone()
                .flat_map(|position| (0..2 * half).map(move |channel| (position, channel)))
                .map(|(position, channel)| value(position, channel))
                .collect();
            Tensor::from_data(TensorData::new(values, [1, 1, tokens, 2 * half]), device)
        };
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
            pairs: rope.pairs,
            last: attention.latent.is_some(),
        }
    }

    /// Rotates the positional channels of `[batch, heads, tokens, head_dim]`. Neighbouring pairs come out apart,
    /// evens before odds: queries and keys alike, so that their products are the same.
    pub(crate) fn heads(&self, x: Tensor<4>) -> Tensor<4> {
        let ([batch, heads, tokens, dim], [.., rotated]) = (x.dims(), self.cos.dims());
        if rotated == dim {
            return self.apply(x);
        }
        let channels = |range| x.clone().slice([0..batch, 0..heads, 0..tokens, range]);
        match self.last {
            true => {
                Tensor::cat(vec![channels(0..dim - rotated), self.apply(channels(dim - rotated..dim))], 3)
            }
            false => Tensor::cat(vec![self.apply(channels(0..rotated)), channels(rotated..dim)], 3),
        }
    }

    /// Rotates all channels of `[batch, heads, tokens, dims]`.
    pub(crate) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, tokens, dim] = x.dims();
        let x = match self.pairs {
            Pairs::Halves => x,
            Pairs::Neighbours => {
                let pairs = x.reshape([batch * heads * tokens, dim / 2, 2]);
                pairs.swap_dims(1, 2).reshape([batch, heads, tokens, dim])
            }
        };
        let low = x.clone().slice([0..batch, 0..heads, 0..tokens, 0..dim / 2]);
        let high = x.clone().slice([0..batch, 0..heads, 0..tokens, dim / 2..dim]);
        let turned = Tensor::cat(vec![high.neg(), low], 3);
        x * self.cos.clone() + turned * self.sin.clone()
    }
}
