//! `--device` through the built binary: in a build without devices and in one with them, with a device and without.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[expect(dead_code, reason = "shared with other tests")]
mod common;

use common::{demo, json, moepress, root};
use serde_json::Value;
use std::fs;
use std::process::Output;

fn generate(more: &[&str]) -> Output {
    let model = demo();
    let words = ["generate", model.to_str().unwrap(), "--prompt", "The old house", "-n", "16", "--exact"];
    moepress(&[&words, more].concat())
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_device_that_is_not_there_is_one_clear_line() {
    for device in ["cuda", "wgpu"] {
        let output = generate(&["--device", device]);
        if output.status.success() {
            continue;
        }
        let line = stderr(&output);
        let not_built = format!("this build has no {device} support");
        let not_found = format!("no {device} device was found");
        assert!(line.contains(&not_built) || line.contains(&not_found), "{line}");
        assert_eq!(line.trim_end().lines().count(), 1, "{line}");
        assert!(matches!(output.status.code(), Some(2 | 4)), "{output:?}");
    }
    let output = generate(&["--device", "tpu"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("must be cpu, cuda, wgpu or auto"), "{}", stderr(&output));
}

#[test]
fn auto_says_what_it_chose_and_the_text_is_the_same() {
    let (cpu, auto) = (generate(&[]), generate(&["--device", "auto"]));
    assert!(cpu.status.success() && auto.status.success(), "{}", stderr(&auto));
    assert_eq!(cpu.stdout, auto.stdout);
    let said = stderr(&auto);
    assert!(said.contains("computing on "), "{said}");
    if said.contains("computing on the CPU") {
        assert!(said.contains("cuda") && said.contains("wgpu"), "{said}");
    }
}

#[test]
fn evaluations_are_the_same_on_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let task = dir.path().join("open.jsonl");
    let questions: String = fs::read_to_string(root().join("tests/fixtures/evaluation/open.jsonl"))
        .unwrap()
        .lines()
        .take(3)
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&task, questions).unwrap();
    let (model, task) = (demo().display().to_string(), task.display().to_string());
    let text = root().join("tests/fixtures/eval-text/code.txt").display().to_string();
    let words = ["eval", &model, "--against", &model, "--text", &text, "--window", "64", "--windows", "6"];
    let more = ["--task", &task, "--answer", "4"];
    let on = |device: &str| json(&[&words[..], &more, &["--device", device]].concat());
    let (cpu, auto) = (on("cpu"), on("auto"));
    let overall = |report: &Value| report["evaluation"]["compact"]["overall"].clone();
    let nll = |report: &Value| overall(report)["nll"].as_f64().unwrap();
    assert!((nll(&cpu) - nll(&auto)).abs() < 1e-4, "{} and {}", nll(&cpu), nll(&auto));
    assert!(overall(&auto)["divergence"]["max"].as_f64().unwrap() < 1e-4);
    assert_eq!(cpu["results"], auto["results"]);
    let notes = auto["notes"].to_string();
    eprintln!("evaluated: {notes}");
    assert!(!cpu["notes"].to_string().contains("evaluated on"));
}

#[test]
fn what_only_the_cpu_does_is_refused() {
    let output = moepress(&["eval", "x", "--text", "y", "--device", "auto", "--max-memory", "1GiB"]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("--max-memory needs --device cpu"));

    for more in
        [["--memory-budget", "2MiB"], ["--record-experts", "/nowhere/uses.json"], ["--skip-below", "0.1"]]
    {
        let output = generate(&[&["--device", "auto"][..], &more].concat());
        assert!(!output.status.success(), "{more:?}");
    }
}

#[test]
fn matrices_of_low_rank_stay_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let (out, recipe) = (dir.path().join("out").display().to_string(), root().join("recipes/merge.yaml"));
    let stages = "stages=[{merge_experts: {ratio: 0.5, low_rank: 8}}]";
    let set = ["--set", stages, "--set", "calibration.windows=1", "--set", "evaluate.windows=1"];
    json(&[&["run", &recipe.display().to_string(), "--out", &out], &set[..]].concat());
    let text = |device: &str| {
        moepress(&["generate", &out, "--prompt", "The sea", "-n", "8", "--exact", "--device", device])
    };
    let (cpu, auto) = (text("cpu"), text("auto"));
    assert!(cpu.status.success() && auto.status.success(), "{}", stderr(&auto));
    assert_eq!(cpu.stdout, auto.stdout);
    assert!(stderr(&auto).contains("computing on the CPU"), "{}", stderr(&auto));
    for device in ["cuda", "wgpu"] {
        let (output, line) = (text(device), stderr(&text(device)));
        let reasons = ["this build has no", "device was found", "matrices of low rank"];
        assert!(!output.status.success() && reasons.iter().any(|reason| line.contains(reason)), "{line}");
        assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    }
}
