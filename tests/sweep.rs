//! Sweeps from the command line: measured once, no point run twice, the same figures as runs.

#![allow(clippy::unwrap_used)]

mod common;

use common::{DOMAINS, demo, json, moepress, root};
use serde_json::Value;
use std::fs;

const METHODS: &str = "budgets: [0.25]
methods:
  HEAPr:
    - prune_atoms: {ratio: $budget}
  bits:
    budgets: [0.5, 4, 6]
    stages:
      - assign_bits: {bpw: $budget, formats: [ternary, int2, int4, int8], group: 64, classes: [experts, attention, embeddings]}
      - quantize
  int8: [{quantize: {format: int8}}]
";

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for (folder, name) in [("calibration", "a.txt"), ("tests/fixtures/eval-text", "b.txt")] {
            let book = fs::read_to_string(root().join(folder).join(format!("{}.txt", DOMAINS[0]))).unwrap();
            fs::write(place.path(name), book.chars().take(12_000).collect::<String>()).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn recipe(&self, name: &str, stages: &str) -> String {
        let text = |name| format!("{{files: [{name}], window: 128, windows: 4}}");
        let model = demo().display().to_string();
        let (calibration, evaluation) = (text("a.txt"), text("b.txt"));
        let yaml = format!(
            "version: 1\nmodel: \"{model}\"\ncalibration: {calibration}\nevaluate: {evaluation}\n{stages}"
        );
        fs::write(self.path(name), yaml).unwrap();
        self.path(name)
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn known(plan: &Value) -> Vec<bool> {
    plan["points"].as_array().unwrap().iter().map(|point| point["known"].as_bool().unwrap()).collect()
}

#[test]
fn points_are_those_of_runs_and_none_is_run_twice() {
    let place = Place::new();
    let sweep = place.recipe("sweep.yaml", METHODS);
    let (out, cache) = (place.path("out"), place.path("out.cache"));
    let plan = json(&["sweep", &sweep, "--out", &out, "--plan"]);
    assert_eq!((known(&plan), plan["measures"].as_bool()), (vec![false; 5], Some(true)));
    assert!(place.names("").iter().all(|name| !name.starts_with("out")), "a plan writes nothing");

    let first = json(&["sweep", &sweep, "--out", &out]);
    assert_eq!(place.names("").iter().filter(|name| name.contains("out")).count(), 2, "no traces");
    let files = [
        "report-1.json",
        "report-3.json",
        "report-4.json",
        "report-5.json",
        "sweep.html",
        "sweep.json",
        "sweep.md",
        "sweep.svg",
    ];
    assert_eq!(place.names("out"), files);
    let points = first["points"].as_array().unwrap();
    let failed = points[1]["failed"].as_str().unwrap();
    assert!(failed.contains("assign_bits.bpw: is ") && points[1]["result"].is_null(), "{failed}");
    let of = |index: usize, key: &str| points[index]["result"][key].as_f64().unwrap();
    assert!(of(0, "share") < 0.9 && of(2, "bpw") <= 4.0 && of(3, "bpw") <= 6.0);
    assert!(of(2, "predicted") > of(3, "predicted") && of(0, "predicted") > 0.0);
    assert!(points.iter().skip(2).any(|point| point["result"]["best_nll"] == true));
    assert_eq!(first["original_nll"].as_f64(), Some(of(0, "original_nll")));
    assert_eq!(first["rank_correlation"]["points"], 3, "{}", first["rank_correlation"]);
    let drawing = fs::read_to_string(place.path("out/sweep.svg")).unwrap();
    assert!(drawing.starts_with("<svg") && drawing.contains("HEAPr at 0.25") && !drawing.contains("NaN"));

    let run = place.recipe("run.yaml", "stages:\n  - prune_atoms: {ratio: 0.25}\n");
    let run = json(&["run", &run, "--out", &place.path("run")]);
    let same = |a: &Value, b: f64| assert!((a.as_f64().unwrap() - b).abs() < 1e-12, "{a} {b}");
    same(&run["evaluation"]["compact"]["overall"]["nll"], of(0, "nll"));
    same(&run["evaluation"]["compact"]["overall"]["divergence"]["mean"], of(0, "kld"));
    assert_eq!(run["after"]["bytes"], points[0]["result"]["bytes"]);

    // More budgets, and the same cache: one point is new, and so is none of the measurement.
    let more = ["sweep", &sweep, "--budgets", "0.25,0.5", "--out", &place.path("more"), "--cache", &cache];
    let plan = json(&[&more[..], &["--plan"]].concat());
    assert_eq!(known(&plan), [true, false, false, true, true, true]);
    assert_eq!(plan["measures"], false);
    let second = json(&more);
    let points = second["points"].as_array().unwrap();
    let kept = [0, 3, 4, 5].map(|index| points[index]["result"]["nll"].clone());
    let before = [0, 2, 3, 4].map(|index| first["points"][index]["result"]["nll"].clone());
    assert_eq!(kept, before);
    assert!(points[1]["result"]["nll"].as_f64() > points[0]["result"]["nll"].as_f64());

    // Another text: nothing of it holds.
    fs::write(place.path("b.txt"), fs::read_to_string(place.path("a.txt")).unwrap()).unwrap();
    assert_eq!(known(&json(&[&more[..7], &[&cache[..], "--plan"]].concat())), [false; 6]);
}

#[test]
fn the_sweeps_that_come_with_the_project_are_possible() {
    let place = Place::new();
    let entries = fs::read_dir(root().join("recipes/sweeps")).unwrap();
    let paths: Vec<String> = entries.map(|entry| entry.unwrap().path().display().to_string()).collect();
    assert_eq!(paths.len(), 2);
    for path in &paths {
        let plan = json(&["sweep", path, "--out", &place.path("out"), "--plan"]);
        let points = plan["points"].as_array().unwrap();
        assert!(
            points.len() > 8 && points.iter().all(|point| point["impossible"].is_null()),
            "{path}: {plan}"
        );
    }
}

#[test]
fn wrong_sweeps_write_nothing() {
    let place = Place::new();
    let recipe = place.recipe("one.yaml", "stages:\n  - prune_atoms: {ratio: 0.5}\n");
    let typo = place.recipe("typo.yaml", "methods: {a: [{prune_atom: {ratio: 0.5}}]}\n");
    let small =
        place.recipe("small.yaml", "methods: {a: [{assign_bits: {bpw: 0.1, formats: [int4]}}, quantize]}\n");
    let before = place.names("");
    let (out, model) = (place.path("x"), demo().display().to_string());
    for (words, wanted) in [
        (vec![&recipe[..], "--out", &out], "no budgets are given"),
        (vec![&recipe[..], "--out", &out, "--budgets", "0.5,[1]"], "is no number or size"),
        (vec![&recipe[..], "--out", &out, "--budgets", "0.5", "--cache", &model], "is the model directory"),
        (vec![&recipe[..], "--out", &out, "--budgets", "0.5", "--cache", &out], "is the output directory"),
        (vec![&recipe[..], "--out", &out, "--budgets", "2"], "ratio: must be"),
        (vec![&typo[..], "--out", &out], "did you mean `prune_atoms`?"),
        (vec![&small[..], "--out", &out], "no point of the sweep is possible"),
    ] {
        let output = moepress(&[&["sweep"], &words[..]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {error}");
        assert!(error.contains(wanted), "{words:?}: {error}");
        assert_eq!(place.names(""), before);
    }
}
