//! Qwen3-MoE: softmax routing over all experts, per-head query and key norms, no shared expert.

use super::Family;
use crate::spec::{Attention, Expert, LayerSpec, Mlp, ModelSpec, Moe, Routing, Segment};
use crate::{Config, ConfigError, Part, Tensor};
use moepress_quant::{Dtype, Format};
use serde_json::Value;

pub const FAMILY: Family = Family { model_type: "qwen3_moe", spec, source_name };

/// Ten times the largest models of today; each is described before any tensor is looked for.
const MAX_EXPERTS: usize = 1 << 18;

fn spec(config: Config<'_>) -> Result<ModelSpec, ConfigError> {
    config.only("hidden_act", &Value::from("silu"))?;
    config.only("attention_bias", &Value::from(false))?;
    config.only("use_sliding_window", &Value::from(false))?;
    config.only("quantization_config", &Value::Null)?;
    let hidden = config.size("hidden_size", 1 << 20)?;
    let heads = config.size("num_attention_heads", 1 << 12)?;
    let kv_heads = config.size("num_key_value_heads", heads)?;
    let vocab = config.size("vocab_size", 1 << 24)?;
    let layers = config.size("num_hidden_layers", 1 << 12)?;
    let experts = config.size_of_any(&["num_local_experts", "num_experts"], 1 << 14)?;
    if layers * experts > MAX_EXPERTS {
        let reason = format!("{layers} layers of {experts} experts are more than {MAX_EXPERTS} in all");
        return Err(ConfigError::new("num_hidden_layers", reason));
    }
    let top_k = config.size("num_experts_per_tok", experts)?;
    let width = config.size("moe_intermediate_size", 1 << 20)?;
    let step = match config.get("decoder_sparse_step") {
        None => 1,
        Some(_) => config.size("decoder_sparse_step", 1 << 12)?,
    };
    let head_dim = match config.get("head_dim") {
        None if hidden % heads == 0 => hidden / heads,
        _ => config.size("head_dim", 1 << 14)?,
    };
    let dense_layers = config.layer_list("mlp_only_layers", layers)?;
    let routing = Routing { top_k, renormalise: config.flag("norm_topk_prob", false)? };
    let segment = Segment::uniform(width, Format::Plain(Dtype::Bf16));
    let mlp = |layer: usize| {
        if dense_layers.contains(&layer) || !(layer + 1).is_multiple_of(step) {
            return config.size("intermediate_size", 1 << 20).map(|width| Mlp::Dense { width });
        }
        let expert = |source| Expert { sources: vec![source], segments: vec![segment] };
        Ok(Mlp::Moe(Moe {
            routing: routing.clone(),
            router: (0..experts).collect(),
            experts: (0..experts).map(expert).collect(),
        }))
    };
    Ok(ModelSpec {
        family: FAMILY.model_type.into(),
        vocab,
        hidden,
        context: config.size("max_position_embeddings", 1 << 30)?,
        norm_eps: config.positive("rms_norm_eps")?,
        tied_embeddings: config.flag("tie_word_embeddings", false)?,
        end_tokens: config.token_ids("eos_token_id", vocab)?,
        attention: Attention { heads, kv_heads, head_dim, rope_theta: config.plain_rope_theta()? },
        layers: (0..layers).map(|layer| Ok(LayerSpec { mlp: mlp(layer)? })).collect::<Result<_, _>>()?,
        formats: Default::default(),
    })
}

fn source_name(tensor: Tensor) -> String {
    match tensor {
        Tensor::Layer(layer, Part::Expert { expert, projection, .. }) => {
            format!("model.layers.{layer}.mlp.experts.{expert}.{}.weight", projection.name())
        }
        other => other.to_string(),
    }
}
