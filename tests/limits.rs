//! A limit on memory decides how a model is evaluated, not what comes out.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{DOMAINS, demo, json, moepress, root};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The least memory that the words allow, from the refusal of a mebibyte.
fn least(args: &[&str], option: &str) -> String {
    let output = moepress(&[args, &[option, "1MiB"]].concat());
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{line}");
    let bytes = line.split("at least ").nth(1).and_then(|rest| rest.split(' ').next());
    bytes.unwrap_or_else(|| panic!("{line}")).to_owned()
}

/// Evaluations without what differs from run to run.
fn figures(mut evaluation: Value) -> Value {
    let fields = evaluation.as_object_mut().unwrap();
    fields.remove("tokens_per_second").unwrap();
    evaluation
}

fn word(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

#[test]
fn an_evaluation_comes_to_the_same_layer_by_layer() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| word(dir.path().join(name));
    let texts = DOMAINS.map(|name| word(root().join("tests/fixtures/eval-text").join(name)) + ".txt");
    let recipe = format!(
        "version: 1\nmodel: {}\nstages:\n  - quantize: {{format: int4, group: 64}}\n\
         evaluate: {{files: [{}, {}], window: 128, windows: 6}}\n",
        demo().display(),
        texts[0],
        texts[5],
    );
    fs::write(at("recipe.yaml"), recipe).unwrap();
    let recipe = at("recipe.yaml");
    let least_of_run = least(&["plan", &recipe], "--max-memory");
    let run = |out: &str, more: &[&str]| json(&[&["run", &recipe, "--out", &at(out)][..], more].concat());
    let (free, tight) = (run("free", &[]), run("tight", &["--max-memory", &least_of_run]));
    let note = "evaluated layer by layer";
    assert!(!free["notes"].to_string().contains(note) && tight["notes"].to_string().contains(note));
    for model in ["original", "compact"] {
        let [a, b] = [&free, &tight].map(|report| figures(report["evaluation"][model].clone()));
        assert_eq!(a, b, "{model}");
    }
    assert!(free["evaluation"]["compact_decode_tokens_per_second"].as_f64().unwrap() > 0.0);

    let compact = at("tight");
    assert!(fs::read_dir(&compact).unwrap().all(|entry| entry.unwrap().file_name() != "spool"));
    let spool = at("spool");
    fs::create_dir(&spool).unwrap();
    let demo = word(demo());
    let eval = ["eval", &compact, "--against", &demo, "--window", "128", "--windows", "6", "--text"];
    let eval = [&eval[..], &[texts[0].as_str(), &texts[5], "--spool", &spool]].concat();
    let least_of_eval = least(&eval, "--max-memory");
    let (free, tight) = (json(&eval), json(&[&eval[..], &["--max-memory", &least_of_eval]].concat()));
    for model in ["original", "compact"] {
        let [a, b] = [&free, &tight].map(|report| figures(report["evaluation"][model].clone()));
        assert_eq!(a, b, "{model}");
    }
    assert_eq!(
        figures(tight["evaluation"]["original"].clone()),
        figures(run("again", &[])["evaluation"]["original"].clone())
    );
    assert_eq!(fs::read_dir(&spool).unwrap().count(), 0, "hidden states are left behind");
}
