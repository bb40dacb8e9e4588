//! Experts that too few calibration tokens reach: reported, and handled as the recipe says.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{DOMAINS, demo, json, moepress, root};
use std::path::Path;

/// A recipe with one window of 64 tokens of text, which leaves experts of the demo model without any.
fn recipe(dir: &Path, calibration: &str, stage: &str) -> String {
    let (model, text) = (demo(), root().join(format!("calibration/{}.txt", DOMAINS[0])));
    let path = dir.join("recipe.yaml");
    let recipe = format!(
        "version: 1\nmodel: {}\ncalibration: {{files: [{}], window: 64, windows: 1{calibration}}}\nstages:\n  - {stage}\n",
        model.display(),
        text.display()
    );
    std::fs::write(&path, recipe).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_policy_of_the_recipe_is_followed_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, keys: &str| {
        let recipe = recipe(dir.path(), keys, "prune_experts: {method: frequency, ratio: 0.125}");
        json(&["run", &recipe, "--out", dir.path().join(name).to_str().unwrap()])
    };
    let ranked = run("ranked", "");
    let kept = run("kept", ", below_min_tokens: keep, min_tokens: 2");
    let unreached = ranked["calibration"]["unreached"].as_array().unwrap();
    assert!(!unreached.is_empty());
    assert_eq!(ranked["calibration"]["below_min_tokens"], "rank");
    assert_eq!(ranked["calibration"]["under_measured"].as_array().unwrap().len(), unreached.len());
    let calibration = &kept["calibration"];
    assert_eq!((&calibration["min_tokens"], &calibration["below_min_tokens"]), (&2.into(), &"keep".into()));
    let under = calibration["under_measured"].as_array().unwrap();
    assert!(under.len() >= unreached.len());
    for expert in under {
        let (layer, index) = (expert["layer"].as_u64().unwrap(), expert["expert"].as_u64().unwrap());
        assert!(expert["tokens"].as_u64().unwrap() < 2);
        let layers = kept["layers"].as_array().unwrap();
        let layer = layers.iter().find(|entry| entry["layer"] == layer).unwrap();
        assert!(layer["experts"][index as usize]["atoms"].as_u64().unwrap() > 0, "{expert}");
    }
    assert!(kept["stages"][0]["notes"][0].as_str().unwrap().contains("were kept (layer.expert)"));
    // The same number of experts either way.
    assert_eq!(kept["after"]["weights"], ranked["after"]["weights"]);
}

#[test]
fn a_run_that_must_not_go_on_ends_with_one_line_and_nothing_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let fails = |code: i32, keys: &str, stage: &str, wanted: &str| {
        let recipe = recipe(dir.path(), keys, stage);
        let output = moepress(&["run", &recipe, "--out", out.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.trim_end().lines().count() == 1 && error.contains(wanted), "{error}");
        assert!(!out.exists());
    };
    let stage = "prune_atoms: {ratio: 0.25}";
    fails(
        3,
        ", below_min_tokens: error, min_tokens: 9",
        stage,
        "reached by fewer than 9 calibration tokens (layer.expert):",
    );
    fails(
        2,
        ", below_min_tokens: keep, min_tokens: 1000",
        stage,
        "of experts that calibration.below_min_tokens keeps",
    );
    fails(2, ", min_tokens: 0", stage, "calibration.min_tokens: must be at least 1");
}
