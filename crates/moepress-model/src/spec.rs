//! The description of a model that everything else is driven by.

use crate::tensor::{Class, Part, Projection, Tensor};
use moepress_quant::Format;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Channels of an MLP or atoms of a segment, far beyond any model of today: sizes within these limits can be
/// multiplied without overflow.
const MAX_WIDTH: usize = 1 << 20;

/// A decoder-only Mixture-of-Experts model, before or after edits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The family's `model_type`.
    pub family: String,
    /// Token embeddings.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Longest sequence the model was made for, in tokens.
    pub context: usize,
    /// Epsilon of the RMS norms.
    pub norm_eps: f64,
    /// Whether the head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Tokens that end a generated text.
    pub end_tokens: Vec<u32>,
    /// Attention, the same in every layer.
    pub attention: Attention,
    /// Layers from the input to the output.
    pub layers: Vec<LayerSpec>,
    /// Formats of everything outside the routed experts, by tensor name.
    pub formats: BTreeMap<String, Format>,
}

/// Grouped-query attention with rotary positions and a norm on every query and key head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Channels of a head; even.
    pub head_dim: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

/// One decoder layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSpec {
    /// The part after attention.
    pub mlp: Mlp,
}

/// A dense MLP or a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mlp {
    /// One gated MLP of that width.
    Dense {
        /// Intermediate channels.
        width: usize,
    },
    /// Routed experts.
    Moe(Moe),
}

/// A router and its experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moe {
    /// How rows are chosen and weighted.
    pub routing: Routing,
    /// For every router row the expert it leads to. Rows that lead to the same expert (after merging)
    /// add their gates.
    pub router: Vec<usize>,
    /// The experts.
    pub experts: Vec<Expert>,
}

/// Softmax over all rows, the `top_k` largest chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// Rows chosen per token.
    pub top_k: usize,
    /// Whether the chosen weights are divided by their sum.
    pub renormalise: bool,
}

/// An expert: the sum of its segments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expert {
    /// Indices of the experts of the original model it was made from, ascending.
    pub sources: Vec<usize>,
    /// Runs of atoms that share formats; an expert without atoms has none and contributes zero.
    pub segments: Vec<Segment>,
}

/// A run of atoms: a small gated expert of its own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Atoms.
    pub width: usize,
    /// Format of the rows of `gate_proj`.
    pub gate_proj: Format,
    /// Format of the rows of `up_proj`.
    pub up_proj: Format,
    /// Format of the columns of `down_proj`.
    pub down_proj: Format,
}

/// A description that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

impl Segment {
    /// A run of `width` atoms with one format throughout.
    pub const fn uniform(width: usize, format: Format) -> Self {
        Self { width, gate_proj: format, up_proj: format, down_proj: format }
    }

    /// Format of one projection.
    pub const fn format(&self, projection: Projection) -> Format {
        match projection {
            Projection::Gate => self.gate_proj,
            Projection::Up => self.up_proj,
            Projection::Down => self.down_proj,
        }
    }

    pub(crate) fn format_mut(&mut self, projection: Projection) -> &mut Format {
        match projection {
            Projection::Gate => &mut self.gate_proj,
            Projection::Up => &mut self.up_proj,
            Projection::Down => &mut self.down_proj,
        }
    }
}

impl Expert {
    /// Atoms of all segments.
    pub fn width(&self) -> usize {
        self.segments.iter().map(|segment| segment.width).sum()
    }
}

impl ModelSpec {
    /// The mixture of a layer, if it has one.
    pub fn moe(&self, layer: usize) -> Option<&Moe> {
        match self.layers.get(layer).map(|layer| &layer.mlp) {
            Some(Mlp::Moe(moe)) => Some(moe),
            _ => None,
        }
    }

    /// Layers with a mixture, in order.
    pub fn moe_layers(&self) -> impl Iterator<Item = (usize, &Moe)> {
        (0..self.layers.len()).filter_map(|layer| self.moe(layer).map(|moe| (layer, moe)))
    }

    /// The parts of a layer, in the order of computation.
    pub fn parts(&self, layer: usize) -> Vec<Part> {
        let mut parts = vec![
            Part::InputNorm,
            Part::Query,
            Part::Key,
            Part::Value,
            Part::QueryNorm,
            Part::KeyNorm,
            Part::Output,
            Part::MlpNorm,
        ];
        match self.layers.get(layer).map(|layer| &layer.mlp) {
            Some(Mlp::Dense { .. }) => parts.extend(Projection::ALL.map(Part::Dense)),
            Some(Mlp::Moe(moe)) => {
                parts.push(Part::Router);
                for (expert, e) in moe.experts.iter().enumerate() {
                    for segment in 0..e.segments.len() {
                        parts.extend(Projection::ALL.map(|projection| Part::Expert {
                            expert,
                            segment,
                            projection,
                        }));
                    }
                }
            }
            None => parts.clear(),
        }
        parts
    }

    /// Every tensor of the model, from the input to the output.
    pub fn tensors(&self) -> Vec<Tensor> {
        let layers = (0..self.layers.len())
            .flat_map(|layer| self.parts(layer).into_iter().map(move |part| Tensor::Layer(layer, part)));
        let head = (!self.tied_embeddings).then_some(Tensor::Head);
        [Tensor::Embedding].into_iter().chain(layers).chain([Tensor::FinalNorm]).chain(head).collect()
    }

    /// Dimensions of a tensor, outermost first; `None` when the model does not have it.
    pub fn shape(&self, tensor: Tensor) -> Option<Vec<usize>> {
        let Attention { heads, kv_heads, head_dim, .. } = self.attention;
        let hidden = self.hidden;
        Some(match tensor {
            Tensor::Embedding => vec![self.vocab, hidden],
            Tensor::Head if self.tied_embeddings => return None,
            Tensor::Head => vec![self.vocab, hidden],
            Tensor::FinalNorm => vec![hidden],
            Tensor::Layer(layer, part) => {
                let mlp = &self.layers.get(layer)?.mlp;
                match (part, mlp) {
                    (Part::InputNorm | Part::MlpNorm, _) => vec![hidden],
                    (Part::Query, _) => vec![heads * head_dim, hidden],
                    (Part::Key | Part::Value, _) => vec![kv_heads * head_dim, hidden],
                    (Part::Output, _) => vec![hidden, heads * head_dim],
                    (Part::QueryNorm | Part::KeyNorm, _) => vec![head_dim],
                    (Part::Dense(projection), Mlp::Dense { width }) => {
                        projection.shape(hidden, *width).to_vec()
                    }
                    (Part::Router, Mlp::Moe(moe)) => vec![moe.router.len(), hidden],
                    (Part::Expert { expert, segment, projection }, Mlp::Moe(moe)) => {
                        let width = moe.experts.get(expert)?.segments.get(segment)?.width;
                        projection.shape(hidden, width).to_vec()
                    }
                    _ => return None,
                }
            }
        })
    }

    /// The format of a tensor; `None` when it is not known or the model does not have it.
    pub fn format(&self, tensor: Tensor) -> Option<Format> {
        match tensor {
            Tensor::Layer(layer, Part::Expert { expert, segment, projection }) => {
                Some(self.moe(layer)?.experts.get(expert)?.segments.get(segment)?.format(projection))
            }
            other => self.formats.get(&other.to_string()).copied(),
        }
    }

    /// Records the format of a tensor the model has; otherwise does nothing and returns false.
    pub fn set_format(&mut self, tensor: Tensor, format: Format) -> bool {
        if self.shape(tensor).is_none() {
            return false;
        }
        if let Tensor::Layer(layer, Part::Expert { expert, segment, projection }) = tensor {
            if let Some(Mlp::Moe(moe)) = self.layers.get_mut(layer).map(|layer| &mut layer.mlp) {
                *moe.experts[expert].segments[segment].format_mut(projection) = format;
            }
        } else {
            self.formats.insert(tensor.to_string(), format);
        }
        true
    }

    /// Bytes of a tensor in its format, scales and offsets included.
    pub fn stored_bytes(&self, tensor: Tensor) -> u64 {
        match (self.shape(tensor), self.format(tensor)) {
            (Some(shape), Some(format)) => {
                let cols = shape.last().copied().unwrap_or(1);
                format.stored_bytes(shape.iter().rev().skip(1).product(), cols)
            }
            _ => 0,
        }
    }

    /// Per class the weights and the bytes.
    pub fn bytes_by_class(&self) -> BTreeMap<Class, (u64, u64)> {
        let mut classes = BTreeMap::new();
        for tensor in self.tensors() {
            let weights = self.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>() as u64);
            let entry: &mut (u64, u64) = classes.entry(tensor.class()).or_default();
            entry.0 += weights;
            entry.1 += self.stored_bytes(tensor);
        }
        classes
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.bytes_by_class().values().map(|&(_, bytes)| bytes).sum()
    }

    /// Number of weights.
    pub fn total_weights(&self) -> u64 {
        self.bytes_by_class().values().map(|&(weights, _)| weights).sum()
    }

    /// Checks that sizes, router maps and sources agree with each other.
    ///
    /// # Errors
    /// The first contradiction, naming layer and expert.
    pub fn validate(&self) -> Result<(), SpecError> {
        let fail = |message: String| Err(SpecError(message));
        let Attention { heads, kv_heads, head_dim, rope_theta } = self.attention;
        let sizes = [
            ("layers", self.layers.len(), 1 << 12),
            ("vocabulary", self.vocab, 1 << 24),
            ("hidden size", self.hidden, 1 << 20),
            ("context", self.context, 1 << 30),
            ("query heads", heads, 1 << 12),
            ("head size", head_dim, 1 << 14),
        ];
        if let Some((name, size, most)) =
            sizes.into_iter().find(|(_, size, most)| !(1..=*most).contains(size))
        {
            return fail(format!("{name} is {size} but must be from 1 to {most}"));
        }
        if let Some(id) = self.end_tokens.iter().find(|&&id| id as usize >= self.vocab) {
            return fail(format!("end token {id} is not below the vocabulary, {}", self.vocab));
        }
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return fail(format!("{heads} query heads are not a multiple of {kv_heads} key/value heads"));
        }
        if !head_dim.is_multiple_of(2) {
            return fail(format!("head size {head_dim} must be even and at least 2 for rotary positions"));
        }
        // Computed with in f32.
        if [rope_theta, self.norm_eps].iter().any(|&x| !(x > 0.0 && (x as f32).is_finite())) {
            return fail("rope_theta and norm_eps must be numbers above 0 that f32 can hold".into());
        }
        let dense = |layer: &LayerSpec| matches!(layer.mlp, Mlp::Dense { width } if !(1..=MAX_WIDTH).contains(&width));
        if let Some(layer) = self.layers.iter().position(dense) {
            return fail(format!("layer {layer}: the MLP must be from 1 to {MAX_WIDTH} channels wide"));
        }
        for (layer, moe) in self.moe_layers() {
            let reached: BTreeSet<usize> = moe.router.iter().copied().collect();
            if reached.len() != moe.experts.len()
                || reached.last().is_some_and(|&last| last >= moe.experts.len())
            {
                return fail(format!("layer {layer}: the router map does not reach each expert exactly"));
            }
            if moe.routing.top_k == 0 || moe.routing.top_k > moe.router.len() {
                let (k, rows) = (moe.routing.top_k, moe.router.len());
                return fail(format!(
                    "layer {layer}: top-{k} routing needs at least {k} router rows, there are {rows}"
                ));
            }
            for (expert, e) in moe.experts.iter().enumerate() {
                if e.sources.is_empty() {
                    return fail(format!("layer {layer}, expert {expert}: no source expert"));
                }
                if let Some(s) = e.segments.iter().find(|s| !(1..=MAX_WIDTH).contains(&s.width)) {
                    let width = s.width;
                    return fail(format!(
                        "layer {layer}, expert {expert}: a segment of {width} atoms, must be 1 to {MAX_WIDTH}"
                    ));
                }
            }
        }
        Ok(())
    }
}
