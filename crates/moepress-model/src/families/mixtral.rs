//! Mixtral: the chosen gates always sum to one; an optional window in every layer.

use super::common::{Mixture, base, layers};
use super::{Family, names::MIXTRAL};
use crate::attention::Pairs;
use crate::spec::ModelSpec;
use crate::{Config, ConfigError};

pub const FAMILY: Family = Family {
    model_type: "mixtral",
    keys: &["num_local_experts", "intermediate_size", "router_jitter_noise"],
    spec,
    places: |tensor| MIXTRAL.places(tensor),
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    let mut spec = base(config, FAMILY.model_type, 1.0, Pairs::Halves)?;
    let mut mixture = Mixture::new(config, &["num_local_experts", "num_experts"], "intermediate_size")?;
    mixture.routing.renormalise = Some(0.0);
    let window = config.optional_size("sliding_window", 1 << 30)?;
    spec.layers = layers(config, &mixture, |_| true, |_| window)?;
    Ok(spec)
}
