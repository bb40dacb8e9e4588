//! Granite-MoE: constant factors on embeddings, attention, residuals and logits; experts fused in two tensors.

use super::Family;
use super::common::{ALL_MAPS, Mixture, base, biased, layers};
use super::names::{MIXTRAL, Names};
use crate::attention::Pairs;
use crate::part::{Part, Projection};
use crate::place::{Half, Place};
use crate::spec::{ModelSpec, Scales};
use crate::{Config, ConfigError, Tensor};

pub const FAMILY: Family = Family {
    model_type: "granitemoe",
    keys: &["num_local_experts", "embedding_multiplier", "residual_multiplier", "logits_scaling"],
    spec,
    places,
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    let mut spec = base(config, FAMILY.model_type, 1.0, Pairs::Halves)?;
    spec.attention.biases = biased(config, "attention_bias", false, &ALL_MAPS)?;
    spec.attention.scale = config.number("attention_multiplier", 1.0)?;
    spec.scales = Scales {
        embedding: config.number("embedding_multiplier", 1.0)?,
        residual: config.number("residual_multiplier", 1.0)?,
        logits: 1.0 / config.number("logits_scaling", 1.0)?,
    };
    let mut mixture = Mixture::new(config, &["num_local_experts", "num_experts"], "intermediate_size")?;
    mixture.routing.renormalise = Some(0.0);
    spec.layers = layers(config, &mixture, |_| true, |_| None)?;
    Ok(spec)
}

fn places(tensor: Tensor) -> Vec<Place> {
    let names = Names { router: "router.layer", expert: ["gate_proj", "up_proj", "down_proj"], ..MIXTRAL };
    let mut places = names.places(tensor);
    if let Tensor::Layer(layer, Part::Expert { expert, projection, .. }) = tensor {
        let moe = format!("model.layers.{layer}.{}", names.moe);
        let (name, half) = match projection {
            Projection::Gate => ("input_linear", Some(Half::First)),
            Projection::Up => ("input_linear", Some(Half::Second)),
            Projection::Down => ("output_linear", None),
        };
        places.insert(0, Place::slice(format!("{moe}.{name}.weight"), expert, half, false));
    }
    places
}
