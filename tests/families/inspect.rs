//! `moepress inspect` against `config.json` and the files themselves.

use crate::common::{json, moepress};
use crate::golden::{all, config, folder, shards, word};
use serde_json::{Value, json};

/// The first of the keys that the configuration has.
fn first(config: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|key| &config[*key]).find(|value| !value.is_null()).cloned().unwrap_or_default()
}

#[test]
fn documents_say_what_configurations_say() {
    for name in all() {
        let (config, found) = (config(&name), json(&["inspect", &word(folder(&name))]));
        let same = |key: &str, wanted: Value| assert_eq!(found[key], wanted, "{name}: {key}");
        let range = |value: Value| json!({"least": value, "most": value});
        let experts = ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"];
        same("family", config["model_type"].clone());
        same("layers", config["num_hidden_layers"].clone());
        same("experts", range(first(&config, &experts)));
        same("experts_per_token", range(first(&config, &["num_experts_per_tok", "moe_k"])));
        same("expert_width", range(first(&config, &["moe_intermediate_size", "intermediate_size"])));
        same("heads", config["num_attention_heads"].clone());
        same("tied_embeddings", first(&config, &["tie_word_embeddings"]).as_bool().unwrap_or(false).into());
        same(
            "dense_width",
            match found["layers"] == found["moe_layers"] {
                true => Value::Null,
                false => range(config["intermediate_size"].clone()),
            },
        );
        let attention = &found["attention"];
        assert_eq!(attention["heads"], found["heads"], "{name}");
        match config["kv_lora_rank"].is_null() {
            true => same("kv_heads", config["num_key_value_heads"].clone()),
            false => {
                assert_eq!(attention["latent"]["rank"], config["kv_lora_rank"], "{name}");
                assert_eq!(attention["latent"]["query_rank"], config["q_lora_rank"], "{name}");
                assert_eq!(attention["value_dim"], config["v_head_dim"], "{name}");
            }
        }
        let mixtures = found["mixtures"].as_array().unwrap();
        assert_eq!(mixtures.len(), 1, "{name}");
        assert_eq!(mixtures[0]["layers"].as_array().unwrap().len() as u64, found["moe_layers"], "{name}");
        let shared = ["shared_expert_intermediate_size", "n_shared_experts", "moe_num_shared_experts"];
        let shared = first(&config, &shared).as_u64().unwrap_or(0) > 0;
        assert_eq!(mixtures[0]["shared_expert"].is_object(), shared, "{name}");
    }
}

#[test]
fn bytes_add_up_to_those_of_the_file() {
    for name in all() {
        let found = json(&["inspect", &word(folder(&name))]);
        let shards = shards(&folder(&name));
        let stored: u64 = shards.tensors().map(|(_, info)| info.range.end - info.range.start).sum();
        assert_eq!(found["size"]["bytes"], stored, "{name}");
        let sum = |table: &Value, key: &str| -> u64 {
            table.as_object().unwrap().values().map(|row| row[key].as_u64().unwrap()).sum()
        };
        for key in ["weights", "bytes"] {
            assert_eq!(found["size"][key], sum(&found["size"]["classes"], key), "{name}");
            assert_eq!(found["size"][key], sum(&found["formats"], key), "{name}");
        }
    }
}

/// Every peculiarity once.
#[test]
fn families_are_put_into_words() {
    for (name, lines) in [
        (
            "deepseek_v3",
            "\
layers      3: experts in layers 1–2; a dense MLP, 128 channels wide, in layer 0
experts     16 per layer, 4 per token, 32 channels wide
shared      one more expert for every token, 32 channels wide
routing     sigmoid of each router row; the best 4 per token, by score plus a learned correction, out of 2 of 4 groups \
(ranked by the sum of their two best rows); gates divided by their sum, times 2.5
widths      hidden 64, vocabulary 256, context 256
attention   4 heads, 40 channels of queries and keys, 24 of values; latent: keys and values compressed to 32, queries to 48
positions   rotary, 16 of 40 channels, base 10000
norms       RMS, epsilon 1e-6
",
        ),
        (
            "gpt_oss",
            "\
layers      2, all with experts
experts     8 per layer, 2 per token, 48 channels wide, with biases, SwiGLU clamped to ±7 (slope 1.702)
routing     softmax over all router rows (of logits with a bias); the best 2 per token; gates divided by their sum
widths      hidden 64, vocabulary 256, context 256
attention   4 query heads, 2 key/value heads, 32 channels each; a sink per head; biases on q_proj, k_proj, v_proj, o_proj
window      the last 16 tokens in layer 0, all tokens in the others
positions   rotary, all channels, base 150000, YaRN to 32 times 4096 tokens
",
        ),
        (
            "deepseek_v2-groups_yarn",
            "out of 2 of 4 groups (ranked by their best row); gates not divided by their sum, times 2\n",
        ),
        ("deepseek_v2-groups_yarn", "; products times 0.2461\n"),
        ("qwen2_moe", "shared      one more expert for every token, 96 channels wide, times a gate of its own\n"),
        ("phimoe-longrope_long", "routing     SparseMixer: 2 router rows one after the other"),
        ("phimoe-longrope_long", ", LongRoPE from 16 tokens\nnorms       LayerNorm with biases,"),
        ("olmoe-clip", "queries and keys normed over all heads; limited to ±0.5\n"),
        ("granitemoe", "epsilon 1e-6; embeddings times 6; residual branches times 0.5; logits times 0.5\n"),
        ("qwen3_moe-sliding", "window      the last 8 tokens in all layers\n"),
        ("ernie4_5_moe-interval", "4: experts in layers 1, 3; a dense MLP, 24 channels wide, in layers 0, 2\n"),
    ] {
        let output = moepress(&["inspect", &word(folder(name))]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(lines), "{name}: {text}");
    }
}
