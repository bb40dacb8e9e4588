//! The decoder on rows of f32, driven by [`moepress_model::ModelSpec`].
//!
//! Calibration has a decoder of its own on burn (`moepress-nn`), which differentiates; this one only runs forward,
//! computes from weights as they are stored, and keeps all threads at work on few, large products. Both are held to
//! `transformers` by the same golden checkpoints.

mod attention;
mod build;
mod cache;
mod experts;
mod gated;
mod low_planes;
mod norm;
mod rotary;
mod routing;
mod store;
mod streamed;

pub(crate) use attention::Attend;
pub(crate) use build::Builder;
pub use cache::Span;
pub(crate) use cache::{Cache, LayerCache};
pub(crate) use experts::Experts;
pub(crate) use gated::{Expert, Gated};
pub(crate) use low_planes::LowPlanes;
pub use low_planes::OnMiss;
pub(crate) use norm::Norm;
pub(crate) use rotary::Rotary;
pub(crate) use store::{ExpertStore, Resident};
pub use streamed::CacheReport;
pub(crate) use streamed::Streamed;

use crate::RuntimeError;
use crate::cache::{Trace, Visit};
use crate::rules::Rule;
use moepress_kernels::{Activations, Precision, matmul};
use moepress_quant::Stored;
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// A linear map: x · Wᵀ + bias.
pub(crate) struct Map {
    pub(crate) weight: Arc<Stored>,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Map {
    /// `[n, in]` → `[n, out]`.
    pub(crate) fn forward(&self, x: &Activations<'_>) -> Result<Vec<f32>, RuntimeError> {
        let mut y = matmul(x, &self.weight)?;
        self.add_bias(&mut y);
        Ok(y)
    }

    pub(crate) fn add_bias(&self, y: &mut [f32]) {
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias, 1.0));
        }
    }
}

/// What follows attention.
pub(crate) enum Mlp {
    /// One gated MLP for every token.
    Dense(Box<Gated>),
    /// Routed experts.
    Moe(Box<Experts>),
}

/// One decoder layer: norm → attention → add, norm → MLP → add.
pub(crate) struct Layer {
    pub(crate) input_norm: Norm,
    pub(crate) attend: Attend,
    pub(crate) mlp_norm: Norm,
    pub(crate) mlp: Mlp,
    /// What attention and MLP are multiplied by before they are added.
    pub(crate) residual: f32,
}

/// What a pass has besides the hidden states: the sequences they belong to, and how exact it is to be.
pub(crate) struct Pass<'a> {
    pub(crate) spans: &'a [Span],
    pub(crate) rotaries: &'a [Rotary],
    pub(crate) precision: Precision,
    pub(crate) experts: &'a dyn ExpertStore,
    /// Where uses of experts are written down.
    pub(crate) trace: Option<&'a Mutex<Trace>>,
    /// What routes tokens besides the routers.
    pub(crate) rules: &'a [Box<dyn Rule>],
    /// All layers: what comes after a layer says which experts to read ahead.
    pub(crate) layers: &'a [Layer],
}

impl Layer {
    /// The whole layer, number `index`, on hidden states `[tokens, hidden]`; one cache per span.
    pub(crate) fn forward(
        &self,
        index: usize,
        x: &mut [f32],
        pass: &Pass<'_>,
        caches: &mut [&mut LayerCache],
    ) -> Result<(), RuntimeError> {
        let attended = self.attend.forward(&self.input_norm.rows(x), pass, caches)?;
        add(x, &attended, self.residual);
        let normed = self.mlp_norm.rows(x);
        let tokens = pass.spans.iter().map(|span| span.tokens).sum();
        self.expect(index, x, tokens, pass)?;
        let y = match &self.mlp {
            Mlp::Dense(gated) => {
                let x = Activations::new(&normed, tokens, pass.precision);
                gated::forward(&[(&x, gated)], pass.precision)?.pop().unwrap_or_default()
            }
            Mlp::Moe(experts) => experts.forward(index, &normed, tokens, pass)?,
        };
        add(x, &y, self.residual);
        Ok(())
    }

    /// Has the experts read ahead, or written down, that the next layer chooses for these hidden states, as they are before
    /// this one's MLP: most of them are those that it will choose.
    fn expect(&self, index: usize, x: &[f32], tokens: usize, pass: &Pass<'_>) -> Result<(), RuntimeError> {
        let wanted = pass.experts.reads_ahead() || pass.trace.is_some();
        let next = pass.layers.get(index + 1).filter(|_| wanted);
        let mut visit = Visit { layer: index, tokens, ..Visit::default() };
        if let Some(Layer { mlp: Mlp::Moe(experts), mlp_norm, .. }) = next {
            visit.expected = experts.chosen(index + 1, &mlp_norm.rows(x), tokens, pass)?;
            pass.experts.expect(index + 1, &visit.expected);
        }
        if let Some(trace) = pass.trace {
            trace.lock().unwrap_or_else(PoisonError::into_inner).visits.push(visit);
        }
        Ok(())
    }
}

/// Numbers below which threads cost more than they save in loops over rows.
const SMALL: usize = 1 << 15;

/// Calls `work` with the number of every row of `width` numbers, of which the last may be shorter, over all threads where there
/// are many.
pub(crate) fn each_row(values: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    match values.len() < SMALL {
        true => values.chunks_mut(width).enumerate().for_each(|(row, values)| work(row, values)),
        false => values
            .par_chunks_mut(width)
            .enumerate()
            .with_min_len((SMALL / 8).div_ceil(width))
            .for_each(|(row, values)| work(row, values)),
    }
}

/// x += y · factor.
pub(crate) fn add(x: &mut [f32], y: &[f32], factor: f32) {
    let some = |x: &mut [f32], y: &[f32]| match factor {
        1.0 => x.iter_mut().zip(y).for_each(|(x, y)| *x += y),
        _ => x.iter_mut().zip(y).for_each(|(x, y)| *x += y * factor),
    };
    match x.len() < SMALL {
        true => some(x, y),
        false => x.par_chunks_mut(SMALL / 8).zip(y.par_chunks(SMALL / 8)).for_each(|(x, y)| some(x, y)),
    }
}
