//! The description of a model that everything else is driven by.

use crate::attention::Attention;
use crate::moe::{Moe, Shared};
use crate::part::{Map, Normed, Part, Projection};
use crate::tensor::{Class, Tensor};
use moepress_quant::Format;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// Norms of the hidden states.
    pub norm: Norm,
    /// Constant factors on the way through the model.
    pub scales: Scales,
    /// Whether the head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Whether the head has a bias.
    pub head_bias: bool,
    /// Tokens that end a generated text.
    pub end_tokens: Vec<u32>,
    /// Attention.
    pub attention: Attention,
    /// Layers from the input to the output.
    pub layers: Vec<LayerSpec>,
    /// Formats of everything outside the routed experts, by tensor name.
    pub formats: BTreeMap<String, Format>,
    /// Tensors that belong to the checkpoint and are never run (layers that predict several tokens), by their
    /// names in the source.
    pub carried: BTreeMap<String, Carried>,
    /// Bytes of the tensors, of those in a checkpoint, whose codes are not in bit fields: what the codes are decides.
    #[serde(skip)]
    pub packed: BTreeMap<Tensor, u64>,
}

/// How hidden states are normed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// The rule.
    pub kind: NormKind,
    /// Added to the mean square or the variance.
    pub eps: f64,
}

/// A rule of norming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// x / √(mean x² + ε) · weight.
    Rms,
    /// (x − mean) / √(variance + ε) · weight + bias.
    Layer,
}

/// Constant factors; 1 in most families.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scales {
    /// Of the embedded tokens.
    pub embedding: f64,
    /// Of what attention and MLP add to the residual stream.
    pub residual: f64,
    /// Of the logits.
    pub logits: f64,
}

impl Default for Scales {
    fn default() -> Self {
        Self { embedding: 1.0, residual: 1.0, logits: 1.0 }
    }
}

/// One decoder layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSpec {
    /// The last tokens that a token attends to, itself included; none when all.
    pub window: Option<usize>,
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
        /// Whether its projections have biases.
        biases: bool,
    },
    /// Routed experts.
    Moe(Moe),
}

/// A tensor that is carried along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// Element type, as in safetensors.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Size.
    pub bytes: u64,
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

    /// The parts of a layer, in the order of computation; none when there is no such layer.
    pub fn parts(&self, layer: usize) -> Vec<Part> {
        let Some(LayerSpec { mlp, .. }) = self.layers.get(layer) else { return vec![] };
        let outside = |part: &Part| self.shape(Tensor::Layer(layer, *part)).is_some();
        let norm = |norm| [Part::Norm(norm), Part::NormBias(norm)];
        let map = |map| [Part::Attention(map), Part::AttentionBias(map)];
        let mut parts: Vec<Part> = norm(Normed::Input).to_vec();
        parts.extend([Map::QueryDown].into_iter().flat_map(map));
        parts.push(Part::Norm(Normed::QueryLatent));
        parts.extend(
            [Map::Query, Map::QueryUp, Map::Key, Map::Value, Map::LatentDown].into_iter().flat_map(map),
        );
        parts.push(Part::Norm(Normed::Latent));
        parts.extend(map(Map::LatentUp));
        parts.extend([Part::Norm(Normed::Query), Part::Norm(Normed::Key), Part::Sinks]);
        parts.extend(map(Map::Output));
        parts.extend(norm(Normed::Mlp));
        parts.extend(Projection::ALL.into_iter().flat_map(|p| [Part::Dense(p), Part::DenseBias(p)]));
        parts.extend([Part::Router, Part::RouterBias, Part::Correction]);
        parts.retain(outside);
        if let Mlp::Moe(moe) = mlp {
            for (expert, e) in moe.experts.iter().enumerate() {
                for segment in 0..e.segments.len() {
                    for projection in Projection::ALL {
                        parts.push(Part::Expert { expert, segment, projection });
                        if moe.biases && projection != Projection::Down {
                            parts.push(Part::ExpertBias { expert, segment, projection });
                        }
                    }
                }
                if moe.biases {
                    parts.push(Part::ExpertOutputBias { expert });
                }
            }
            let shared = Projection::ALL.into_iter().flat_map(|p| [Part::Shared(p), Part::SharedBias(p)]);
            let shared = shared.chain([Part::SharedGate]);
            parts.extend(shared.filter(outside));
        }
        parts
    }

    /// Every tensor of the model, from the input to the output.
    pub fn tensors(&self) -> Vec<Tensor> {
        let layers = (0..self.layers.len())
            .flat_map(|layer| self.parts(layer).into_iter().map(move |part| Tensor::Layer(layer, part)));
        let last = [Tensor::FinalNorm, Tensor::FinalNormBias, Tensor::Head, Tensor::HeadBias];
        let last = last.into_iter().filter(|&tensor| self.shape(tensor).is_some());
        [Tensor::Embedding].into_iter().chain(layers).chain(last).collect()
    }

    /// Dimensions of a tensor, outermost first; `None` when the model does not have it.
    pub fn shape(&self, tensor: Tensor) -> Option<Vec<usize>> {
        let hidden = self.hidden;
        match tensor {
            Tensor::Embedding => Some(vec![self.vocab, hidden]),
            Tensor::Head => (!self.tied_embeddings).then(|| vec![self.vocab, hidden]),
            Tensor::HeadBias => self.head_bias.then(|| vec![self.vocab]),
            Tensor::FinalNorm => Some(vec![hidden]),
            Tensor::FinalNormBias => (self.norm.kind == NormKind::Layer).then(|| vec![hidden]),
            Tensor::Layer(layer, part) => self.part_shape(&self.layers.get(layer)?.mlp, part),
        }
    }

    fn part_shape(&self, mlp: &Mlp, part: Part) -> Option<Vec<usize>> {
        let (hidden, attention) = (self.hidden, &self.attention);
        match (part, mlp) {
            (Part::Norm(norm) | Part::NormBias(norm), _) => {
                let biased = self.norm.kind == NormKind::Layer && matches!(norm, Normed::Input | Normed::Mlp);
                let dims = match norm {
                    Normed::Input | Normed::Mlp => Some(hidden),
                    Normed::Query => attention.norm_dims(attention.heads),
                    Normed::Key => attention.norm_dims(attention.kv_heads),
                    Normed::QueryLatent => attention.latent.as_ref().and_then(|latent| latent.query_rank),
                    Normed::Latent => attention.latent.as_ref().map(|latent| latent.rank),
                };
                dims.filter(|_| biased || matches!(part, Part::Norm(_))).map(|dims| vec![dims])
            }
            (Part::Attention(map), _) => attention.shape(map, hidden).map(Vec::from),
            (Part::AttentionBias(map), _) => {
                let [rows, _] = attention.shape(map, hidden)?;
                attention.biases.contains(&map).then(|| vec![rows])
            }
            (Part::Sinks, _) => attention.sinks.then(|| vec![attention.heads]),
            (Part::Dense(projection), Mlp::Dense { width, .. }) => {
                Some(projection.shape(hidden, *width).to_vec())
            }
            (Part::DenseBias(projection), Mlp::Dense { width, biases }) => {
                biases.then(|| vec![projection.shape(hidden, *width)[0]])
            }
            (Part::SharedBias(projection), Mlp::Moe(moe)) => {
                let Shared { width, biases, .. } = moe.shared?;
                biases.then(|| vec![projection.shape(hidden, width)[0]])
            }
            (Part::Router, Mlp::Moe(moe)) => Some(vec![moe.router.len(), hidden]),
            (Part::RouterBias, Mlp::Moe(moe)) => moe.routing.bias.then(|| vec![moe.router.len()]),
            (Part::Correction, Mlp::Moe(moe)) => moe.routing.correction.then(|| vec![moe.router.len()]),
            (Part::Shared(projection), Mlp::Moe(moe)) => {
                Some(projection.shape(hidden, moe.shared?.width).to_vec())
            }
            (Part::SharedGate, Mlp::Moe(moe)) => moe.shared?.gated.then(|| vec![1, hidden]),
            (Part::Expert { expert, segment, projection }, Mlp::Moe(moe)) => {
                let width = moe.experts.get(expert)?.segments.get(segment)?.width;
                Some(projection.shape(hidden, width).to_vec())
            }
            (Part::ExpertBias { expert, segment, projection }, Mlp::Moe(moe)) => {
                let width = moe.experts.get(expert)?.segments.get(segment)?.width;
                (moe.biases && projection != Projection::Down).then(|| vec![width])
            }
            (Part::ExpertOutputBias { expert }, Mlp::Moe(moe)) => {
                (moe.biases && expert < moe.experts.len()).then(|| vec![hidden])
            }
            _ => None,
        }
    }

    /// The format of a tensor; `None` when it is not known or the model does not have it.
    pub fn format(&self, tensor: Tensor) -> Option<Format> {
        match tensor {
            Tensor::Layer(layer, Part::Expert { expert, segment, projection }) => {
                Some(self.moe(layer)?.experts.get(expert)?.segments.get(segment)?.format(projection))
            }
            // A format by name would not follow its expert when others are removed.
            Tensor::Layer(layer, part) if part.expert().is_some() => {
                let key = Tensor::Layer(layer, Part::ExpertOutputBias { expert: 0 });
                self.formats.get(&key.to_string()).copied()
            }
            other => self.formats.get(&other.to_string()).copied(),
        }
    }

    /// Records the format of a tensor the model has; otherwise does nothing and returns false. The biases of
    /// the experts of a layer share one format.
    pub fn set_format(&mut self, tensor: Tensor, format: Format) -> bool {
        if self.shape(tensor).is_none() {
            return false;
        }
        match tensor {
            Tensor::Layer(layer, Part::Expert { expert, segment, projection }) => {
                if let Some(Mlp::Moe(moe)) = self.layers.get_mut(layer).map(|layer| &mut layer.mlp) {
                    *moe.experts[expert].segments[segment].format_mut(projection) = format;
                }
            }
            Tensor::Layer(layer, part) if part.expert().is_some() => {
                let key = Tensor::Layer(layer, Part::ExpertOutputBias { expert: 0 });
                self.formats.insert(key.to_string(), format);
            }
            other => {
                self.formats.insert(other.to_string(), format);
            }
        }
        true
    }

    /// Bytes of a tensor as it is stored, scales and offsets included; where that is not known, with its codes in bit
    /// fields.
    pub fn stored_bytes(&self, tensor: Tensor) -> u64 {
        if let Some(&bytes) = self.packed.get(&tensor) {
            return bytes;
        }
        match (self.shape(tensor), self.format(tensor)) {
            (Some(shape), Some(format)) => {
                let cols = shape.last().copied().unwrap_or(1);
                format.stored_bytes(shape.iter().rev().skip(1).product(), cols)
            }
            _ => 0,
        }
    }

    /// How much of a tensor's weights a token meets, on average over experts that are chosen equally often: of embeddings
    /// nothing to speak of, unless they are the head too.
    pub fn met(&self, tensor: Tensor) -> f64 {
        match tensor {
            Tensor::Layer(layer, part) => match (part.expert(), self.moe(layer)) {
                (Some(_), Some(moe)) => (moe.routing.top_k as f64 / moe.experts.len().max(1) as f64).min(1.0),
                _ => 1.0,
            },
            Tensor::Embedding if !self.tied_embeddings => 0.0,
            _ => 1.0,
        }
    }

    /// The same with all codes in bit fields.
    pub fn unpacked(&self) -> Self {
        Self { packed: BTreeMap::new(), ..self.clone() }
    }

    /// Per class the weights and the bytes, in the formats of this description.
    pub fn bytes_by_class(&self) -> BTreeMap<Class, (u64, u64)> {
        self.sizes_by_class(|tensor| self.stored_bytes(tensor))
    }

    /// Per class the weights and the bytes, of which each tensor takes so many.
    pub fn sizes_by_class(&self, bytes: impl Fn(Tensor) -> u64) -> BTreeMap<Class, (u64, u64)> {
        let mut classes = BTreeMap::new();
        let tensors = self.tensors().into_iter().map(|tensor| {
            let weights = self.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>() as u64);
            (tensor.class(), weights, bytes(tensor))
        });
        let carried = self
            .carried
            .values()
            .map(|carried| (Class::Carried, carried.shape.iter().product::<usize>() as u64, carried.bytes));
        for (class, weights, bytes) in tensors.chain(carried) {
            let entry: &mut (u64, u64) = classes.entry(class).or_default();
            entry.0 += weights;
            entry.1 += bytes;
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
}
