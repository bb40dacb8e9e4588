//! Recipes that remove experts, from the plan to a model that runs.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{DOMAINS, demo, json, root};
use serde_json::Value;
use std::path::Path;

/// Plans and runs these stages on a little text of the first domain; both documents.
fn carry_out(dir: &Path, name: &str, stages: &str) -> (Value, Value) {
    let text = |folder: &str| root().join(format!("{folder}/{}.txt", DOMAINS[0])).display().to_string();
    let recipe = format!(
        "version: 1\nmodel: {}\ncalibration: {{files: [{}], window: 64, windows: 2}}\nstages: [{stages}]\nevaluate: {{files: [{}], window: 32, windows: 1}}\n",
        demo().display(),
        text("calibration"),
        text("tests/fixtures/eval-text"),
    );
    let path = dir.join(format!("{name}.yaml"));
    std::fs::write(&path, recipe).unwrap();
    let path = path.to_str().unwrap();
    (json(&["plan", path]), json(&["run", path, "--out", dir.join(name).to_str().unwrap()]))
}

/// Experts that are left in every layer.
fn left(report: &Value) -> Vec<usize> {
    let there = |expert: &&Value| !expert["shared_by"].as_array().unwrap().is_empty();
    let layer = |layer: &Value| layer["experts"].as_array().unwrap().iter().filter(there).count();
    report["layers"].as_array().unwrap().iter().map(layer).collect()
}

#[test]
fn experts_go_where_they_matter_least() {
    let dir = tempfile::tempdir().unwrap();
    let stage = "{prune_experts: {method: weighted_frequency, ranking: global, floor: 9, ratio: 0.25}}";
    let (plan, report) = carry_out(dir.path(), "global", stage);
    assert_eq!(plan["after"]["weights"], report["after"]["weights"]);
    let left = left(&report);
    assert_eq!(left.iter().sum::<usize>(), 72);
    assert!(
        left.iter().all(|&experts| experts >= 9) && left.iter().any(|&experts| experts != 12),
        "{left:?}"
    );
}

#[test]
fn stages_after_dropped_experts_measure_anew() {
    let dir = tempfile::tempdir().unwrap();
    let stages =
        "{prune_atoms: {ratio: 0.8, empty: drop}}, {assign_bits: {bpw: 13, formats: [int4, int8]}}, quantize";
    let (plan, report) = carry_out(dir.path(), "drop", stages);
    assert!(!plan["stages"][1]["measures"].as_array().unwrap().is_empty(), "{plan}");
    let left = left(&report);
    assert!(left.iter().sum::<usize>() < 96, "{left:?}");
    let notes = report["stages"][0]["notes"].to_string();
    assert!(notes.contains("have no atoms left and were removed from the router"), "{notes}");
    assert!(report["evaluation"]["compact"]["overall"]["perplexity"].as_f64().unwrap() > 1.0);
}

#[test]
fn a_second_round_measures_without_what_goes() {
    let dir = tempfile::tempdir().unwrap();
    let stage = |rounds| format!("{{compress: {{ratio: 0.1, classes: [experts], rounds: {rounds}}}}}");
    let (_, once) = carry_out(dir.path(), "once", &stage(1));
    let (plan, twice) = carry_out(dir.path(), "twice", &stage(2));
    assert_eq!((&plan["walks"]["forward"], &plan["walks"]["backward"]), (&3.into(), &2.into()));
    let bytes = |sizes: &Value| sizes["classes"]["experts"]["bytes"].as_u64().unwrap();
    let (found, allowed) = (bytes(&twice["after"]), bytes(&twice["before"]) / 10);
    assert!(found <= allowed && found as f64 > 0.99 * allowed as f64, "{found} of {allowed}");
    let predicted = |report: &Value| report["losses"][0]["predicted"].as_f64().unwrap();
    assert!(predicted(&once) > 0.0 && predicted(&twice) > 0.0 && predicted(&once) != predicted(&twice));
    assert!(twice["stages"][0]["what"].as_str().unwrap().ends_with("in 2 rounds"), "{twice}");
    // What was measured first is what a report says of the model.
    assert_eq!(once["calibration"], twice["calibration"]);
}
