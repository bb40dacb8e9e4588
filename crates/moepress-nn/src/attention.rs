//! Causal attention with rotary positions and an optional cache: grouped queries, or keys and values
//! expanded from a compressed form.

use crate::ops::{Norm, plus};
use crate::rotary::Rotary;
use crate::watch::{Watch, watched};
use crate::{Linear, Side, Site};
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use moepress_model::{Attention, Map, Part, QueryKeyNorm};

/// Keys and values of the tokens seen so far, `[batch, kv_heads, tokens, channels]`.
#[derive(Clone, Default)]
pub struct KeyValues(Option<(Tensor<4>, Tensor<4>)>);

impl KeyValues {
    fn append(&mut self, key: Tensor<4>, value: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let joined = match self.0.take() {
            Some((keys, values)) => (Tensor::cat(vec![keys, key], 2), Tensor::cat(vec![values, value], 2)),
            None => (key, value),
        };
        self.0 = Some(joined.clone());
        joined
    }
}

/// A linear map of attention with its bias.
pub(crate) struct Affine {
    pub map: Box<dyn Linear>,
    pub bias: Option<Tensor<1>>,
    pub part: Map,
}

impl Affine {
    /// The map's own output is watched: a bias has no share in its weights.
    fn forward(&self, x: Tensor<2>, watch: &mut dyn Watch) -> Tensor<2> {
        let site = Site { part: Part::Attention(self.part), side: Side::Output };
        plus(watch.tensor(site, self.map.forward(x)), self.bias.as_ref())
    }

    /// The same, with its input watched too.
    fn watched(&self, x: Tensor<2>, watch: &mut dyn Watch) -> Tensor<2> {
        plus(watched(&*self.map, Part::Attention(self.part), x, watch), self.bias.as_ref())
    }
}

/// From hidden states to queries, keys and values.
pub(crate) enum Projections {
    /// Straight.
    Plain(Box<Straight>),
    /// Through compressed forms.
    Latent(Box<Compressed>),
}

/// The maps of grouped-query attention.
pub(crate) struct Straight {
    pub query: Affine,
    pub key: Affine,
    pub value: Affine,
    /// Norms of queries and keys.
    pub norms: Option<(QueryKeyNorm, Norm, Norm)>,
}

/// The maps of compressed attention.
pub(crate) struct Compressed {
    pub query: Affine,
    /// From the hidden states to the compressed query, and its norm.
    pub query_down: Option<(Affine, Norm)>,
    pub down: Affine,
    pub norm: Norm,
    pub up: Affine,
}

/// The attention of one layer.
pub struct Attend {
    pub(crate) spec: Attention,
    pub(crate) window: Option<usize>,
    pub(crate) projections: Projections,
    pub(crate) sinks: Option<Tensor<1>>,
    pub(crate) output: Affine,
}

impl Attend {
    /// `[batch · tokens, hidden]` of normed hidden states → the same shape. With a cache, the tokens
    /// continue those already in it.
    pub fn forward(
        &self,
        x: Tensor<2>,
        batch: usize,
        rotary: &Rotary,
        cache: Option<&mut KeyValues>,
        watch: &mut dyn Watch,
    ) -> Tensor<2> {
        let Attention { heads, kv_heads, head_dim, value_dim, .. } = self.spec;
        let tokens = x.dims()[0] / batch;
        // One input serves several maps; it is seen once, as the input of the query map.
        let x = watch.tensor(Site { part: Part::Attention(Map::Query), side: Side::Input }, x);
        let (query, key, value) = self.project(x, batch, rotary, watch);
        let (key, value) = match cache {
            Some(cache) => cache.append(key, value),
            None => (key, value),
        };
        let seen = key.dims()[2];
        let group = heads / kv_heads;
        let query = query.mul_scalar(self.spec.scale).reshape([batch, kv_heads, group * tokens, head_dim]);
        let scores = query.matmul(key.swap_dims(2, 3)).reshape([batch * kv_heads, group, tokens, seen]);
        let hidden = match (tokens, self.window) {
            (1, None) => None,
            (1, Some(window)) if seen <= window => None,
            (_, window) => Some(hidden(tokens, seen, window, &scores.device())),
        };
        let scores = match hidden {
            Some(hidden) => scores.mask_fill(hidden, f32::NEG_INFINITY),
            None => scores,
        };
        let weights = self.weights(scores, batch);
        let mixed = weights.reshape([batch, kv_heads, group * tokens, seen]).matmul(value);
        let mixed = mixed
            .reshape([batch, heads, tokens, value_dim])
            .swap_dims(1, 2)
            .reshape([batch * tokens, heads * value_dim]);
        self.output.watched(mixed, watch)
    }

    /// Rotated queries and keys, and values, each `[batch, heads, tokens, channels]`.
    fn project(
        &self,
        x: Tensor<2>,
        batch: usize,
        rotary: &Rotary,
        watch: &mut dyn Watch,
    ) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
        let Attention { heads, kv_heads, head_dim, value_dim, .. } = self.spec;
        let tokens = x.dims()[0] / batch;
        let split = |x: Tensor<2>, heads: usize, channels: usize| {
            x.reshape([batch, tokens, heads, channels]).swap_dims(1, 2)
        };
        match &self.projections {
            Projections::Plain(maps) => {
                let Straight { query, key, value, norms } = &**maps;
                let clip = |x: Tensor<2>| match self.spec.clip {
                    Some(limit) => x.clamp(-limit, limit),
                    None => x,
                };
                let normed = |x: Tensor<2>, norm: Option<(QueryKeyNorm, &Norm)>| match norm {
                    Some((QueryKeyNorm::Head, norm)) => norm.runs(x),
                    Some((QueryKeyNorm::Whole, norm)) => norm.forward(x),
                    None => x,
                };
                let (query, key) = (query.forward(x.clone(), watch), key.forward(x.clone(), watch));
                let query = clip(normed(query, norms.as_ref().map(|norms| (norms.0, &norms.1))));
                let key = clip(normed(key, norms.as_ref().map(|norms| (norms.0, &norms.2))));
                let value = clip(value.forward(x, watch));
                (
                    rotary.heads(split(query, heads, head_dim)),
                    rotary.heads(split(key, kv_heads, head_dim)),
                    split(value, kv_heads, value_dim),
                )
            }
            Projections::Latent(maps) => {
                let Compressed { query, query_down, down, norm, up } = &**maps;
                let query = match query_down {
                    Some((down, norm)) => {
                        let compressed = norm.forward(down.forward(x.clone(), watch));
                        query.watched(compressed, watch)
                    }
                    None => query.forward(x.clone(), watch),
                };
                let rows = batch * tokens;
                let (plain, rotated) = (self.spec.plain_dims(), self.spec.rope.dims);
                let latent = down.forward(x, watch);
                let rank = latent.dims()[1] - rotated;
                let position = latent.clone().slice([0..rows, rank..rank + rotated]);
                let position = rotary.apply(split(position, 1, rotated));
                let latent = norm.forward(latent.slice([0..rows, 0..rank]));
                let both = split(up.watched(latent, watch), heads, plain + value_dim);
                let channels = |range| both.clone().slice([0..batch, 0..heads, 0..tokens, range]);
                let position = position.expand([batch, heads, tokens, rotated]);
                let key = Tensor::cat(vec![channels(0..plain), position], 3);
                (rotary.heads(split(query, heads, head_dim)), key, channels(plain..plain + value_dim))
            }
        }
    }

    /// Softmax over the keys of `[batch · kv_heads, group, tokens, seen]`; a sink takes its share and is dropped.
    fn weights(&self, scores: Tensor<4>, batch: usize) -> Tensor<4> {
        let Some(sinks) = &self.sinks else { return softmax(scores, 3) };
        let [outer, group, tokens, seen] = scores.dims();
        let sinks = sinks
            .clone()
            .reshape([1, outer / batch, group, 1])
            .expand([batch, outer / batch, group, tokens])
            .reshape([outer, group, tokens, 1]);
        softmax(Tensor::cat(vec![scores, sinks], 3), 3).slice([0..outer, 0..group, 0..tokens, 0..seen])
    }
}

/// True where the query at row i must not see the key at column j: it comes later, or before the window. The
/// last query sees the last key.
fn hidden(tokens: usize, seen: usize, window: Option<usize>, device: &Device) -> Tensor<4, Bool> {
    let start = seen - tokens;
    let window = window.unwrap_or(seen);
    let mask: Vec<bool> =
        (0..tokens).flat_map(|i| (0..seen).map(move |j| j > start + i || j + window <= start + i)).collect();
    Tensor::from_data(TensorData::new(mask, [1, 1, tokens, seen]), device)
}
