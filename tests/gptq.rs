//! Rounding by what reaches each matrix, on the shipped model.

#![allow(clippy::unwrap_used)]

mod common;

use common::{DOMAINS, demo, json, moepress, root};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A recipe of these stages; a few windows, so that a run takes seconds.
fn recipe(dir: &Path, name: &str, stages: &str, evaluate: bool) -> String {
    let list = |folder: &str| {
        let file = |domain| format!("\"{}\"", root().join(folder).join(format!("{domain}.txt")).display());
        DOMAINS.map(file).join(", ")
    };
    let texts = list("tests/fixtures/eval-text");
    let evaluate = match evaluate {
        true => format!("evaluate: {{files: [{texts}], window: 256, windows: 2}}\n"),
        false => String::new(),
    };
    let text = format!(
        "version: 1\nmodel: \"{}\"\ncalibration: {{files: [{}], window: 256, windows: {}}}\nstages:\n{stages}{evaluate}",
        demo().display(),
        list("calibration"),
        if evaluate.is_empty() { 1 } else { 4 },
    );
    let path = dir.join(format!("{name}.yaml"));
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The increase of the mean NLL by one stage, and its notes.
fn increase(stage: &str) -> (f64, String) {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), "recipe", &format!("  - {stage}\n"), true);
    let report = json(&["run", &recipe, "--out", &dir.path().join("out").display().to_string()]);
    let nll = |side: &str| report["evaluation"][side]["overall"]["nll"].as_f64().unwrap();
    (nll("compact") - nll("original"), report["stages"][0]["notes"].to_string())
}

fn better(format: &str) {
    let (nearest, _) = increase(&format!("quantize: {{format: {format}, group: 32}}"));
    let (gptq, notes) = increase(&format!("quantize: {{format: {format}, group: 32, solver: gptq}}"));
    assert!(gptq < nearest, "{format}: +{gptq} by gptq, +{nearest} to nearest");
    assert!(notes.contains("288 matrices were rounded by what reaches them"), "{notes}");
}

#[test]
fn better_than_nearest_int3() {
    better("int3");
}

#[test]
fn better_than_nearest_int2() {
    better("int2");
}

#[test]
fn better_than_nearest_ternary() {
    better("ternary");
}

/// Everything in an output that must be the same, by name.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (!name.starts_with("report.")).then(|| (name, fs::read(entry.path()).unwrap()))
    };
    entries.filter_map(file).collect()
}

/// Segments, pruned and merged experts, attention and embeddings; the embeddings do not wait for inputs.
const MIXED: &str = "  - prune_experts: {ratio: 0.0625}
  - prune_atoms: {ratio: 0.25}
  - quantize: {format: int3, group: 32, solver: gptq, damp: 0.02, act_order: true, classes: [experts, attention, embeddings]}
";

#[test]
fn neither_threads_nor_memory_change_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), "recipe", MIXED, false);
    let low = moepress(&["plan", &recipe, "--threads", "2", "--set", "limits={memory: 1MB}"]);
    let message = String::from_utf8(low.stderr).unwrap();
    let least = message.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let limit = format!("limits={{memory: {least}}}");
    let run = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let report = json(&[&["run", &recipe, "--out", &out.display().to_string()], more].concat());
        (files(&out), report)
    };
    let (one, report) = run("one", &["--threads", "1"]);
    let (two, _) = run("two", &["--threads", "2"]);
    let (mut low, spooled) = run("low", &["--threads", "2", "--set", &limit]);
    // They hold the limit itself.
    let differ = ["moepress.json", "recipe.yaml"];
    assert_eq!(one.keys().collect::<Vec<_>>(), two.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(*bytes == two[name], "{name} depends on the number of threads");
        let low = low.remove(name).unwrap();
        assert!(differ.contains(&name.as_str()) || *bytes == low, "{name} depends on the memory");
    }
    assert!(low.is_empty() && spooled["spool_bytes"].as_u64().unwrap() > 0);
    let notes = report["stages"][2]["notes"].to_string();
    assert!(notes.contains("1 matrices outside the layers are rounded to nearest"), "{notes}");
    assert!(report["calibration"]["texts"].as_array().unwrap().len() == 6);
}

#[test]
fn text_is_demanded_and_the_walk_is_planned() {
    let dir = tempfile::tempdir().unwrap();
    let stage = "  - quantize: {format: int4, group: 64, solver: gptq}\n";
    let plan = json(&["plan", &recipe(dir.path(), "with", stage, false)]);
    let walks: Value = serde_json::json!({"forward": 1, "backward": 0, "weights only": 0, "evaluation": 0});
    assert_eq!(plan["walks"], walks);
    let without = dir.path().join("without.yaml");
    fs::write(&without, format!("version: 1\nmodel: \"{}\"\nstages:\n{stage}", demo().display())).unwrap();
    let refused = moepress(&["plan", &without.display().to_string()]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{error}");
    assert!(error.contains("without.yaml:4") && error.contains("needs `calibration`"), "{error}");
}
