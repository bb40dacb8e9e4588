//! Phi-3.5-MoE: layer norms with biases, two experts chosen one after the other by SparseMixer, LongRoPE.

use super::common::{ALL_MAPS, Mixture, biased, grouped, head_dim, layers};
use super::rope::Wanted;
use super::{Family, names::MIXTRAL};
use crate::attention::Pairs;
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
    let wanted = Wanted { dims: head_dim(config)?, pairs: Pairs::Halves, partial: 1.0, long: true };
    let mut spec = grouped(config, FAMILY.model_type, wanted)?;
    spec.attention.biases = biased(config, "attention_bias", false, &ALL_MAPS)?;
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
