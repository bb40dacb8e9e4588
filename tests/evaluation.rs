//! `moepress eval` beside transformers, from `tests/fixtures/evaluation` (made by `tests/golden/evaluation.py`).

#![allow(clippy::unwrap_used)]

mod common;

use common::{DOMAINS, demo, json, root};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn reference() -> Value {
    let path = root().join("tests/fixtures/evaluation/reference.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The texts of the reference in `dir`: their first lines.
fn texts(dir: &Path) -> Vec<String> {
    let lines = reference()["lines"].clone();
    let write = |(name, count): (&String, &Value)| {
        assert!(DOMAINS.contains(&name.as_str()));
        let text = fs::read_to_string(root().join(format!("tests/fixtures/eval-text/{name}.txt"))).unwrap();
        let count = count.as_u64().unwrap() as usize;
        let path = dir.join(format!("{name}.txt"));
        fs::write(&path, text.split_inclusive('\n').take(count).collect::<String>()).unwrap();
        path.display().to_string()
    };
    lines.as_object().unwrap().iter().map(write).collect()
}

/// All numbers of `wanted` within `tolerance` of themselves, or of 1 where they are smaller.
fn close(found: &Value, wanted: &Value, tolerance: f64, what: &str) {
    for (key, wanted) in wanted.as_object().unwrap() {
        let (wanted, value) = (wanted.as_f64().unwrap(), found[key].as_f64());
        let near = value.is_some_and(|value| (value - wanted).abs() <= tolerance * wanted.abs().max(1.0));
        assert!(near, "{what}, {key}: {value:?} instead of {wanted}");
    }
}

#[test]
fn perplexity_by_every_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let model = demo().display().to_string();
    let texts = texts(dir.path());
    for (protocol, reference) in reference()["perplexity"].as_object().unwrap() {
        let [window, stride] = ["window", "stride"].map(|key| reference[key].to_string());
        let mut args = vec!["eval", &model, "--protocol", protocol, "--window", &window];
        match protocol.as_str() {
            "llama.cpp" => args.extend(["--bos", "document"]),
            "strided" => args.extend(["--stride", &stride]),
            _ => {}
        }
        args.push("--text");
        args.extend(texts.iter().map(String::as_str));
        let found = json(&args);
        let found = &found["evaluation"];
        assert_eq!(found["sampling"]["protocol"], protocol.as_str());
        let list = |value: &Value| value.as_array().unwrap().clone();
        for (text, file) in list(&found["compact"]["texts"]).iter().zip(list(&found["sampling"]["files"])) {
            let name = text["name"].as_str().unwrap();
            close(text, &reference["texts"][name], 2e-5, &format!("{protocol} {name}"));
            assert_eq!([&file["scored"], &file["bytes"]], [&text["predictions"], &text["bytes"]]);
            assert_eq!(file["sha256"].as_str().unwrap().len(), 64);
        }
    }
}

#[test]
fn distance_of_a_model_with_fewer_experts_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let fewer = dir.path().join("fewer");
    fs::create_dir(&fewer).unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        fs::copy(demo().join(name), fewer.join(name)).unwrap();
    }
    let config = fs::read_to_string(demo().join("config.json")).unwrap();
    let changed = config.replace("\"num_experts_per_tok\": 4", "\"num_experts_per_tok\": 2");
    assert_ne!(config, changed);
    fs::write(fewer.join("config.json"), changed).unwrap();
    let (fewer, original) = (fewer.display().to_string(), demo().display().to_string());
    let texts = texts(dir.path());
    let mut args = vec!["eval", &fewer, "--against", &original, "--window", "256", "--text"];
    args.extend(texts.iter().map(String::as_str));
    let found = json(&args);
    let overall = &found["evaluation"]["compact"]["overall"];
    let mut wanted = reference()["distance"].clone();
    assert_eq!(overall["by_token"]["predictions"], wanted.as_object_mut().unwrap().remove("tokens").unwrap());
    close(&overall["divergence"], &wanted, 2e-5, "distance");
    let counts = overall["histogram"]["counts"].as_array().unwrap();
    assert_eq!(counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 4080);
}
