//! ERNIE-4.5-MoE: softmax scores with a corrected choice, rotary pairs of neighbours, dense layers in a pattern.

use super::Family;
use super::common::{ALL_MAPS, Mixture, base, biased, layers};
use super::names::{Names, USUAL};
use crate::attention::Pairs;
use crate::moe::Shared;
use crate::spec::ModelSpec;
use crate::{Config, ConfigError};

pub const FAMILY: Family = Family {
    model_type: "ernie4_5_moe",
    keys: &["moe_num_experts", "moe_k", "moe_num_shared_experts", "moe_layer_start_index"],
    spec,
    places: |tensor| Names { correction: "moe_statics.e_score_correction_bias", ..USUAL }.places(tensor),
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    let mut spec = base(config, FAMILY.model_type, 1.0, Pairs::Neighbours)?;
    let biases = config.flag("use_bias", false)?;
    spec.attention.biases = biased(config, "use_bias", false, &ALL_MAPS)?;
    spec.head_bias = biases;
    let mut mixture =
        Mixture::new(config, &["moe_num_experts", "num_local_experts"], "moe_intermediate_size")?;
    mixture.mlp_biases = biases;
    mixture.routing.correction = true;
    mixture.routing.renormalise = Some(config.number("moe_norm_min", 1e-12)?);
    let shared = config.number("moe_num_shared_experts", 0.0)? as usize;
    mixture.shared =
        (shared > 0).then(|| Shared { width: mixture.width.saturating_mul(shared), gated: false, biases });
    let step = config.optional_size("moe_layer_interval", 1 << 12)?.unwrap_or(1);
    let first = config.number("moe_layer_start_index", 1.0)? as usize;
    // -1 stands for the last layer.
    let last = match config.get("moe_layer_end_index") {
        Some(value) if value.as_i64() == Some(-1) => usize::MAX,
        _ => config.number("moe_layer_end_index", f64::from(u32::MAX))? as usize,
    };
    let is_moe = |layer: usize| (layer + 1).is_multiple_of(step) && (first..=last).contains(&layer);
    spec.layers = layers(config, &mixture, is_moe, |_| None)?;
    Ok(spec)
}
