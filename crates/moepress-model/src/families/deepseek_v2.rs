//! DeepSeek-V2 (arXiv 2405.04434): latent attention, softmax scores, groups ranked by their largest score.

use super::deepseek::{finish, groups, latent, mixture};
use super::{Family, names::USUAL};
use crate::attention::Pairs;
use crate::moe::GroupRank;
use crate::spec::ModelSpec;
use crate::{Config, ConfigError};

pub const FAMILY: Family = Family {
    model_type: "deepseek_v2",
    keys: &["kv_lora_rank", "qk_rope_head_dim", "n_routed_experts", "topk_method"],
    spec,
    places: |tensor| USUAL.places(tensor),
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    config.word("scoring_func", &["softmax"])?;
    let spec = latent(config, FAMILY.model_type, Pairs::Neighbours)?;
    let mut mixture = mixture(config)?;
    // `norm_topk_prob` has no effect in the code of this family.
    if config.word("topk_method", &["greedy", "group_limited_greedy"])? == "group_limited_greedy" {
        mixture.routing.groups = groups(config, GroupRank::Largest)?;
    }
    mixture.mlp_biases = config.flag("mlp_bias", false)?;
    if let Some(shared) = &mut mixture.shared {
        shared.biases = mixture.mlp_biases;
    }
    finish(config, spec, &mixture)
}
