//! The tensors of one decoder layer.

use serde::{Deserialize, Serialize};
use std::fmt;

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

/// One of the linear maps of attention. Latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1)
/// compresses keys and values, and optionally queries, before it expands them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Map {
    /// hidden → query heads.
    Query,
    /// hidden → compressed query.
    QueryDown,
    /// Compressed query → query heads.
    QueryUp,
    /// hidden → key heads.
    Key,
    /// hidden → value heads.
    Value,
    /// hidden → compressed keys and values, and the rotary key that all heads share.
    LatentDown,
    /// Compressed keys and values → key heads without their rotary part, and value heads.
    LatentUp,
    /// Heads → hidden.
    Output,
}

impl Map {
    /// All maps in the order of computation.
    pub const ALL: [Self; 8] = [
        Self::Query,
        Self::QueryDown,
        Self::QueryUp,
        Self::Key,
        Self::Value,
        Self::LatentDown,
        Self::LatentUp,
        Self::Output,
    ];

    /// The name checkpoints use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::QueryDown => "q_a_proj",
            Self::QueryUp => "q_b_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::LatentDown => "kv_a_proj_with_mqa",
            Self::LatentUp => "kv_b_proj",
            Self::Output => "o_proj",
        }
    }
}

/// What a norm of a layer is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Normed {
    /// Hidden states before attention.
    Input,
    /// Query heads.
    Query,
    /// Key heads.
    Key,
    /// The compressed query.
    QueryLatent,
    /// The compressed keys and values.
    Latent,
    /// Hidden states before the MLP.
    Mlp,
}

impl Normed {
    /// All norms of a layer.
    pub const ALL: [Self; 6] =
        [Self::Input, Self::Query, Self::Key, Self::QueryLatent, Self::Latent, Self::Mlp];

    const fn name(self) -> &'static str {
        match self {
            Self::Input => "input_layernorm",
            Self::Query => "self_attn.q_norm",
            Self::Key => "self_attn.k_norm",
            Self::QueryLatent => "self_attn.q_a_layernorm",
            Self::Latent => "self_attn.kv_a_layernorm",
            Self::Mlp => "post_attention_layernorm",
        }
    }
}

/// A tensor of one decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Weight of a norm.
    Norm(Normed),
    /// Bias of a norm.
    NormBias(Normed),
    /// Matrix of attention.
    Attention(Map),
    /// Bias of a map of attention.
    AttentionBias(Map),
    /// One logit per query head that takes part in its softmax and carries no value.
    Sinks,
    /// Matrix of a dense MLP.
    Dense(Projection),
    /// Bias of a projection of a dense MLP.
    DenseBias(Projection),
    /// Router rows.
    Router,
    /// Bias of the router logits.
    RouterBias,
    /// Added to the scores when experts are chosen, not when they are weighted.
    Correction,
    /// Matrix of the expert that every token goes through.
    Shared(Projection),
    /// Bias of a projection of that expert.
    SharedBias(Projection),
    /// One row: the logit that the shared expert is gated by.
    SharedGate,
    /// Matrix of one segment of one routed expert.
    Expert {
        /// Index of the expert.
        expert: usize,
        /// Index of the segment within it.
        segment: usize,
        /// Which matrix.
        projection: Projection,
    },
    /// Bias of the gate or up projection of one segment, one number per atom.
    ExpertBias {
        /// Index of the expert.
        expert: usize,
        /// Index of the segment within it.
        segment: usize,
        /// Gate or up.
        projection: Projection,
    },
    /// Bias of the down projection of a routed expert, added once whatever its segments.
    ExpertOutputBias {
        /// Index of the expert.
        expert: usize,
    },
}

impl Part {
    /// Parts whose names hold no index.
    pub fn fixed() -> impl Iterator<Item = Self> {
        let norms = Normed::ALL.into_iter().flat_map(|norm| [Self::Norm(norm), Self::NormBias(norm)]);
        let maps = Map::ALL.into_iter().flat_map(|map| [Self::Attention(map), Self::AttentionBias(map)]);
        let mlp = Projection::ALL
            .into_iter()
            .flat_map(|p| [Self::Dense(p), Self::DenseBias(p), Self::Shared(p), Self::SharedBias(p)]);
        let single = [Self::Sinks, Self::Router, Self::RouterBias, Self::Correction, Self::SharedGate];
        norms.chain(maps).chain(mlp).chain(single)
    }

    /// The routed expert it belongs to.
    pub const fn expert(self) -> Option<usize> {
        match self {
            Self::Expert { expert, .. }
            | Self::ExpertBias { expert, .. }
            | Self::ExpertOutputBias { expert } => Some(expert),
            _ => None,
        }
    }

    /// The same part of another expert; any other part is returned as it is.
    pub const fn of_expert(self, expert: usize) -> Self {
        match self {
            Self::Expert { segment, projection, .. } => Self::Expert { expert, segment, projection },
            Self::ExpertBias { segment, projection, .. } => Self::ExpertBias { expert, segment, projection },
            Self::ExpertOutputBias { .. } => Self::ExpertOutputBias { expert },
            other => other,
        }
    }

    /// Whether it is the matrix of a linear map whose input and output a sweep measures, and which formats
    /// can be chosen for: all but routers, norms and biases.
    pub const fn is_measured(self) -> bool {
        matches!(self, Self::Attention(_) | Self::Dense(_) | Self::Shared(_) | Self::Expert { .. })
    }

    /// The part that a name within a layer stands for.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        if let Some(part) = Self::fixed().find(|part| part.to_string() == name) {
            return Some(part);
        }
        let (expert, rest) = name.strip_prefix("mlp.experts.")?.split_once('.')?;
        let expert = expert.parse().ok()?;
        if rest == "down_proj.bias" {
            return Some(Self::ExpertOutputBias { expert });
        }
        let (segment, rest) = rest.strip_prefix("segments.")?.split_once('.')?;
        let segment = segment.parse().ok()?;
        let (projection, kind) = rest.split_once('.')?;
        let projection = Projection::ALL.into_iter().find(|p| projection == p.name())?;
        match (kind, projection) {
            ("weight", _) => Some(Self::Expert { expert, segment, projection }),
            ("bias", Projection::Gate | Projection::Up) => {
                Some(Self::ExpertBias { expert, segment, projection })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Part {
    /// The name within the layer, as in a compact checkpoint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Norm(norm) => write!(f, "{}.weight", norm.name()),
            Self::NormBias(norm) => write!(f, "{}.bias", norm.name()),
            Self::Attention(map) => write!(f, "self_attn.{}.weight", map.name()),
            Self::AttentionBias(map) => write!(f, "self_attn.{}.bias", map.name()),
            Self::Sinks => f.write_str("self_attn.sinks"),
            Self::Dense(projection) => write!(f, "mlp.{}.weight", projection.name()),
            Self::DenseBias(projection) => write!(f, "mlp.{}.bias", projection.name()),
            Self::SharedBias(projection) => write!(f, "mlp.shared_expert.{}.bias", projection.name()),
            Self::Router => f.write_str("mlp.gate.weight"),
            Self::RouterBias => f.write_str("mlp.gate.bias"),
            Self::Correction => f.write_str("mlp.gate.e_score_correction_bias"),
            Self::Shared(projection) => write!(f, "mlp.shared_expert.{}.weight", projection.name()),
            Self::SharedGate => f.write_str("mlp.shared_expert_gate.weight"),
            Self::Expert { expert, segment, projection } => {
                write!(f, "mlp.experts.{expert}.segments.{segment}.{}.weight", projection.name())
            }
            Self::ExpertBias { expert, segment, projection } => {
                write!(f, "mlp.experts.{expert}.segments.{segment}.{}.bias", projection.name())
            }
            Self::ExpertOutputBias { expert } => write!(f, "mlp.experts.{expert}.down_proj.bias"),
        }
    }
}
