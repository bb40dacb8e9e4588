//! MiniMax-M2: sigmoid scores with a corrected choice, queries and keys normed over all heads together.

use super::common::{Mixture, base, head_dim, layers};
use super::{Family, names::MIXTRAL};
use crate::attention::{Pairs, QueryKeyNorm};
use crate::moe::Scores;
use crate::spec::ModelSpec;
use crate::{Config, ConfigError};

pub const FAMILY: Family = Family {
    model_type: "minimax_m2",
    keys: &["num_local_experts", "intermediate_size", "use_qk_norm", "rotary_dim"],
    spec,
    places: |tensor| MIXTRAL.places(tensor),
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    config.only("use_qk_norm", &true.into())?;
    config.word("qk_norm_type", &["per_layer"])?;
    config.word("scoring_func", &["sigmoid"])?;
    config.only("use_routing_bias", &true.into())?;
    let partial = match config.optional_size("rotary_dim", 1 << 14)? {
        Some(dims) => dims as f64 / head_dim(config)? as f64,
        None => 1.0,
    };
    let mut spec = base(config, FAMILY.model_type, partial, Pairs::Halves)?;
    spec.attention.norm = Some(QueryKeyNorm::Whole);
    let mut mixture = Mixture::new(config, &["num_local_experts", "num_experts"], "intermediate_size")?;
    mixture.routing.scores = Scores::Sigmoid;
    mixture.routing.correction = true;
    mixture.routing.renormalise = Some(0.0);
    spec.layers = layers(config, &mixture, |_| true, |_| None)?;
    Ok(spec)
}
