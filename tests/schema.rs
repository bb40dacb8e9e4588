//! The schema of recipes against the recipes and the code that reads them.

#![allow(clippy::unwrap_used)]

mod common;

use common::{DOMAINS, json, moepress, root};
use serde_json::Value;
use std::collections::BTreeSet;

fn schema() -> Value {
    json(&["schema"])
}

/// The schema of the parameters of a stage.
fn stage(schema: &Value, name: &str) -> Value {
    let forms = schema["properties"]["stages"]["items"]["anyOf"].as_array().unwrap();
    let found = forms.iter().find_map(|form| form["properties"].get(name)).unwrap();
    found["anyOf"][0].clone()
}

/// The keys that an unknown one is answered with.
fn known(stage: &str, more: &str) -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("r.yaml");
    std::fs::write(&recipe, format!("version: 1\nmodel: m\nstages:\n  - {stage}: {{zzzzzz: 1{more}}}\n"))
        .unwrap();
    std::fs::create_dir(dir.path().join("m")).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::os::unix::fs::symlink(common::demo().join(name), dir.path().join("m").join(name)).unwrap();
    }
    let output = moepress(&["plan", recipe.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    let list = said.split("(known: ").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or_default();
    list.split(", ").filter(|word| !word.is_empty() && *word != "none").map(str::to_owned).collect()
}

#[test]
fn every_key_that_a_stage_knows_is_in_the_schema() {
    let schema = schema();
    let stages = schema["properties"]["stages"]["items"]["anyOf"][0]["enum"].as_array().unwrap();
    assert!(stages.len() >= 5, "{stages:?}");
    for name in stages.iter().map(|name| name.as_str().unwrap()) {
        let parameters = stage(&schema, name);
        let keys: BTreeSet<String> = parameters["properties"].as_object().unwrap().keys().cloned().collect();
        let methods = parameters["properties"]["method"]["enum"].as_array().cloned().unwrap_or_default();
        let mut more: Vec<String> =
            methods.iter().map(|method| format!(", method: {}", method.as_str().unwrap())).collect();
        more.push(String::new());
        for more in more {
            let missing: Vec<_> = known(name, &more).difference(&keys).cloned().collect();
            assert!(missing.is_empty(), "{name}{more}: {missing:?}");
        }
        // Every key says what it takes.
        for (key, value) in parameters["properties"].as_object().unwrap() {
            assert!(!value.as_object().unwrap().is_empty(), "{name}.{key}");
        }
    }
}

#[test]
fn the_recipes_that_come_with_the_project_fit() {
    let schema = schema();
    for entry in std::fs::read_dir(root().join("recipes")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue; // Sweeps, which have methods in place of stages.
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // Keys at the start of a line and, two deeper, of stages.
        for line in text.lines().filter(|line| line.starts_with(|c: char| c.is_alphabetic())) {
            let key = line.split(':').next().unwrap();
            assert!(schema["properties"].get(key).is_some(), "{}: {key}", path.display());
        }
        for line in text.lines().filter_map(|line| line.strip_prefix("  - ")) {
            let name = line.split(':').next().unwrap();
            assert!(
                line.starts_with("../") || stage(&schema, name)["properties"].is_object(),
                "{}: {line}",
                path.display()
            );
        }
    }
    assert_eq!(DOMAINS.len(), 6);
}

#[test]
fn words_and_ranges_are_those_of_the_code() {
    let schema = schema();
    let atoms = stage(&schema, "prune_atoms");
    assert_eq!(atoms["properties"]["ratio"]["minimum"], 0.0);
    assert_eq!(atoms["properties"]["ratio"]["exclusiveMaximum"], 1.0);
    let methods = atoms["properties"]["method"]["enum"].as_array().unwrap();
    assert!(methods.contains(&"heapr".into()), "{methods:?}");
    assert_eq!(atoms["additionalProperties"], false);
    let quantize = stage(&schema, "quantize");
    assert_eq!(quantize["properties"]["damp"]["exclusiveMinimum"], 0.0);
    assert_eq!(schema["required"], serde_json::json!(["version", "model", "stages"]));
}
