//! Qwen3-MoE: softmax routing over all experts, a norm on every query and key head, no shared expert.

use super::common::{ALL_MAPS, Mixture, base, biased, layers, qwen_layers, renormalise};
use super::{Family, names::USUAL};
use crate::attention::{Pairs, QueryKeyNorm};
use crate::spec::ModelSpec;
use crate::{Config, ConfigError};

pub const FAMILY: Family = Family {
    model_type: "qwen3_moe",
    keys: &["moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step"],
    spec,
    places: |tensor| USUAL.places(tensor),
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    let mut spec = base(config, FAMILY.model_type, 1.0, Pairs::Halves)?;
    spec.attention.norm = Some(QueryKeyNorm::Head);
    spec.attention.biases = biased(config, "attention_bias", false, &ALL_MAPS)?;
    let mut mixture = Mixture::new(config, &["num_local_experts", "num_experts"], "moe_intermediate_size")?;
    mixture.routing.renormalise = renormalise(config, false)?;
    let window = match config.flag("use_sliding_window", false)? {
        true => Some(config.size("sliding_window", 1 << 30)?),
        false => None,
    };
    spec.layers = layers(config, &mixture, qwen_layers(config)?, |_| window)?;
    Ok(spec)
}
