//! Rotary positions.

use burn::tensor::{Device, Tensor, TensorData};
use moepress_model::{Attention, Pairs, Rope, RopeScaling};
use std::f64::consts::TAU;
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
        let frequencies = frequencies(rope);
        let amplitude = amplitude(&rope.scaling, length);
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

/// Radians per position of every pair of channels.
fn frequencies(rope: &Rope) -> Vec<f64> {
    let dims = rope.dims as f64;
    let plain = (0..rope.dims / 2).map(|pair| rope.theta.powf(-2.0 * pair as f64 / dims));
    match &rope.scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Long { divisors, .. } => plain.zip(divisors).map(|(f, divisor)| f / divisor).collect(),
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
            // The pair that turns `rotations` times within the original context (YaRN, section 3.2).
            let pair = |rotations: f64| {
                dims * (*original_context as f64 / (rotations * TAU)).ln() / (2.0 * rope.theta.ln())
            };
            let (low, high) = match truncate {
                true => (pair(*beta_fast).floor(), pair(*beta_slow).ceil()),
                false => (pair(*beta_fast), pair(*beta_slow)),
            };
            let (low, high) = (low.max(0.0), high.min(dims - 1.0));
            let high = if low == high { high + 0.001 } else { high };
            let mix = |(pair, frequency): (usize, f64)| {
                let stretched = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / factor * stretched + frequency * (1.0 - stretched)
            };
            plain.enumerate().map(mix).collect()
        }
    }
}

/// What cosines and sines are multiplied by in a sequence of `tokens`.
fn amplitude(scaling: &RopeScaling, tokens: usize) -> f64 {
    match scaling {
        RopeScaling::None => 1.0,
        RopeScaling::Yarn { amplitude, .. } => *amplitude,
        RopeScaling::Long { original_context, short_amplitude, long_amplitude, .. } => {
            if tokens > *original_context { *long_amplitude } else { *short_amplitude }
        }
    }
}
