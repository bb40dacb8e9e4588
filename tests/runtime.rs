//! The runtime through the built binary: choosing tokens, experts within a budget, measuring speed.

#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn demo() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/demo-qwen3-moe").to_str().unwrap().to_owned()
}

fn moepress(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moepress")).args(args).output().unwrap()
}

/// Stdout and stderr of a command that succeeds.
fn succeeds(args: &[&str]) -> (String, String) {
    let output = moepress(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    (String::from_utf8(output.stdout).unwrap(), stderr)
}

fn generate(more: &[&str]) -> (String, String) {
    let model = demo();
    succeeds(&[&["generate", &model, "--prompt", "The old house", "-n", "40"], more].concat())
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(args).0).unwrap()
}

#[test]
fn threads_and_neighbours_change_no_text() {
    let sampled = ["--temperature", "1", "--top-p", "0.9", "--top-k", "50", "--min-p", "0.01"];
    for more in [&[][..], &["--exact"], &sampled] {
        let (one, _) = generate(&[more, &["--threads", "1"]].concat());
        assert_eq!(generate(&[more, &["--threads", "3"]].concat()).0, one, "{more:?}");
        let (several, _) = generate(&[more, &["--texts", "3"]].concat());
        assert!(several.starts_with(&format!("[1] {one}")), "{more:?}: {several}");
        assert!(several.contains("\n[3] "));
    }
}

#[test]
fn a_text_ends_before_a_stop_string() {
    let (whole, _) = generate(&[]);
    let words: Vec<&str> = whole.split(' ').collect();
    let stop = [words[words.len() / 2], words[words.len() / 2 + 1]].join(" ");
    let (cut, _) = generate(&["--stop", "no such text", "--stop", &stop]);
    assert_eq!(cut.trim_end_matches('\n'), &whole[..whole.find(&stop).unwrap()]);
}

#[test]
fn experts_within_a_budget_write_the_same_text() {
    let dir = tempfile::tempdir().unwrap();
    let uses = dir.path().join("uses.json").to_str().unwrap().to_owned();
    let (whole, _) = generate(&["--record-experts", &uses]);
    for more in [
        &["--cache", "lru"][..],
        &["--cache", "gate-mass", "--read-ahead"],
        &["--cache", "pinned", "--used-before", &uses],
    ] {
        let (text, report) = generate(&[&["--memory-budget", "5MB"], more].concat());
        assert_eq!(text, whole, "{more:?}");
        assert!(report.contains("% of ") && report.contains(" read, "), "{more:?}: {report}");
    }
    let model = demo();
    let small = moepress(&["generate", &model, "--prompt", "a", "--memory-budget", "1MB"]);
    assert_eq!(small.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&small.stderr).contains("are the least for this model"));

    let replayed = json(&["bench", "cache", &model, "--uses", &uses, "--json"]);
    let rows = replayed["result"].as_array().unwrap();
    assert_eq!(rows.len(), 8, "three policies and the best, for two budgets");
    for row in rows {
        assert!(
            row["of_best"].as_f64().unwrap() <= 1.0 && row["hits"].as_u64() <= row["uses"].as_u64(),
            "{row}"
        );
    }
    std::fs::write(&uses, r#"{"schema_version": 1, "uses": [[0, 99, 0.5]]}"#).unwrap();
    let foreign = moepress(&["bench", "cache", &model, "--uses", &uses]);
    assert_eq!(foreign.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&foreign.stderr).contains("uses[0]: must be"));
}

#[test]
fn speed_is_measured_beside_its_limits() {
    let model = demo();
    let common = ["--rounds", "1", "--threads", "2", "--json"];
    let positive = |value: &Value, keys: &[&str]| {
        for key in keys {
            assert!(value[key].as_f64().is_some_and(|x| x > 0.0 && x.is_finite()), "{key} of {value}");
        }
    };
    let decode = json(&[&["bench", "decode", &model, "--tokens", "8"], &common[..]].concat());
    positive(&decode["result"], &["tokens_per_second", "bytes_per_token", "gb_per_s", "of_read"]);
    positive(&decode["roofline"], &["read_gb_per_s", "threads"]);
    let several =
        json(&[&["bench", "decode", &model, "--tokens", "8", "--sequences", "3"], &common[..]].concat());
    positive(&several["result"], &["tokens_per_second"]);
    let prefill = json(&[&["bench", "prefill", &model, "--tokens", "64"], &common[..]].concat());
    positive(&prefill["result"], &["tokens_per_second", "gops", "of_arithmetic"]);
    positive(&json(&[&["bench", "load", &model], &common[..]].concat())["result"], &["first_token_seconds"]);
    let kernels = json(
        &[&["bench", "kernel", "ternary-g64", "bf16", "--rows", "256", "--cols", "512"], &common[..]]
            .concat(),
    );
    kernels["result"].as_array().unwrap().iter().for_each(|row| positive(row, &["gb_per_s", "of_read"]));
    assert_eq!(json(&["bench", "roofline", "--threads", "2", "--json"]).as_array().unwrap().len(), 2);
    assert_eq!(moepress(&["bench", "kernel", "int5-g64"]).status.code(), Some(2));
    let long = moepress(&["bench", "decode", &model, "--tokens", "5000"]);
    assert_eq!(long.status.code(), Some(2), "{}", String::from_utf8_lossy(&long.stderr));
}
