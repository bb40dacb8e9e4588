//! Models that are none of the families, and code that comes with models.

use crate::common::{json, moepress};
use crate::golden::{config, folder, word};
use serde_json::{Value, json};
use std::fs;

/// A golden checkpoint with another configuration.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(folder(name).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let mut config = config(name);
    change(&mut config);
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn refusal(dir: &tempfile::TempDir) -> String {
    let output = moepress(&["inspect", &word(dir.path())]);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{line}");
    assert!(line.lines().count() == 1 && !line.contains('…'), "{line}");
    line
}

#[test]
fn an_unknown_family_is_told_what_it_is_like() {
    let line = refusal(&changed("glm4_moe", |config| {
        config["model_type"] = json!("glm7_moe");
        config.as_object_mut().unwrap().remove("use_qk_norm");
    }));
    for part in [
        "config.json: field `model_type`: `glm7_moe` is not supported (known: deepseek_v2, deepseek_v3,",
        "; nearest: `glm4_moe` (keys found: n_routed_experts, n_shared_experts, first_k_dense_replace; \
         missing: use_qk_norm)",
    ] {
        assert!(line.contains(part), "{line}");
    }
    let line = refusal(&changed("mixtral", |config| config["model_type"] = json!("mixtral2")));
    let keys = "num_local_experts, intermediate_size, router_jitter_noise";
    assert!(line.contains(&format!("; nearest: `mixtral` (keys found: {keys}; none missing)")), "{line}");
    let line =
        refusal(&changed("mixtral", |config| *config = json!({"model_type": "bert", "hidden_size": 8})));
    assert!(line.contains("`bert` is not supported"), "{line}");
    assert!(line.contains("it has none of the keys of a Mixture-of-Experts model"), "{line}");
    let line = refusal(&changed("mixtral", |config| {
        config.as_object_mut().unwrap().remove("model_type");
    }));
    assert!(line.contains("`model_type`: is missing (known: deepseek_v2, "), "{line}");
}

#[test]
fn custom_code_is_named_and_never_run() {
    let dir = changed("deepseek_v3", |config| {
        config["auto_map"] = json!({"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"});
    });
    fs::write(dir.path().join("modeling_deepseek.py"), "raise SystemExit(9)").unwrap();
    let note = "config.json names custom code (auto_map): it is never run";
    assert_eq!(json(&["inspect", &word(dir.path())])["notes"], json!([note]));
    let output = moepress(&["inspect", &word(dir.path())]);
    assert!(String::from_utf8(output.stdout).unwrap().contains(&format!("note        {note}\n")));
}
