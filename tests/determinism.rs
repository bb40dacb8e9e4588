//! Same inputs, same bytes, for any number of threads; and a recipe that keeps everything changes nothing.

#![allow(clippy::unwrap_used)]

mod common;

use common::{DOMAINS, demo, json, moepress, root};
use moepress_checkpoint::{Checkpoint, Files, OsFiles, Source};
use moepress_model::Tensor;
use moepress_quant::Stored;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

/// The recipe that uses every stage, with fewer windows and without evaluation of most texts.
fn everything(out: &Path, threads: &str, statistics: &Path) {
    let recipe = root().join("recipes/everything.yaml").display().to_string();
    let arguments = [
        "run",
        &recipe,
        "--set",
        "calibration.windows=3",
        "--set",
        "evaluate.windows=1",
        "--threads",
        threads,
        "--out",
        &out.display().to_string(),
        "--statistics",
        &statistics.display().to_string(),
    ];
    json(&arguments);
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let run = |threads: &str| {
        let (out, statistics) = (dir.path().join(threads), dir.path().join(format!("{threads}.safetensors")));
        everything(&out, threads, &statistics);
        let mut found = files(&out);
        found.retain(|name, _| !name.starts_with("report."));
        found.insert("statistics".into(), fs::read(statistics).unwrap());
        found
    };
    let (one, two, three) = (run("1"), run("2"), run("3"));
    assert_eq!(one.keys().collect::<Vec<_>>(), two.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(bytes == &two[name] && bytes == &three[name], "{name} depends on the number of threads");
    }
    for name in
        ["moepress.json", "recipe.yaml", "edits.json", "tokenizer.json", "model-00001-of-00007.safetensors"]
    {
        assert!(one.contains_key(name), "{name} is missing");
    }
    let text = String::from_utf8_lossy(&one["moepress.json"]);
    assert!(!text.contains(&dir.path().display().to_string()), "the manifest names where it was written");
}

#[test]
fn keeping_everything_keeps_every_bit() {
    let dir = tempfile::tempdir().unwrap();
    let text = root().join("calibration/novel.txt");
    let recipe = dir.path().join("keep.yaml");
    let stages = "stages:\n  - prune_experts: {ratio: 0.0}\n  - merge_experts: {ratio: 0.0}\n  - prune_atoms: {ratio: 0.0}\n";
    let calibration = format!("calibration: {{files: [\"{}\"], window: 64, windows: 2}}\n", text.display());
    fs::write(&recipe, format!("version: 1\nmodel: \"{}\"\n{calibration}{stages}", demo().display()))
        .unwrap();
    let out = dir.path().join("out");
    json(&["run", &recipe.display().to_string(), "--out", &out.display().to_string()]);
    let tensors = |dir: &Path| {
        let mut found = BTreeMap::new();
        for (name, bytes) in files(dir).into_iter().filter(|(name, _)| name.ends_with(".safetensors")) {
            let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let json: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(&bytes[8..8 + header]).unwrap();
            for (tensor, info) in json.into_iter().filter(|(tensor, _)| tensor != "__metadata__") {
                let at = |index: usize| 8 + header + info["data_offsets"][index].as_u64().unwrap() as usize;
                let plain = tensor.replace(".segments.0", "");
                assert!(
                    found
                        .insert(
                            plain,
                            (info["dtype"].clone(), info["shape"].clone(), bytes[at(0)..at(1)].to_vec())
                        )
                        .is_none(),
                    "{name}"
                );
            }
        }
        found
    };
    assert!(tensors(&demo()) == tensors(&out));
}

/// SHA-256 of every tensor of a checkpoint as f32, by name, as the independent reader prints them.
fn decoded(dir: &Path) -> BTreeMap<String, String> {
    let files: Arc<dyn Files> = Arc::new(OsFiles);
    let checkpoint = Checkpoint::open(&files, dir).unwrap();
    let outside =
        [Tensor::Embedding, Tensor::FinalNorm].map(|tensor| (tensor, checkpoint.tensor(tensor).unwrap()));
    let layers = (0..checkpoint.spec().layers.len()).flat_map(|layer| {
        let weights = checkpoint.layer(layer).unwrap();
        weights.into_iter().map(move |(part, stored)| (Tensor::Layer(layer, part), stored))
    });
    let digest = |(tensor, stored): (Tensor, Stored)| {
        let bytes: Vec<u8> = stored.to_f32().iter().flat_map(|value| value.to_le_bytes()).collect();
        (tensor.to_string(), Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    };
    outside.into_iter().chain(layers).map(digest).collect()
}

/// Compares what the reader written from docs/format.md alone makes of a checkpoint.
fn read_independently(out: &Path) {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let reader = root().join("tests/read_compact.py");
    let run = std::process::Command::new(python).arg(reader).arg(out).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let lines = String::from_utf8(run.stdout).unwrap();
    let pair = |line: &str| line.split_once(' ').map(|(digest, name)| (name.to_owned(), digest.to_owned()));
    assert_eq!(lines.lines().filter_map(pair).collect::<BTreeMap<_, _>>(), decoded(out));
}

#[test]
fn an_independent_reader_decodes_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    everything(&out, "2", &dir.path().join("statistics"));
    read_independently(&out);
}

#[test]
fn matrices_of_low_rank_are_written_read_and_computed_with() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = root().join("recipes/merge.yaml").display().to_string();
    let stages = "stages=[{merge_experts: {ratio: 0.25, low_rank: 16}}, {quantize: {format: int4, classes: [experts, attention]}}]";
    let set = ["--set", stages, "--set", "calibration.windows=2", "--set", "evaluate.windows=1"];
    let run = |threads: &str| {
        let out = dir.path().join(threads).display().to_string();
        (json(&[&["run", &recipe, "--threads", threads, "--out", &out], &set[..]].concat()), out)
    };
    let ((report, one), (_, two)) = (run("1"), run("2"));
    let [mut first, second] = [&one, &two].map(|out| files(Path::new(out)));
    first.retain(|name, _| !name.starts_with("report."));
    for (name, bytes) in &first {
        assert!(*bytes == second[name], "{name} depends on the number of threads");
    }
    // A few rows of words around the same tensors: what a plan says comes true to the byte.
    let plan = json(&[&["plan", &recipe], &set[..]].concat());
    assert_eq!(plan["after"], report["stages"][1]["after"], "{plan}");
    let notes = report["stages"][1]["notes"].to_string();
    assert!(notes.contains("matrices of low rank stay as merge_experts made them"), "{notes}");
    read_independently(Path::new(&one));
    let generate = |more: &[&str]| {
        json(&[&["generate", &one, "--prompt", "The sea", "-n", "12", "--temperature", "0"], more].concat())["texts"][0]["text"]
            .clone()
    };
    let inspected = json(&["inspect", &one]);
    let budget = inspected["size"]["bytes"].as_u64().unwrap() * 4 / 5;
    assert_eq!(generate(&["--memory-budget", &budget.to_string()]), generate(&[]));
    // A rank that does not fit its matrix is refused before anything is computed.
    let manifest = Path::new(&one).join("moepress.json");
    let text = fs::read_to_string(&manifest).unwrap().replace("low-rank-r16-s10", "low-rank-r97-s10");
    fs::write(&manifest, text).unwrap();
    let refused = moepress(&["inspect", &one]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{error}");
    assert!(error.contains("cannot be low-rank-r97-s10") && error.lines().count() == 1, "{error}");
}

#[test]
fn a_compact_checkpoint_evaluates_like_its_report_says() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    everything(&out, "2", &dir.path().join("statistics"));
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    let texts =
        DOMAINS.map(|d| root().join(format!("tests/fixtures/eval-text/{d}.txt")).display().to_string());
    let (out, model) = (out.display().to_string(), demo().display().to_string());
    let mut arguments =
        vec!["eval", &out, "--against", &model, "--window", "256", "--windows", "1", "--text"];
    arguments.extend(texts.iter().map(String::as_str));
    let found = json(&arguments);
    let compact = &report["evaluation"]["compact"];
    assert_eq!(found["evaluation"]["compact"]["overall"], compact["overall"]);
    // A flipped bit in any file is found before anything is computed.
    let shard = Path::new(&out).join("model-00003-of-00007.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let refused = moepress(&arguments);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{error}");
    assert!(error.contains("model-00003-of-00007.safetensors"), "{error}");
}
