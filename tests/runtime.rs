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
        &["--cache", "hit-density", "--read-ahead"],
        &["--cache", "pinned", "--used-before", &uses],
    ] {
        let (text, report) = generate(&[&["--memory-budget", "5MB"], more].concat());
        assert_eq!(text, whole, "{more:?}");
        assert!(report.contains(" had been kept, ") && report.contains(" read, "), "{more:?}: {report}");
    }
    let model = demo();
    let small = moepress(&["generate", &model, "--prompt", "a", "--memory-budget", "1MB"]);
    assert_eq!(small.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&small.stderr).contains("are the least for this model"));

    let replayed = json(&["bench", "cache", &model, "--uses", &uses, "--json"]);
    let rows = replayed["result"].as_array().unwrap();
    assert_eq!(
        rows.len(),
        18,
        "four policies, with and without reading ahead, and the best, for two budgets"
    );
    for row in rows {
        let count = |key: &str| row[key].as_u64().unwrap_or(0);
        assert!(count("kept") + count("ahead") <= count("uses") && count("bytes_read") > 0, "{row}");
        // More hits than the best has only who reads ahead, and whoever does has some of those.
        assert!(row["of_best"].as_f64().unwrap() <= 1.0 || count("ahead") > 0, "{row}");
        assert_eq!(row["ahead"].is_null(), count("read_ahead") == 0, "{row}");
    }
    for visit in [
        "[0, 1, [[99, 1, 0.5]], []]",
        "[0, 1, [], [16]]",
        "[6, 1, [], []]",
        "[0, 1, [[1, 2, 0.5]], []]",
        "[0]",
    ] {
        std::fs::write(&uses, format!(r#"{{"schema_version": 2, "visits": [[5, 1, [], []], {visit}]}}"#))
            .unwrap();
        let foreign = moepress(&["bench", "cache", &model, "--uses", &uses]);
        assert_eq!(foreign.status.code(), Some(3), "{visit}");
        assert!(String::from_utf8_lossy(&foreign.stderr).contains("visits[1]: must be"), "{visit}");
    }
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

#[test]
fn routing_by_rules_uses_fewer_experts() {
    let (model, dir) = (demo(), tempfile::tempdir().unwrap());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let uses = |name: &str, more: &[&str]| {
        generate(&[&["--record-experts", &path(name)], more].concat());
        let trace: Value = serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap();
        let visits = trace["visits"].as_array().unwrap().iter();
        let ids = visits.flat_map(|visit| {
            visit[2].as_array().unwrap().iter().map(|used| (visit[0].as_u64(), used[0].as_u64()))
        });
        let ids: Vec<_> = ids.collect();
        (ids.len(), ids.iter().collect::<std::collections::BTreeSet<_>>().len())
    };
    let (all, distinct) = uses("all", &[]);
    // A rule that takes nothing away changes no text.
    assert_eq!(generate(&["--experts-top-p", "1"]).0, generate(&["--experts-per-pass", "999"]).0);
    assert!(uses("top", &["--experts-top-p", "0.5"]).0 < all);
    assert!(uses("skip", &["--skip-below", "0.9"]).0 < all);
    assert!(uses("batch", &["--experts-per-pass", "2"]).0 < all);
    let profile = path("all");
    assert!(uses("task", &["--profile", &profile, "--profile-share", "0.5"]).1 < distinct);
    for wrong in [&["--experts-top-p", "0"][..], &["--skip-below", "1.5"], &["--profile-share", "0.5"]] {
        let refused = moepress(&[&["generate", &model, "--prompt", "x"], wrong].concat());
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
    }
    let text = Path::new(&model).parent().unwrap().join("eval-text/code.txt");
    let text = text.to_str().unwrap();
    let sizes = ["--sequences", "2", "--tokens", "16", "--json"];
    let found = json(&[&["bench", "rules", &model, "--text", text], &sizes[..]].concat());
    let rows = found["result"].as_array().unwrap();
    assert!(rows.len() == 10 && rows[0]["nll_increase"] == 0.0);
    assert!(rows.iter().all(|row| row["experts_per_step"].as_f64() <= rows[0]["experts_per_step"].as_f64()));
    assert!(rows.iter().all(|row| row["bytes_per_step"].is_null()));
    // Within a budget the scores are the same.
    let within = [&["bench", "rules", &model, "--text", text, "--memory-budget", "5MB"], &sizes[..]].concat();
    let within = json(&within);
    for (row, whole) in within["result"].as_array().unwrap().iter().zip(rows) {
        assert_eq!((&row["nll"], &row["by_high_bits"]), (&whole["nll"], &serde_json::json!(0.0)), "{row}");
        assert!(row["bytes_per_step"].as_f64().unwrap() > 0.0, "{row}");
    }
}
