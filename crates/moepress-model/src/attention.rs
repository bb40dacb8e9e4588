//! What attention is made of.

use crate::part::Map;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// Causal attention with rotary positions, the same in every layer but for its window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Channels of a query or key head.
    pub head_dim: usize,
    /// Channels of a value head.
    pub value_dim: usize,
    /// What the products of queries and keys are multiplied by.
    pub scale: f64,
    /// Maps that have a bias.
    pub biases: Vec<Map>,
    /// Compression of keys and values; none when they are computed from the hidden states.
    pub latent: Option<Latent>,
    /// The norm of queries and keys.
    pub norm: Option<QueryKeyNorm>,
    /// Queries, keys and values are limited to ±this.
    pub clip: Option<f64>,
    /// Whether every query head has a sink.
    pub sinks: bool,
    /// Rotary positions.
    pub rope: Rope,
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1). Its rotated channels are the
/// last of a head; the rotary key is shared by all heads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// Channels of the compressed query; none when queries are not compressed.
    pub query_rank: Option<usize>,
    /// Channels of the compressed keys and values.
    pub rank: usize,
    /// Epsilon of the norms of both.
    pub norm_eps: f64,
}

/// Over what queries and keys are normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryKeyNorm {
    /// Each head by itself, with one weight for all heads.
    Head,
    /// All heads together.
    Whole,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Channels of a head that are rotated: its first, or its last in latent attention. Even.
    pub dims: usize,
    /// Which channels turn together.
    pub pairs: Pairs,
    /// How frequencies are stretched to longer contexts.
    pub scaling: RopeScaling,
}

/// Which two channels are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairs {
    /// c with c + dims / 2.
    Halves,
    /// 2c with 2c + 1.
    Neighbours,
}

/// How frequencies are stretched to contexts longer than the model was first trained for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// YaRN (arXiv 2309.00071): low frequencies are divided by `factor`, high ones stay, those between are mixed.
    Yarn {
        /// Stretch of the context.
        factor: f64,
        /// Context of the first training, in tokens.
        original_context: usize,
        /// Rotations within that context above which a frequency stays.
        beta_fast: f64,
        /// Rotations below which it is divided.
        beta_slow: f64,
        /// Whether the bounds between are rounded to whole channels.
        truncate: bool,
        /// What cosines and sines are multiplied by.
        amplitude: f64,
    },
    /// LongRoPE (arXiv 2402.13753) as `transformers` runs it for Phi-3.5-MoE: every frequency has a divisor of its
    /// own, whatever the length of the sequence; only the amplitude depends on that.
    Long {
        /// Context of the first training, in tokens.
        original_context: usize,
        /// Divisors, one per pair of channels.
        divisors: Vec<f64>,
        /// What cosines and sines are multiplied by in sequences within the original context.
        short_amplitude: f64,
        /// The same in longer ones.
        long_amplitude: f64,
    },
}

impl RopeScaling {
    /// Whether the first `before` tokens of a sequence turn otherwise once it has `after`.
    pub const fn changes(&self, before: usize, after: usize) -> bool {
        match self {
            Self::Long { original_context, .. } => before <= *original_context && after > *original_context,
            Self::None | Self::Yarn { .. } => false,
        }
    }
}

impl Rope {
    /// Radians per position of every pair of channels.
    pub fn frequencies(&self) -> Vec<f64> {
        let dims = self.dims as f64;
        let plain = (0..self.dims / 2).map(|pair| self.theta.powf(-2.0 * pair as f64 / dims));
        match &self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Long { divisors, .. } => {
                plain.zip(divisors).map(|(f, divisor)| f / divisor).collect()
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
                // The pair that turns `rotations` times within the original context (YaRN, section 3.2).
                let pair = |rotations: f64| {
                    dims * (*original_context as f64 / (rotations * TAU)).ln() / (2.0 * self.theta.ln())
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
    pub const fn amplitude(&self, tokens: usize) -> f64 {
        match self.scaling {
            RopeScaling::None => 1.0,
            RopeScaling::Yarn { amplitude, .. } => amplitude,
            RopeScaling::Long { original_context, short_amplitude, long_amplitude, .. } => {
                if tokens > original_context { long_amplitude } else { short_amplitude }
            }
        }
    }
}

impl Attention {
    /// Channels of a head that positions do not rotate.
    pub const fn plain_dims(&self) -> usize {
        self.head_dim.saturating_sub(self.rope.dims)
    }

    /// Rows and columns of a map; `None` when this attention does not have it.
    pub fn shape(&self, map: Map, hidden: usize) -> Option<[usize; 2]> {
        let Self { heads, kv_heads, head_dim, value_dim, .. } = *self;
        let queries = heads * head_dim;
        Some(match (map, &self.latent) {
            (Map::Output, _) => [hidden, heads * value_dim],
            (Map::Query, None | Some(Latent { query_rank: None, .. })) => [queries, hidden],
            (Map::QueryDown, Some(Latent { query_rank: Some(rank), .. })) => [*rank, hidden],
            (Map::QueryUp, Some(Latent { query_rank: Some(rank), .. })) => [queries, *rank],
            (Map::Key, None) => [kv_heads * head_dim, hidden],
            (Map::Value, None) => [kv_heads * value_dim, hidden],
            (Map::LatentDown, Some(latent)) => [latent.rank + self.rope.dims, hidden],
            (Map::LatentUp, Some(latent)) => [heads * (self.plain_dims() + value_dim), latent.rank],
            _ => return None,
        })
    }

    /// Channels that the norm of queries or keys has weights for.
    pub(crate) fn norm_dims(&self, heads: usize) -> Option<usize> {
        self.norm.map(|norm| match norm {
            QueryKeyNorm::Head => self.head_dim,
            QueryKeyNorm::Whole => heads * self.head_dim,
        })
    }
}
