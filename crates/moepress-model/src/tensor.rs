//! Which tensors a model has, and what they are called in a compact checkpoint.

use moepress_quant::Stored;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// One of the three matrices of a gated expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    /// hidden → width, goes through the activation.
    Gate,
    /// hidden → width, multiplies the activated gate.
    Up,
    /// width → hidden.
    Down,
}

impl Projection {
    /// The three, in the order of computation.
    pub const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];

    /// The name checkpoints use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// Rows and columns at this hidden size and width.
    pub const fn shape(self, hidden: usize, width: usize) -> [usize; 2] {
        match self {
            Self::Gate | Self::Up => [width, hidden],
            Self::Down => [hidden, width],
        }
    }
}

/// A tensor of one decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Norm before attention.
    InputNorm,
    /// Query projection.
    Query,
    /// Key projection.
    Key,
    /// Value projection.
    Value,
    /// Output projection of attention.
    Output,
    /// Norm of every query head.
    QueryNorm,
    /// Norm of every key head.
    KeyNorm,
    /// Norm before the MLP.
    MlpNorm,
    /// Matrix of a dense MLP.
    Dense(Projection),
    /// Router rows.
    Router,
    /// Matrix of one segment of one routed expert.
    Expert {
        /// Index of the expert.
        expert: usize,
        /// Index of the segment within it.
        segment: usize,
        /// Which matrix.
        projection: Projection,
    },
}

/// A tensor of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tensor {
    /// Token embeddings (and the head, when tied).
    Embedding,
    /// Part of the layer with that index.
    Layer(usize, Part),
    /// Norm after the last layer.
    FinalNorm,
    /// Output head, when not tied.
    Head,
}

/// What a tensor is counted as in tables of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Embeddings and head.
    Embeddings,
    /// The four projections of attention.
    Attention,
    /// Routers.
    Router,
    /// Routed experts.
    Experts,
    /// Dense MLPs.
    DenseMlp,
    /// All norms.
    Norms,
}

impl Class {
    /// All classes in the order of tables.
    pub const ALL: [Self; 6] =
        [Self::Embeddings, Self::Attention, Self::Router, Self::Experts, Self::DenseMlp, Self::Norms];

    /// The word recipes and tables use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embeddings => "embeddings",
            Self::Attention => "attention",
            Self::Router => "router",
            Self::Experts => "experts",
            Self::DenseMlp => "dense_mlp",
            Self::Norms => "norms",
        }
    }

    /// The class of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

impl Tensor {
    /// The class the tensor is counted in.
    pub const fn class(self) -> Class {
        match self {
            Self::Embedding | Self::Head => Class::Embeddings,
            Self::FinalNorm => Class::Norms,
            Self::Layer(_, part) => match part {
                Part::InputNorm | Part::QueryNorm | Part::KeyNorm | Part::MlpNorm => Class::Norms,
                Part::Query | Part::Key | Part::Value | Part::Output => Class::Attention,
                Part::Dense(_) => Class::DenseMlp,
                Part::Router => Class::Router,
                Part::Expert { .. } => Class::Experts,
            },
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

impl fmt::Display for Part {
    /// The name within the layer, as in a compact checkpoint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::InputNorm => "input_layernorm.weight",
            Self::Query => "self_attn.q_proj.weight",
            Self::Key => "self_attn.k_proj.weight",
            Self::Value => "self_attn.v_proj.weight",
            Self::Output => "self_attn.o_proj.weight",
            Self::QueryNorm => "self_attn.q_norm.weight",
            Self::KeyNorm => "self_attn.k_norm.weight",
            Self::MlpNorm => "post_attention_layernorm.weight",
            Self::Router => "mlp.gate.weight",
            Self::Dense(projection) => return write!(f, "mlp.{}.weight", projection.name()),
            Self::Expert { expert, segment, projection } => {
                return write!(f, "mlp.experts.{expert}.segments.{segment}.{}.weight", projection.name());
            }
        };
        f.write_str(name)
    }
}

impl fmt::Display for Tensor {
    /// The name in a compact checkpoint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("model.embed_tokens.weight"),
            Self::FinalNorm => f.write_str("model.norm.weight"),
            Self::Head => f.write_str("lm_head.weight"),
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
        let fixed = [Self::Embedding, Self::FinalNorm, Self::Head];
        let layer_tensor = || {
            let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
            Some(Self::Layer(layer.parse().ok()?, part_from_name(part)?))
        };
        let found = fixed.into_iter().find(|tensor| tensor.to_string() == name).or_else(layer_tensor);
        found.filter(|tensor| tensor.to_string() == name).ok_or_else(|| NameError(name.to_owned()))
    }
}

fn part_from_name(name: &str) -> Option<Part> {
    use Part::{InputNorm, Key, KeyNorm, MlpNorm, Output, Query, QueryNorm, Router, Value};
    let fixed = [InputNorm, Query, Key, Value, Output, QueryNorm, KeyNorm, MlpNorm, Router];
    if let Some(part) =
        fixed.into_iter().chain(Projection::ALL.map(Part::Dense)).find(|p| p.to_string() == name)
    {
        return Some(part);
    }
    let (expert, rest) = name.strip_prefix("mlp.experts.")?.split_once(".segments.")?;
    let (segment, rest) = rest.split_once('.')?;
    let projection = Projection::ALL.into_iter().find(|p| rest.strip_suffix(".weight") == Some(p.name()))?;
    Some(Part::Expert { expert: expert.parse().ok()?, segment: segment.parse().ok()?, projection })
}

/// The tensors of one layer, by part.
pub type LayerWeights = BTreeMap<Part, Stored>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let expert = Part::Expert { expert: 12, segment: 3, projection: Projection::Down };
        for tensor in
            [Tensor::Embedding, Tensor::Head, Tensor::Layer(7, Part::Router), Tensor::Layer(0, expert)]
        {
            assert_eq!(tensor.to_string().parse(), Ok(tensor));
        }
        for name in
            ["", "model.layers.x.mlp.gate.weight", "model.layers.01.mlp.gate.weight", "model.layers.1"]
        {
            assert!(name.parse::<Tensor>().is_err(), "{name}");
        }
    }
}
