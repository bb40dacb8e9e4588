//! GLM-4.5 and later: the routing of DeepSeek-V3 with grouped-query attention, half of whose channels rotate.

use super::common::{base, biased};
use super::deepseek::{corrected, finish, mixture};
use super::{Family, names::USUAL};
use crate::attention::{Pairs, QueryKeyNorm};
use crate::part::Map;
use crate::spec::ModelSpec;
use crate::{Config, ConfigError};

pub const FAMILY: Family = Family {
    model_type: "glm4_moe",
    keys: &["n_routed_experts", "n_shared_experts", "use_qk_norm", "first_k_dense_replace"],
    spec,
    places: |tensor| USUAL.places(tensor),
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    let mut spec = base(config, FAMILY.model_type, 0.5, Pairs::Halves)?;
    spec.attention.norm = config.flag("use_qk_norm", false)?.then_some(QueryKeyNorm::Head);
    spec.attention.biases = biased(config, "attention_bias", false, &[Map::Query, Map::Key, Map::Value])?;
    let mut mixture = mixture(config)?;
    corrected(config, &mut mixture.routing)?;
    finish(config, spec, &mixture)
}
