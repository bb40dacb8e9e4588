//! Phi-3.5-MoE: layer norms with biases, two experts chosen one after the other by SparseMixer, LongRoPE.

use super::common::{ALL_MAPS, Mixture, biased, head_dim, layers, with_attention};
use super::rope::{Wanted, rotary};
use super::{Family, names::MIXTRAL};
use crate::attention::{Attention, Pairs};
use crate::moe::Scores;
use crate::spec::{ModelSpec, NormKind};
use crate::{Config, ConfigError};

pub const FAMILY: Family = Family {
    model_type: "phimoe",
    keys: &["num_local_experts", "intermediate_size", "router_jitter_noise", "lm_head_bias"],
    spec,
    places: |tensor| MIXTRAL.places(tensor),
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    let head_dim = head_dim(config)?;
    let wanted = Wanted { dims: head_dim, pairs: Pairs::Halves, partial: 1.0, long: true };
    let rope = rotary(config, wanted)?.rope;
    let biases = biased(config, "attention_bias", false, &ALL_MAPS)?;
    let mut spec = with_attention(config, FAMILY.model_type, |heads, kv_heads| Attention {
        heads,
        kv_heads,
        head_dim,
        value_dim: head_dim,
        scale: (head_dim as f64).powf(-0.5),
        biases,
        latent: None,
        norm: None,
        clip: None,
        sinks: false,
        rope,
    })?;
    spec.norm.kind = NormKind::Layer;
    spec.head_bias = config.flag("lm_head_bias", false)?;
    let mut mixture = Mixture::new(config, &["num_local_experts", "num_experts"], "intermediate_size")?;
    if mixture.routing.top_k != 2 {
        return Err(ConfigError::new("num_experts_per_tok", "must be 2: SparseMixer chooses two experts"));
    }
    mixture.routing.scores = Scores::SparseMixer { jitter: config.number("router_jitter_noise", 0.01)? };
    let window = config.optional_size("sliding_window", 1 << 30)?;
    spec.layers = layers(config, &mixture, |_| true, |_| window)?;
    Ok(spec)
}
