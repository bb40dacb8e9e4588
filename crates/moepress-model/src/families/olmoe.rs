//! OLMoE (arXiv 2409.02060): queries and keys are normed over all heads together and may be limited.

use super::common::{ALL_MAPS, Mixture, base, biased, layers, renormalise};
use super::{Family, names::USUAL};
use crate::attention::{Pairs, QueryKeyNorm};
use crate::spec::ModelSpec;
use crate::{Config, ConfigError};

pub const FAMILY: Family = Family {
    model_type: "olmoe",
    keys: &["num_experts", "intermediate_size", "norm_topk_prob", "clip_qkv"],
    spec,
    places: |tensor| USUAL.places(tensor),
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    let mut spec = base(config, FAMILY.model_type, 1.0, Pairs::Halves)?;
    spec.attention.norm = Some(QueryKeyNorm::Whole);
    spec.attention.biases = biased(config, "attention_bias", false, &ALL_MAPS)?;
    spec.attention.clip = config.get("clip_qkv").map(|_| config.positive("clip_qkv")).transpose()?;
    let mut mixture = Mixture::new(config, &["num_experts", "num_local_experts"], "intermediate_size")?;
    mixture.routing.renormalise = renormalise(config, false)?;
    spec.layers = layers(config, &mixture, |_| true, |_| None)?;
    Ok(spec)
}
