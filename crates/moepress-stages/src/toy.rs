//! A small model and shortcuts for the tests of stages.

use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, from_recipe};
use moepress_model::{Config, ModelSpec, family};
use moepress_quant::{Dtype, Format};
use moepress_recipe::{Coverage, Params};
use moepress_stats::Statistics;
use std::path::Path;

/// Two layers of four experts of six atoms, top-2.
pub fn toy() -> ModelSpec {
    build(
        r#"{"model_type": "qwen3_moe", "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 4, "vocab_size": 16, "num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 6, "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "norm_topk_prob": true, "tie_word_embeddings": true}"#,
    )
}

/// Two layers of twelve experts of six atoms, top-2 of the experts in two of three groups; the choice is corrected.
pub fn grouped() -> ModelSpec {
    build(
        r#"{"model_type": "deepseek_v3", "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2,
        "q_lora_rank": null, "kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4,
        "vocab_size": 16, "num_hidden_layers": 2, "n_routed_experts": 12, "num_experts_per_tok": 2, "n_group": 3,
        "topk_group": 2, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": true,
        "routed_scaling_factor": 2.5, "n_shared_experts": 1, "moe_intermediate_size": 6, "intermediate_size": 10,
        "first_k_dense_replace": 0, "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "hidden_act": "silu", "tie_word_embeddings": true}"#,
    )
}

fn build(text: &str) -> ModelSpec {
    let config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
    let mut spec = (family(Config(&config)).unwrap().spec)(Config(&config)).unwrap();
    for tensor in spec.tensors() {
        spec.set_format(tensor, Format::Plain(Dtype::Bf16));
    }
    spec
}

/// The stage written as one line of YAML.
pub fn stage(yaml: &str) -> Box<dyn Stage> {
    let text = format!("version: 1\nmodel: m\nstages:\n  - {yaml}\n");
    from_recipe(&moepress_recipe::parse(&text, Path::new("r.yaml"), &[]).unwrap().stages).unwrap().remove(0)
}

/// What is wrong with the stage written as one line of YAML.
pub fn refused(yaml: &str) -> String {
    let text = format!("version: 1\nmodel: m\nstages:\n  - {yaml}\n");
    let recipe = moepress_recipe::parse(&text, Path::new("r.yaml"), &[]).unwrap();
    from_recipe(&recipe.stages).err().map(|error| error.to_string()).unwrap_or_default()
}

/// What that stage decides on the toy model.
pub fn decide(yaml: &str, stats: &Statistics) -> Decision {
    decide_on(&toy(), yaml, stats, Coverage::default()).unwrap()
}

/// What that stage decides on a model it can work on.
pub fn decide_on(
    spec: &ModelSpec,
    yaml: &str,
    stats: &Statistics,
    coverage: Coverage,
) -> Result<Decision, String> {
    let stage = stage(yaml);
    stage.check(spec).map_err(|e| e.to_string())?;
    let evidence = Evidence { coverage, ..Evidence::new(spec, stats) };
    stage.decide(&evidence).map_err(|e| e.to_string())
}

/// The parameters written as a YAML mapping.
pub fn with_params<T>(yaml: &str, f: impl Fn(&Params) -> T) -> T {
    let text = format!("version: 1\nmodel: m\nstages:\n  - x: {yaml}\n");
    f(&moepress_recipe::parse(&text, Path::new("r.yaml"), &[]).unwrap().stages[0].params)
}
