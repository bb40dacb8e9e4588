//! gpt-oss: biases everywhere, sinks in attention, windows in every other layer, experts fused and interleaved.

use super::Family;
use super::common::{ALL_MAPS, Mixture, base, biased, layer_types, layers};
use super::names::{Names, USUAL};
use crate::attention::Pairs;
use crate::moe::Activation;
use crate::part::{Part, Projection};
use crate::place::{Half, Place};
use crate::spec::ModelSpec;
use crate::{Config, ConfigError, Tensor};

pub const FAMILY: Family = Family {
    model_type: "gpt_oss",
    keys: &["num_local_experts", "intermediate_size", "sliding_window", "layer_types"],
    spec,
    places,
};

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    let mut spec = base(config, FAMILY.model_type, 1.0, Pairs::Halves)?;
    spec.attention.biases = biased(config, "attention_bias", true, &ALL_MAPS)?;
    spec.attention.sinks = true;
    let mut mixture = Mixture::new(config, &["num_local_experts", "num_experts"], "intermediate_size")?;
    mixture.routing.bias = true;
    // A softmax over the chosen logits is that over all, divided by the sum of the chosen.
    mixture.routing.renormalise = Some(0.0);
    mixture.biases = true;
    mixture.activation = Activation::ClampedSwiglu {
        alpha: config.number("swiglu_alpha", 1.702)?,
        limit: config.number("swiglu_limit", 7.0)?,
    };
    let window = config.size("sliding_window", 1 << 30)?;
    let slides = layer_types(config)?;
    let slides = |layer: usize| slides.as_ref().map_or(layer.is_multiple_of(2), |types| types[layer]);
    spec.layers = layers(config, &mixture, |_| true, |layer| slides(layer).then_some(window))?;
    Ok(spec)
}

fn places(tensor: Tensor) -> Vec<Place> {
    let Tensor::Layer(layer, part) = tensor else { return USUAL.places(tensor) };
    let experts = format!("model.layers.{layer}.mlp.experts");
    let half = |projection| match projection {
        Projection::Gate => ("gate_up_proj", Some(Half::Even)),
        Projection::Up => ("gate_up_proj", Some(Half::Odd)),
        Projection::Down => ("down_proj", None),
    };
    match part {
        Part::Expert { expert, projection, .. } => {
            let (name, half) = half(projection);
            vec![Place::slice(format!("{experts}.{name}"), expert, half, true)]
        }
        Part::ExpertBias { expert, projection, .. } => {
            let (name, half) = half(projection);
            vec![Place::slice(format!("{experts}.{name}_bias"), expert, half, false)]
        }
        Part::ExpertOutputBias { expert } => {
            vec![Place::slice(format!("{experts}.down_proj_bias"), expert, None, false)]
        }
        _ => Names { router: "router", ..USUAL }.places(tensor),
    }
}
