//! Qwen2-MoE: a gated shared expert beside the routed ones, biases on query, key and value.

use super::Family;
use super::common::{Mixture, base, biased, layer_types, layers, qwen_layers, renormalise};
use super::names::{Names, USUAL};
use crate::attention::Pairs;
use crate::moe::Shared;
use crate::part::Map;
use crate::spec::ModelSpec;
use crate::{Config, ConfigError};

pub const FAMILY: Family = Family {
    model_type: "qwen2_moe",
    keys: &["num_experts", "moe_intermediate_size", "shared_expert_intermediate_size"],
    spec,
    places: |tensor| Names { shared: "shared_expert", ..USUAL }.places(tensor),
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    let mut spec = base(config, FAMILY.model_type, 1.0, Pairs::Halves)?;
    spec.attention.biases = biased(config, "qkv_bias", true, &[Map::Query, Map::Key, Map::Value])?;
    let mut mixture = Mixture::new(config, &["num_experts", "num_local_experts"], "moe_intermediate_size")?;
    mixture.routing.renormalise = renormalise(config, false)?;
    mixture.shared = Some(Shared {
        width: config.size("shared_expert_intermediate_size", 1 << 20)?,
        gated: true,
        biases: false,
    });
    let window = match config.flag("use_sliding_window", false)? {
        true => Some(config.size("sliding_window", 1 << 30)?),
        false => None,
    };
    let full_from = config.number("max_window_layers", 28.0)? as usize;
    let slides = layer_types(config)?;
    let window = |layer: usize| {
        let slides = match &slides {
            Some(types) => types[layer],
            None => layer.is_multiple_of(2) && layer < full_from,
        };
        window.filter(|_| slides)
    };
    spec.layers = layers(config, &mixture, qwen_layers(config)?, window)?;
    Ok(spec)
}
