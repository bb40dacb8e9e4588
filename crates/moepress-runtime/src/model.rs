//! A loaded model.

use crate::RuntimeError;
use crate::cache::{Policy, Trace};
use crate::decoder::{
    Builder, Cache as RowsCache, CacheReport, Expert, ExpertStore, Layer, LayerCache, LowPlanes, Map, Norm,
    OnMiss, Pass, Resident, Rotary, Span, Streamed,
};
use crate::rules::Rule;
use moepress_checkpoint::{Share, Source};
use moepress_kernels::{Activations, Precision};
use moepress_model::{ModelSpec, Moe, Tensor};
use moepress_quant::Stored;
use rayon::prelude::*;
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

/// A model whose weights are in memory, in the formats they are stored in. Shared freely by threads; every pass
/// uses all of those of the pool it is called in.
pub struct Model {
    spec: ModelSpec,
    engine: Engine,
}

/// What a model runs on.
enum Engine {
    /// The decoder of this crate.
    Rows(Box<Rows>),
    /// A decoder elsewhere.
    Device(Box<dyn DeviceDecoder>),
}

/// A decoder on a device, with weights in its memory.
pub trait DeviceDecoder: Send + Sync {
    /// The keys and values of an empty sequence, in the memory of the device.
    fn cache(&self) -> Box<dyn Any + Send>;

    /// Hidden states `[ids.len(), hidden]` after the last layer, not yet normed, of runs of tokens one after the other in
    /// `ids`. They continue what their caches hold, as many as there are spans; without caches they are whole sequences.
    ///
    /// # Errors
    /// The device fails.
    fn forward(
        &self,
        ids: &[u32],
        spans: &[Span],
        caches: Option<Vec<&mut (dyn Any + Send)>>,
    ) -> Result<Vec<f32>, RuntimeError>;

    /// Logits `[n, vocab]` of hidden states `[n, hidden]`.
    ///
    /// # Errors
    /// The device fails.
    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, RuntimeError>;
}

/// Keys and values of one sequence.
pub(crate) enum Cache {
    Rows(RowsCache),
    Device(Box<dyn Any + Send>),
}

impl Cache {
    fn rows(&mut self) -> Option<&mut RowsCache> {
        if let Self::Rows(cache) = self { Some(cache) } else { None }
    }

    fn device(&mut self) -> Option<&mut (dyn Any + Send)> {
        if let Self::Device(cache) = self { Some(&mut **cache) } else { None }
    }
}

/// The decoder of this crate with its weights.
struct Rows {
    embedding: Arc<Stored>,
    final_norm: Norm,
    head: Map,
    layers: Vec<Layer>,
    experts: Box<dyn ExpertStore>,
    trace: Option<Mutex<Trace>>,
    rules: Vec<Box<dyn Rule>>,
}

impl Model {
    /// Loads every weight of `source`. Codes go into bit fields, whatever codec stores them: a product reads those many
    /// times faster than an entropy code.
    ///
    /// # Errors
    /// A weight cannot be read, or does not fit the description.
    pub fn load(source: &dyn Source) -> Result<Self, RuntimeError> {
        Self::load_with(source.spec().unpacked(), source, &Stored::unpacked)
    }

    /// Loads every weight of `source` in the bytes it is stored in.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_as_stored(source: &dyn Source) -> Result<Self, RuntimeError> {
        Self::load_with(source.spec().clone(), source, &|stored| stored)
    }

    fn load_with(
        spec: ModelSpec,
        source: &dyn Source,
        hold: &(dyn Fn(Stored) -> Stored + Sync),
    ) -> Result<Self, RuntimeError> {
        let parts: Vec<(Layer, Vec<Arc<Expert>>)> = (0..spec.layers.len())
            .into_par_iter()
            .map(|layer| {
                let weights = source.layer(layer)?.into_iter().map(|(part, stored)| (part, hold(stored)));
                let mut builder = Builder::new(&spec, layer, weights.collect());
                let core = builder.layer()?;
                let experts = match spec.moe(layer) {
                    Some(moe) => {
                        let expert = |e| Ok(Arc::new(builder.expert(moe, e)?));
                        (0..moe.experts.len()).map(expert).collect::<Result<_, RuntimeError>>()?
                    }
                    None => vec![],
                };
                Ok((core, experts))
            })
            .collect::<Result<_, RuntimeError>>()?;
        let (layers, experts) = parts.into_iter().unzip();
        Self::assemble(spec, source, hold, layers, Box::new(Resident(experts)))
    }

    /// Loads everything but the routed experts of `source`, and keeps of those what fits into `budget` bytes together
    /// with the rest; others are read when they are needed. All of it is in the bytes it is stored in.
    ///
    /// # Errors
    /// As [`Self::load`]; or the budget is too small for the experts of one token (and one that is read ahead), low planes are wanted and there are none, or a
    /// thread cannot be started.
    pub fn load_within(
        source: Arc<dyn Source + Send + Sync>,
        budget: u64,
        policy: Box<dyn Policy>,
        read_ahead: bool,
        on_miss: OnMiss,
    ) -> Result<Self, RuntimeError> {
        let spec = source.spec().clone();
        let sizes = expert_bytes(&spec);
        let dense = spec.total_bytes() - sizes.iter().flatten().sum::<u64>();
        let largest: Vec<u64> = sizes.iter().map(|layer| layer.iter().copied().max().unwrap_or(0)).collect();
        let token = |(layer, moe): (usize, &Moe)| moe.routing.top_k as u64 * largest[layer];
        let token = spec.moe_layers().map(token).max().unwrap_or(0);
        let ahead = if read_ahead { largest.iter().copied().max().unwrap_or(0) } else { 0 };
        let needed = dense + token + ahead;
        if budget < needed {
            return Err(RuntimeError::Budget { budget, needed });
        }
        let low = match on_miss {
            OnMiss::Exact => None,
            OnMiss::LowPlane => Some(LowPlanes::load(&*source)?),
        };
        let always = dense + low.as_ref().map_or(0, |low| low.bytes);
        if budget < needed - dense + always {
            return Err(RuntimeError::Budget { budget, needed: needed - dense + always });
        }
        let layer = |layer| Builder::new(&spec, layer, source.share(layer, &Share::Core)?).layer();
        let layers =
            (0..spec.layers.len()).into_par_iter().map(layer).collect::<Result<_, RuntimeError>>()?;
        let store = Streamed::new(source.clone(), sizes, budget - always, policy, read_ahead, low)?;
        Self::assemble(spec, &*source, &|stored| stored, layers, Box::new(store))
    }

    /// What keeping experts within a budget came to; none where all are in memory.
    pub fn cache_report(&self) -> Option<CacheReport> {
        match &self.engine {
            Engine::Rows(rows) => rows.experts.report(),
            Engine::Device(_) => None,
        }
    }

    /// Sets the rules that tokens are routed by from now on, besides the router; a model on a device has none.
    pub fn route_by(&mut self, rules: Vec<Box<dyn Rule>>) {
        if let Engine::Rows(decoder) = &mut self.engine {
            decoder.rules = rules;
        }
    }

    /// Writes down from now on which experts are used; a model on a device does not.
    pub fn record(&mut self) {
        if let Engine::Rows(rows) = &mut self.engine {
            rows.trace = Some(Mutex::default());
        }
    }

    /// What has been written down since [`Self::record`].
    pub fn recorded(&self) -> Option<Trace> {
        let Engine::Rows(rows) = &self.engine else { return None };
        rows.trace.as_ref().map(|trace| trace.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn assemble(
        spec: ModelSpec,
        source: &dyn Source,
        hold: &dyn Fn(Stored) -> Stored,
        layers: Vec<Layer>,
        experts: Box<dyn ExpertStore>,
    ) -> Result<Self, RuntimeError> {
        let take = |tensor: Tensor| {
            let stored = source.tensor(tensor)?;
            match Some(stored.shape()) == spec.shape(tensor) {
                true => Ok(hold(stored)),
                false => Err(RuntimeError::Weight { tensor }),
            }
        };
        let optional = |tensor: Tensor| match spec.shape(tensor) {
            Some(_) => take(tensor).map(|stored| Some(stored.to_f32())),
            None => Ok(None),
        };
        let embedding = Arc::new(take(Tensor::Embedding)?);
        let weight = if spec.tied_embeddings { embedding.clone() } else { Arc::new(take(Tensor::Head)?) };
        let final_norm = Norm {
            kind: spec.norm.kind,
            eps: spec.norm.eps,
            weight: take(Tensor::FinalNorm)?.to_f32(),
            bias: optional(Tensor::FinalNormBias)?,
        };
        let head = Map { weight, bias: optional(Tensor::HeadBias)? };
        let rows = Rows { embedding, final_norm, head, layers, experts, trace: None, rules: vec![] };
        Ok(Self { spec, engine: Engine::Rows(Box::new(rows)) })
    }

    /// A model that a device runs.
    pub fn on_device(spec: ModelSpec, decoder: Box<dyn DeviceDecoder>) -> Self {
        Self { spec, engine: Engine::Device(decoder) }
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Hidden states `[ids.len(), hidden]` after the last layer of `batch` sequences of equal length, one after the
    /// other in `ids`; not yet normed. Exact.
    ///
    /// # Errors
    /// No tokens, a token outside the vocabulary, sequences of different or too great length, or an expert that
    /// cannot be read.
    pub fn hidden(&self, ids: &[u32], batch: usize) -> Result<Vec<f32>, RuntimeError> {
        if batch == 0 || !ids.len().is_multiple_of(batch) {
            return Err(RuntimeError::Batch { tokens: ids.len(), batch });
        }
        let tokens = ids.len() / batch;
        let spans = vec![Span { tokens, start: 0, length: tokens }; batch];
        self.forward(ids, &spans, None, Precision::Exact)
    }

    /// Logits `[n, vocab]` of hidden states `[n, hidden]`. Take as many rows at a time as memory allows: a thousand of
    /// them for a vocabulary of 150,000 are 600 MB.
    ///
    /// # Errors
    /// The hidden states are no rows of this model's width.
    pub fn logits(&self, hidden: &[f32], precision: Precision) -> Result<Vec<f32>, RuntimeError> {
        let decoder = match &self.engine {
            Engine::Rows(decoder) => decoder,
            Engine::Device(decoder) => return decoder.logits(hidden),
        };
        let rows = hidden.len() / self.spec.hidden.max(1);
        let normed = decoder.final_norm.rows(hidden);
        let mut logits = decoder.head.forward(&Activations::new(&normed, rows, precision))?;
        scale(&mut logits, self.spec.scales.logits);
        Ok(logits)
    }

    /// Hidden states `[ids.len(), hidden]` after the last layer of runs of tokens, which continue what their caches
    /// hold; without caches they are whole sequences.
    pub(crate) fn forward(
        &self,
        ids: &[u32],
        spans: &[Span],
        caches: Option<&mut [&mut Cache]>,
        precision: Precision,
    ) -> Result<Vec<f32>, RuntimeError> {
        spans.iter().try_for_each(|span| check(&self.spec, ids, span.length))?;
        match &self.engine {
            Engine::Rows(decoder) => {
                let caches =
                    caches.map(|caches| caches.iter_mut().filter_map(|cache| cache.rows()).collect());
                decoder.forward(&self.spec, ids, spans, caches, precision)
            }
            Engine::Device(decoder) => {
                let caches =
                    caches.map(|caches| caches.iter_mut().filter_map(|cache| cache.device()).collect());
                decoder.forward(ids, spans, caches)
            }
        }
    }

    /// An empty cache.
    pub(crate) fn cache(&self) -> Cache {
        match &self.engine {
            Engine::Rows(decoder) => Cache::Rows(vec![LayerCache::default(); decoder.layers.len()]),
            Engine::Device(decoder) => Cache::Device(decoder.cache()),
        }
    }
}

impl Rows {
    fn forward(
        &self,
        spec: &ModelSpec,
        ids: &[u32],
        spans: &[Span],
        mut caches: Option<Vec<&mut RowsCache>>,
        precision: Precision,
    ) -> Result<Vec<f32>, RuntimeError> {
        let rotaries: Vec<Rotary> = spans.iter().map(|span| Rotary::new(&spec.attention, span)).collect();
        let pass = Pass {
            spans,
            rotaries: &rotaries,
            precision,
            experts: &*self.experts,
            trace: self.trace.as_ref(),
            rules: &self.rules,
            layers: &self.layers,
        };
        let mut scratch: RowsCache =
            vec![LayerCache::default(); if caches.is_none() { spans.len() } else { 0 }];
        let mut x = self.embed(spec, ids);
        for (index, layer) in self.layers.iter().enumerate() {
            let mut own: Vec<&mut LayerCache> = match &mut caches {
                Some(caches) => caches.iter_mut().map(|cache| &mut cache[index]).collect(),
                None => scratch.iter_mut().collect(),
            };
            layer.forward(index, &mut x, &pass, &mut own)?;
            scratch.iter_mut().for_each(LayerCache::clear);
        }
        Ok(x)
    }

    fn embed(&self, spec: &ModelSpec, ids: &[u32]) -> Vec<f32> {
        let mut rows = vec![0.0; ids.len() * spec.hidden];
        for (out, &id) in rows.chunks_exact_mut(spec.hidden.max(1)).zip(ids) {
            self.embedding.row_to_f32(id as usize, out);
        }
        scale(&mut rows, spec.scales.embedding);
        rows
    }
}

/// Checks that a model can run on these tokens, of sequences of `length` tokens.
///
/// # Errors
/// No tokens, a token outside the vocabulary, a sequence longer than the context.
pub fn check(spec: &ModelSpec, ids: &[u32], length: usize) -> Result<(), RuntimeError> {
    let (vocab, context) = (spec.vocab, spec.context);
    match ids.iter().find(|&&id| id as usize >= vocab) {
        _ if ids.is_empty() => Err(RuntimeError::Empty),
        Some(&id) => Err(RuntimeError::Token { id, vocab }),
        None if length > context => Err(RuntimeError::Context { tokens: length, context }),
        None => Ok(()),
    }
}

/// Bytes of every routed expert, by layer.
pub fn expert_bytes(spec: &ModelSpec) -> Vec<Vec<u64>> {
    let mut bytes: Vec<Vec<u64>> = (0..spec.layers.len())
        .map(|layer| vec![0; spec.moe(layer).map_or(0, |moe| moe.experts.len())])
        .collect();
    for tensor in spec.tensors() {
        if let Tensor::Layer(layer, part) = tensor
            && let Some(expert) = part.expert()
        {
            bytes[layer][expert] += spec.stored_bytes(tensor);
        }
    }
    bytes
}

/// x · factor.
fn scale(x: &mut [f32], factor: f64) {
    if factor != 1.0 {
        x.iter_mut().for_each(|x| *x *= factor as f32);
    }
}

#[cfg(test)]
mod tests;
