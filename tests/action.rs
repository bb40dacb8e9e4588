//! `.github/actions/compress`, its steps run as GitHub's runner runs them, and the shell job of docs/ci.md.

#![allow(clippy::unwrap_used)]

#[expect(dead_code, reason = "shared with other tests")]
mod common;

use common::{demo, root};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn recipe(dir: &Path, window: usize) {
    let [calibration, evaluation] =
        ["calibration/novel.txt", "tests/fixtures/eval-text/novel.txt"].map(|p| root().join(p));
    let text = format!(
        "version: 1\nmodel: {}\ncalibration: {{files: [{}], window: {window}, windows: 2}}\nstages:\n\
         \x20 - prune_atoms: {{method: heapr, ratio: 0.25}}\n  - quantize: {{format: int4, group: 64}}\n\
         evaluate: {{files: [{}], window: 64, windows: 2}}\n",
        demo().display(),
        calibration.display(),
        evaluation.display(),
    );
    fs::write(dir.join("recipe.yaml"), text).unwrap();
}

fn output(dir: &Path, command: &mut Command) -> Output {
    command.current_dir(dir).output().unwrap()
}

fn act(dir: &Path, runner: &str, inputs: Value) -> Value {
    let mut inputs = inputs;
    inputs["recipe"] = "recipe.yaml".into();
    inputs["moepress"] = env!("CARGO_BIN_EXE_moepress").into();
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    fs::create_dir(dir.join(runner)).unwrap();
    let [script, action] =
        ["tests/python/action.py", ".github/actions/compress/action.yml"].map(|p| root().join(p));
    let done = output(
        dir,
        Command::new(python).arg(script).arg(action).arg(inputs.to_string()).arg(dir.join(runner)),
    );
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn a_job_compresses_and_is_judged() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    recipe(dir, 64);
    let good = act(dir, "1", json!({"out": "good", "gates": "ppl_ratio>1000\n\n"}));
    assert_eq!((&good["code"], &good["outputs"]["gate"]), (&0.into(), &"passed".into()));
    let report: Value = serde_json::from_slice(&fs::read(dir.join("good/report.json")).unwrap()).unwrap();
    let bytes = |text: &Value| text.as_str().unwrap().parse::<f64>().unwrap();
    assert_eq!(bytes(&good["outputs"]["size_bytes"]), report["after"]["bytes"].as_f64().unwrap());
    let overall = &report["evaluation"]["compact"]["overall"];
    assert_eq!(bytes(&good["outputs"]["ppl_ratio"]), overall["ppl_ratio"].as_f64().unwrap());
    assert_eq!(good["summary"], fs::read_to_string(dir.join("good/report.md")).unwrap());
    assert_eq!(good["annotations"], json!([]));
    assert!(dir.join("good.junit.xml").exists());

    // Measured once, used again; a result that is not good enough is there all the same.
    let statistics = dir.join(".moepress-cache/statistics.safetensors");
    let measured = fs::metadata(&statistics).unwrap().modified().unwrap();
    let bad = act(dir, "2", json!({"out": "bad", "gates": "bpw<100\nkld_mean<100", "baseline": "good"}));
    assert_eq!(
        (&bad["code"], &bad["outputs"]["gate"], &bad["key"]),
        (&10.into(), &"failed".into(), &good["key"])
    );
    assert!(dir.join("bad/report.html").exists() && !bad["summary"].as_str().unwrap().is_empty());
    let annotations = bad["annotations"].as_array().unwrap();
    assert_eq!(annotations.len(), 2);
    assert!(
        annotations[0]
            .as_str()
            .unwrap()
            .starts_with("::error file=recipe.yaml,title=quality gate::bpw<100: measured ")
    );
    assert_eq!(fs::metadata(&statistics).unwrap().modified().unwrap(), measured);
    let weights = |name: &str| fs::read(dir.join(name).join("edits.json")).unwrap();
    assert_eq!(weights("good"), weights("bad"));

    // What the cache holds is of other text: measured again.
    recipe(dir, 32);
    let again = act(dir, "3", json!({"out": "again"}));
    assert_eq!(again["code"], 0);
    assert_ne!(again["key"], good["key"]);
    assert!(again["annotations"][0].as_str().unwrap().starts_with("::warning file=recipe.yaml::"));
    // What cannot be run fails with its own code, and nothing is left.
    let odd = act(dir, "4", json!({"out": "odd", "gates": "no_such_metric>1"}));
    assert_eq!(odd["code"], 2);
    assert!(!dir.join("odd").exists());
}

#[test]
fn the_shell_job_of_the_document_runs() {
    let dir = tempfile::tempdir().unwrap();
    recipe(dir.path(), 64);
    let document = fs::read_to_string(root().join("docs/ci.md")).unwrap();
    let job = document.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    fs::write(dir.path().join("job.sh"), job).unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_moepress")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let run = |gates: &str| {
        let mut command = Command::new("sh");
        command.arg("job.sh").env("PATH", &path).env("RECIPE", "recipe.yaml").env("GATE", gates);
        let done = output(dir.path(), &mut command);
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    assert_eq!(run("ppl_ratio>1000").0, Some(0));
    assert!(dir.path().join("compressed/report.html").exists());
    fs::remove_dir_all(dir.path().join("compressed")).unwrap();
    fs::remove_file(dir.path().join("gates.xml")).unwrap();
    let (code, said) = run("bpw<100");
    assert_eq!(code, Some(10), "{said}");
    assert!(dir.path().join("compressed/report.md").exists());
    // What was kept is of something else: measured again.
    fs::remove_dir_all(dir.path().join("compressed")).unwrap();
    fs::remove_file(dir.path().join("gates.xml")).unwrap();
    let kept = dir.path().join(".moepress-cache/statistics.safetensors");
    fs::write(&kept, "of another model").unwrap();
    let (code, said) = run("ppl_ratio>1000");
    assert_eq!(code, Some(0), "{said}");
    assert!(!kept.exists());
}
