//! Grouped-query attention with rotary positions and normed heads, causal, with an optional cache.

use crate::ops::rms_norm;
use crate::watch::{Watch, watched};
use crate::{Linear, Side, Site};
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use moepress_model::{Attention, Part};

/// Cosines and sines of consecutive positions, each `[1, 1, tokens, head_dim]` (halves repeated).
pub struct Rotary {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotary {
    /// Tables for `tokens` positions from `start`.
    pub fn new(attention: &Attention, start: usize, tokens: usize, device: &Device) -> Self {
        let half = attention.head_dim / 2;
        let table = |f: fn(f64) -> f64| {
            let value = |position: usize, channel: usize| {
                let exponent = -2.0 * (channel % half) as f64 / attention.head_dim as f64;
                f(position as f64 * attention.rope_theta.powf(exponent)) as f32
            };
            let values: Vec<f32> = (start..start + tokens)
                .flat_map(|position| (0..2 * half).map(move |channel| value(position, channel)))
                .collect();
            Tensor::from_data(TensorData::new(values, [1, 1, tokens, 2 * half]), device)
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// Rotates `[batch, heads, tokens, head_dim]`: channel c pairs with c + head_dim / 2.
    fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, tokens, dim] = x.dims();
        let low = x.clone().slice([0..batch, 0..heads, 0..tokens, 0..dim / 2]);
        let high = x.clone().slice([0..batch, 0..heads, 0..tokens, dim / 2..dim]);
        let turned = Tensor::cat(vec![high.neg(), low], 3);
        x * self.cos.clone() + turned * self.sin.clone()
    }
}

/// Keys and values of the tokens seen so far, `[batch, kv_heads, tokens, head_dim]`.
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

/// The attention of one layer.
pub struct Attend {
    pub(crate) spec: Attention,
    pub(crate) eps: f64,
    pub(crate) query: Box<dyn Linear>,
    pub(crate) key: Box<dyn Linear>,
    pub(crate) value: Box<dyn Linear>,
    pub(crate) output: Box<dyn Linear>,
    pub(crate) query_norm: Tensor<1>,
    pub(crate) key_norm: Tensor<1>,
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
        let Attention { heads, kv_heads, head_dim, .. } = self.spec;
        let tokens = x.dims()[0] / batch;
        let split = |x: Tensor<2>, heads: usize| x.reshape([batch, tokens, heads, head_dim]).swap_dims(1, 2);
        let normed = |x: Tensor<2>, weight: &Tensor<1>| {
            let [rows, cols] = x.dims();
            let x = x.reshape([rows * cols / head_dim, head_dim]);
            rms_norm(x, weight, self.eps).reshape([rows, cols])
        };
        // One input serves three maps; it is seen once, as the input of the query map.
        let x = watch.tensor(Site { part: Part::Query, side: Side::Input }, x);
        let mut project =
            |map: &dyn Linear, part| watch.tensor(Site { part, side: Side::Output }, map.forward(x.clone()));
        let query = project(&*self.query, Part::Query);
        let key = project(&*self.key, Part::Key);
        let value = project(&*self.value, Part::Value);
        let query = rotary.apply(split(normed(query, &self.query_norm), heads));
        let key = rotary.apply(split(normed(key, &self.key_norm), kv_heads));
        let value = split(value, kv_heads);
        let (key, value) = match cache {
            Some(cache) => cache.append(key, value),
            None => (key, value),
        };
        let seen = key.dims()[2];
        let group = heads / kv_heads;
        let query = query.mul_scalar((head_dim as f64).powf(-0.5)).reshape([
            batch,
            kv_heads,
            group * tokens,
            head_dim,
        ]);
        let scores = query.matmul(key.swap_dims(2, 3)).reshape([batch * kv_heads, group, tokens, seen]);
        let scores = match tokens {
            1 => scores,
            _ => scores.mask_fill(future(tokens, seen, &x.device()), f32::NEG_INFINITY),
        };
        let mixed = softmax(scores, 3).reshape([batch, kv_heads, group * tokens, seen]).matmul(value);
        let mixed = mixed
            .reshape([batch, heads, tokens, head_dim])
            .swap_dims(1, 2)
            .reshape([batch * tokens, heads * head_dim]);
        watched(&*self.output, Part::Output, mixed, watch)
    }
}

/// True where the key at column j comes after the query at row i; the last query sees every key.
fn future(tokens: usize, seen: usize, device: &Device) -> Tensor<4, Bool> {
    let start = seen - tokens;
    let mask: Vec<bool> = (0..tokens).flat_map(|i| (0..seen).map(move |j| j > start + i)).collect();
    Tensor::from_data(TensorData::new(mask, [1, 1, tokens, seen]), device)
}
