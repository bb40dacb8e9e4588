//! Statistics in shards, from the command line: any partition decides like one run, and nothing else passes.

#![allow(clippy::unwrap_used)]

mod common;

use common::{DOMAINS, demo, json, moepress, root};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const STAGES: &str = "  - prune_atoms: {method: heapr, ratio: 0.25}
  - assign_bits: {bpw: 3.5, formats: [ternary, int2, int3, int4], group: 64, classes: [experts, attention, embeddings]}
  - quantize: {solver: nearest}
";
const RESTAGED: &str = "  - prune_experts: {method: reap, ratio: 0.25}
  - prune_experts: {method: frequency, ratio: 0.125}
";

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// A recipe on five windows of 400 tokens: chunks of two, two and one.
    fn recipe(&self, name: &str, stages: &str) -> String {
        let book = fs::read_to_string(root().join(format!("calibration/{}.txt", DOMAINS[0]))).unwrap();
        let text = self.path("text.txt");
        fs::write(&text, book.chars().take(12_000).collect::<String>()).unwrap();
        let calibration = format!("{{files: [\"{text}\"], window: 400, windows: 5}}");
        let model = demo().display().to_string();
        let yaml = format!("version: 1\nmodel: \"{model}\"\ncalibration: {calibration}\nstages:\n{stages}");
        fs::write(self.path(name), yaml).unwrap();
        self.path(name)
    }

    /// Measures a shard of the recipe.
    fn measure(&self, recipe: &str, shard: &str, name: &str) -> Value {
        json(&["stats", recipe, "--shard", shard, "--out", &self.path(name)])
    }

    /// The complaint of a command that must end with `code` and write nothing.
    fn fails(&self, code: i32, words: &[&str]) -> String {
        let names =
            |dir: &Path| fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        let before = names(self.0.path());
        let output = moepress(words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {error}");
        assert_eq!(names(self.0.path()), before, "{error}");
        error.lines().last().unwrap().to_owned()
    }
}

/// The header of a statistics file, its vectors by name, and the whole of its container's header.
fn read(path: &str) -> (Value, BTreeMap<String, Vec<f64>>) {
    let bytes = fs::read(path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut container: Map<String, Value> = serde_json::from_slice(&bytes[8..start]).unwrap();
    let metadata = container.remove("__metadata__").unwrap();
    let header = serde_json::from_str(metadata["moepress_statistics"].as_str().unwrap()).unwrap();
    let vector = |(name, info): (String, Value)| {
        let at = |index: usize| start + info["data_offsets"][index].as_u64().unwrap() as usize;
        let (values, _) = bytes[at(0)..at(1)].as_chunks::<8>();
        (name, values.iter().copied().map(f64::from_le_bytes).collect())
    };
    (header, container.into_iter().map(vector).collect())
}

#[test]
fn any_partition_decides_like_one_run() {
    let place = Place::new();
    let recipe = place.recipe("recipe.yaml", STAGES);
    let (plain, statistics) = (place.path("plain"), place.path("one"));
    json(&["run", &recipe, "--out", &plain, "--statistics", &statistics]);
    let edits = |out: &str| fs::read(Path::new(out).join("edits.json")).unwrap();

    // One shard of one is the file that a run writes.
    let whole = place.measure(&recipe, "1/1", "whole");
    assert_eq!(fs::read(place.path("whole")).unwrap(), fs::read(&statistics).unwrap());
    assert_eq!((&whole["tokens"], &whole["complete"]), (&json!(5 * 400), &json!(true)));
    assert_eq!(whole["header"]["groups"], json!(["atoms", "fisher", "routing"]));

    let (_, one) = read(&statistics);
    let parts = [("1/3", "a"), ("2/3", "b"), ("3/3", "c")];
    let tokens = parts.map(|(shard, name)| place.measure(&recipe, shard, name)["tokens"].clone());
    assert_eq!(tokens, [800, 800, 400].map(Value::from));
    json(&["stats", "merge", &place.path("c"), &place.path("a"), "--out", &place.path("ac")]);
    let path = |name: &str| place.path(name);
    for (name, files) in [("three", vec!["c", "a", "b"]), ("two", vec!["b", "ac"])] {
        let files: Vec<String> = files.into_iter().map(path).collect();
        let merged = place.path(name);
        let mut words = vec!["stats", "merge", "--out", &merged];
        words.extend(files.iter().map(String::as_str));
        let document = json(&words);
        assert_eq!((&document["tokens"], &document["complete"]), (&json!(5 * 400), &json!(true)));

        let (_, sums) = read(&merged);
        assert_eq!(sums.keys().collect::<Vec<_>>(), one.keys().collect::<Vec<_>>());
        for (name, values) in &one {
            for (a, b) in values.iter().zip(&sums[name]) {
                assert!((a - b).abs() <= 1e-12 * a.abs(), "{name}: {a} and {b}");
            }
        }
        let out = place.path(&format!("{name}-out"));
        let report = json(&["run", &recipe, "--out", &out, "--statistics-from", &merged]);
        assert_eq!(edits(&out), edits(&plain), "{name}");
        let note = report["notes"][0].as_str().unwrap();
        assert!(note.contains(&merged) && note.contains(document["sha256"].as_str().unwrap()), "{note}");
        let manifest: Value =
            serde_json::from_slice(&fs::read(Path::new(&out).join("moepress.json")).unwrap()).unwrap();
        assert_eq!(manifest["inputs"]["statistics"][name], document["sha256"]);
    }
}

#[test]
fn a_recipe_that_measures_twice_takes_the_first_from_the_file() {
    let place = Place::new();
    let recipe = place.recipe("recipe.yaml", RESTAGED);
    let (plain, out) = (place.path("plain"), place.path("out"));
    let (last, last_again) = (place.path("last"), place.path("last-again"));
    json(&["run", &recipe, "--out", &plain, "--statistics", &last]);
    assert_eq!(place.measure(&recipe, "1/1", "first")["header"]["groups"], json!(["routing"]));
    let first = place.path("first");
    json(&["run", &recipe, "--out", &out, "--statistics-from", &first, "--statistics", &last_again]);
    let edits = |out: &str| fs::read(Path::new(out).join("edits.json")).unwrap();
    assert_eq!(edits(&plain), edits(&out));
    // The last measurement is of the edited model in both, and no run takes it for the first.
    assert_eq!(fs::read(&last).unwrap(), fs::read(&last_again).unwrap());
    assert_eq!(read(&first).0["edits"], "none");
    assert_eq!(read(&last).0["edits"].as_str().unwrap().len(), 64);
    let line = place.fails(3, &["run", &recipe, "--out", &place.path("no"), "--statistics-from", &last]);
    assert!(line.contains("key `edits`: is ") && line.ends_with("this run has none"), "{line}");
}

/// The file with its header changed.
fn change(path: &str, to: &str, edit: impl Fn(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut container: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let mut header = read(path).0;
    edit(&mut header);
    container["__metadata__"]["moepress_statistics"] = header.to_string().into();
    let text = container.to_string();
    let bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes[start..]].concat();
    fs::write(to, bytes).unwrap();
}

#[test]
fn files_of_something_else_are_refused() {
    let place = Place::new();
    let recipe = place.recipe("recipe.yaml", "  - prune_experts: {method: reap, ratio: 0.25}\n");
    let (half, out) = (place.path("half"), place.path("out"));
    place.measure(&recipe, "1/2", "half");
    let refused = |file: &str, more: &[&str]| {
        place.fails(3, &[&["run", &recipe, "--out", &out, "--statistics-from", file][..], more].concat())
    };
    let line = refused(&half, &[]);
    assert!(line.contains("key `shards`: holds 1 of 2; measure the others"), "{line}");
    assert!(refused(&half, &["--set", "calibration.windows=4"]).contains("half: key `tokens`: is "));
    assert!(refused(&half, &["--set", "calibration.window=399"]).contains("key `tokens`: is "));
    let atoms = place.recipe("atoms.yaml", "  - prune_atoms: {ratio: 0.25}\n");
    let line = place.fails(3, &["run", &atoms, "--out", &out, "--statistics-from", &half]);
    assert!(line.ends_with("key `groups`: is routing, this run has atoms"), "{line}");
    let other = place.path("other");
    change(&half, &other, |header| header["model"] = "0".repeat(64).into());
    assert!(refused(&other, &[]).contains("key `model`: is 0000"));
    change(&half, &other, |header| header["moepress"] = "0.0.0".into());
    assert!(refused(&other, &[]).contains("key `moepress`: is 0.0.0, this run has "));
    // A file that claims to be all of it, and one of a model with more layers.
    change(&half, &other, |header| header["of"] = 1.into());
    assert!(refused(&other, &[]).contains("sums: are of 1200 tokens, this run has 2000"));
    let bytes = fs::read(&other).unwrap();
    fs::write(&other, replace(&bytes, b"model.layers.5.gate_sum", b"model.layers.9.gate_sum")).unwrap();
    assert!(
        refused(&other, &[]).contains("model.layers.9.gate_sum is of something this model does not have")
    );

    let line = place.fails(3, &["stats", "merge", &half, &half, "--out", &place.path("all")]);
    assert!(line.contains("key `shards`: has shard 1 of 2"), "{line}");
    assert!(place.fails(2, &["stats", "merge", &half, "--out", &half]).contains("exists"));
    assert!(place.fails(2, &["stats", &recipe, "--out", &half]).contains("exists"));
    let line = place.fails(2, &["stats", &recipe, "--shard", "1/4", "--out", &place.path("x")]);
    assert!(line.contains("5 windows of 400 tokens make 3 shards at most"), "{line}");
    assert!(place.fails(2, &["stats", &recipe, "--shard", "3/2", "--out", "x"]).contains("write i/n"));
    let inside = demo().join("x").display().to_string();
    assert!(place.fails(2, &["stats", &recipe, "--out", &inside]).contains("inside the model directory"));

    let none = place.recipe("none.yaml", "  - quantize: {format: int4, group: 64}\n");
    assert!(place.fails(2, &["stats", &none, "--out", &place.path("x")]).contains("measures anything"));
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn an_interrupted_measurement_leaves_nothing_behind() {
    let place = Place::new();
    let recipe = place.recipe("recipe.yaml", STAGES);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_moepress"));
    command.args(["stats", &recipe, "--out", &place.path("x"), "--threads", "1"]);
    command.args(["--set", "calibration.windows=64", "--json"]);
    let stdio = std::process::Stdio::piped;
    let child = command.stdout(stdio()).stderr(stdio()).spawn().unwrap();
    while !Path::new(&place.path(".x.lock")).exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["code"], "interrupted");
    // The recipe and its text.
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 2);
}
