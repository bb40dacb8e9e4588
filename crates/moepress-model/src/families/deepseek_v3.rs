//! DeepSeek-V3 (arXiv 2412.19437): latent attention, sigmoid scores with a corrected choice, grouped routing.

use super::deepseek::{corrected, finish, latent, mixture};
use super::{Family, names::USUAL};
use crate::attention::Pairs;
use crate::spec::ModelSpec;
use crate::{Config, ConfigError};

pub const FAMILY: Family = Family {
    model_type: "deepseek_v3",
    keys: &["kv_lora_rank", "qk_rope_head_dim", "n_routed_experts", "n_group", "topk_group"],
    spec,
    places: |tensor| USUAL.places(tensor),
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    let pairs = if config.flag("rope_interleave", true)? { Pairs::Neighbours } else { Pairs::Halves };
    let spec = latent(config, FAMILY.model_type, pairs)?;
    let mut mixture = mixture(config)?;
    corrected(config, &mut mixture.routing)?;
    finish(config, spec, &mixture)
}
