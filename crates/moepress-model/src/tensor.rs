//! Which tensors a model has, and what they are called in a compact checkpoint.

use crate::part::Part;
use moepress_quant::Stored;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// A tensor of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tensor {
    /// Token embeddings (and the head, when tied).
    Embedding,
    /// Part of the layer with that index.
    Layer(usize, Part),
    /// Weight of the norm after the last layer.
    FinalNorm,
    /// Bias of that norm.
    FinalNormBias,
    /// Output head, when not tied.
    Head,
    /// Bias of the head.
    HeadBias,
}

/// What a tensor is counted as in tables of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Embeddings and head.
    Embeddings,
    /// Attention: its maps, their biases, sinks.
    Attention,
    /// Routers.
    Router,
    /// Routed experts.
    Experts,
    /// Experts that every token goes through.
    SharedExperts,
    /// Dense MLPs.
    DenseMlp,
    /// All norms.
    Norms,
    /// What is carried along and never run.
    Carried,
}

impl Class {
    /// All classes in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Embeddings,
        Self::Attention,
        Self::Router,
        Self::Experts,
        Self::SharedExperts,
        Self::DenseMlp,
        Self::Norms,
        Self::Carried,
    ];

    /// The word recipes and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Attention => "attention",
            Self::Router => "router",
            Self::Experts => "experts",
            Self::SharedExperts => "shared_experts",
            Self::DenseMlp => "dense_mlp",
            Self::Norms => "norms",
            Self::Carried => "carried",
        }
    }

    /// The class of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

impl Tensor {
    /// The tensors outside the layers.
    pub const OUTSIDE: [Self; 5] =
        [Self::Embedding, Self::FinalNorm, Self::FinalNormBias, Self::Head, Self::HeadBias];

    /// The class the tensor is counted in.
    pub const fn class(self) -> Class {
        match self {
            Self::Embedding | Self::Head | Self::HeadBias => Class::Embeddings,
            Self::FinalNorm | Self::FinalNormBias => Class::Norms,
            Self::Layer(_, part) => match part {
                Part::Norm(_) | Part::NormBias(_) => Class::Norms,
                Part::Attention(_) | Part::AttentionBias(_) | Part::Sinks => Class::Attention,
                Part::Dense(_) | Part::DenseBias(_) => Class::DenseMlp,
                Part::Router | Part::RouterBias | Part::Correction => Class::Router,
                Part::Shared(_) | Part::SharedBias(_) | Part::SharedGate => Class::SharedExperts,
                Part::Expert { .. } | Part::ExpertBias { .. } | Part::ExpertOutputBias { .. } => {
                    Class::Experts
                }
            },
        }
    }

    /// Whether formats can be chosen for it: the matrices whose cost of rounding a sweep measures.
    pub const fn is_measured(self) -> bool {
        match self {
            Self::Embedding | Self::Head => true,
            Self::Layer(_, part) => part.is_measured(),
            Self::FinalNorm | Self::FinalNormBias | Self::HeadBias => false,
        }
    }

    /// The layer it belongs to.
    pub const fn layer(self) -> Option<usize> {
        match self {
            Self::Layer(layer, _) => Some(layer),
            _ => None,
        }
    }
}

impl fmt::Display for Tensor {
    /// The name in a compact checkpoint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("model.embed_tokens.weight"),
            Self::FinalNorm => f.write_str("model.norm.weight"),
            Self::FinalNormBias => f.write_str("model.norm.bias"),
            Self::Head => f.write_str("lm_head.weight"),
            Self::HeadBias => f.write_str("lm_head.bias"),
            Self::Layer(layer, part) => write!(f, "model.layers.{layer}.{part}"),
        }
    }
}

/// A name that no tensor of any model has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no tensor name")]
pub struct NameError(String);

impl FromStr for Tensor {
    type Err = NameError;

    /// Reads what `Display` writes, and nothing else.
    fn from_str(name: &str) -> Result<Self, NameError> {
        let layer_tensor = || {
            let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
            Some(Self::Layer(layer.parse().ok()?, Part::from_name(part)?))
        };
        let outside = Self::OUTSIDE.into_iter().find(|tensor| tensor.to_string() == name);
        let found = outside.or_else(layer_tensor);
        found.filter(|tensor| tensor.to_string() == name).ok_or_else(|| NameError(name.to_owned()))
    }
}

/// The tensors of one layer, by part.
pub type LayerWeights = BTreeMap<Part, Stored>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Map, Normed, Projection};

    #[test]
    fn names_round_trip() {
        let projection = Projection::Down;
        let parts = [
            Part::Expert { expert: 12, segment: 3, projection },
            Part::ExpertBias { expert: 1, segment: 0, projection: Projection::Up },
            Part::ExpertOutputBias { expert: 7 },
            Part::AttentionBias(Map::QueryDown),
            Part::NormBias(Normed::Latent),
            Part::Sinks,
            Part::SharedGate,
        ];
        let layers = parts.into_iter().map(|part| Tensor::Layer(7, part));
        for tensor in Tensor::OUTSIDE.into_iter().chain(layers) {
            assert_eq!(tensor.to_string().parse(), Ok(tensor));
        }
        for name in [
            "",
            "model.layers.x.mlp.gate.weight",
            "model.layers.01.mlp.gate.weight",
            "model.layers.1",
            "model.layers.1.mlp.experts.0.segments.0.down_proj.bias",
            "model.layers.1.mlp.experts.00.down_proj.bias",
        ] {
            assert!(name.parse::<Tensor>().is_err(), "{name}");
        }
    }
}
