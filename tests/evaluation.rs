//! `moepress eval` beside transformers, from `tests/fixtures/evaluation` (made by `tests/golden/evaluation.py`).

#![allow(clippy::unwrap_used)]

mod common;

use common::{DOMAINS, demo, json, root};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn reference() -> Value {
    let path = root().join("tests/fixtures/evaluation/reference.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The texts of the reference in `dir`: their first lines.
fn texts(dir: &Path) -> Vec<String> {
    let lines = reference()["lines"].clone();
    let write = |(name, count): (&String, &Value)| {
        assert!(DOMAINS.contains(&name.as_str()));
        let text = fs::read_to_string(root().join(format!("tests/fixtures/eval-text/{name}.txt"))).unwrap();
        let count = count.as_u64().unwrap() as usize;
        let path = dir.join(format!("{name}.txt"));
        fs::write(&path, text.split_inclusive('\n').take(count).collect::<String>()).unwrap();
        path.display().to_string()
    };
    lines.as_object().unwrap().iter().map(write).collect()
}

/// All numbers of `wanted` within `tolerance` of themselves, or of 1 where they are smaller.
fn close(found: &Value, wanted: &Value, tolerance: f64, what: &str) {
    for (key, wanted) in wanted.as_object().unwrap() {
        let (wanted, value) = (wanted.as_f64().unwrap(), found[key].as_f64());
        let near = value.is_some_and(|value| (value - wanted).abs() <= tolerance * wanted.abs().max(1.0));
        assert!(near, "{what}, {key}: {value:?} instead of {wanted}");
    }
}

#[test]
fn perplexity_by_every_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let model = demo().display().to_string();
    let texts = texts(dir.path());
    for (protocol, reference) in reference()["perplexity"].as_object().unwrap() {
        let [window, stride] = ["window", "stride"].map(|key| reference[key].to_string());
        let mut args = vec!["eval", &model, "--protocol", protocol, "--window", &window];
        match protocol.as_str() {
            "llama.cpp" => args.extend(["--bos", "document"]),
            "strided" => args.extend(["--stride", &stride]),
            _ => {}
        }
        args.push("--text");
        args.extend(texts.iter().map(String::as_str));
        let found = json(&args);
        let found = &found["evaluation"];
        assert_eq!(found["sampling"]["protocol"], protocol.as_str());
        let list = |value: &Value| value.as_array().unwrap().clone();
        for (text, file) in list(&found["compact"]["texts"]).iter().zip(list(&found["sampling"]["files"])) {
            let name = text["name"].as_str().unwrap();
            close(text, &reference["texts"][name], 2e-5, &format!("{protocol} {name}"));
            assert_eq!([&file["scored"], &file["bytes"]], [&text["predictions"], &text["bytes"]]);
            assert_eq!(file["sha256"].as_str().unwrap().len(), 64);
        }
    }
}

/// The demo model with 2 experts a token in place of 4.
fn fewer(dir: &Path) -> String {
    let fewer = dir.join("fewer");
    fs::create_dir(&fewer).unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        fs::copy(demo().join(name), fewer.join(name)).unwrap();
    }
    let config = fs::read_to_string(demo().join("config.json")).unwrap();
    let changed = config.replace("\"num_experts_per_tok\": 4", "\"num_experts_per_tok\": 2");
    assert_ne!(config, changed);
    fs::write(fewer.join("config.json"), changed).unwrap();
    fewer.display().to_string()
}

#[test]
fn distance_of_a_model_with_fewer_experts_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let (fewer, original) = (fewer(dir.path()), demo().display().to_string());
    let texts = texts(dir.path());
    let mut args = vec!["eval", &fewer, "--against", &original, "--window", "256", "--text"];
    args.extend(texts.iter().map(String::as_str));
    let found = json(&args);
    let overall = &found["evaluation"]["compact"]["overall"];
    let mut wanted = reference()["distance"].clone();
    assert_eq!(overall["by_token"]["predictions"], wanted.as_object_mut().unwrap().remove("tokens").unwrap());
    close(&overall["divergence"], &wanted, 2e-5, "distance");
    let counts = overall["histogram"]["counts"].as_array().unwrap();
    assert_eq!(counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 4080);
}

#[test]
fn a_base_file_stands_in_for_the_original() {
    let dir = tempfile::tempdir().unwrap();
    let (fewer, original) = (fewer(dir.path()), demo().display().to_string());
    let text = texts(dir.path()).remove(0);
    let file = |name: &str| dir.path().join(name).display().to_string();
    let cut = ["--window", "128", "--windows", "4", "--text", &text];
    let (whole, some) = (file("whole"), file("some"));
    let saved = json(&[&["eval", &original, "--save-base", &whole, "--base-top", "all"], &cut[..]].concat());
    json(&[&["eval", &original, "--save-base", &some, "--base-top", "64"], &cut[..]].concat());
    let size = |path: &str| fs::metadata(path).unwrap().len();
    assert!(size(&some) < size(&whole) / 50);
    // Same model, same text, same bytes.
    json(
        &[
            &["eval", &original, "--save-base", &file("again"), "--base-top", "64", "--threads", "1"],
            &cut[..],
        ]
        .concat(),
    );
    assert_eq!(fs::read(&some).unwrap(), fs::read(file("again")).unwrap());

    let of = |more: &[&str]| json(&[&["eval", &fewer], more, &cut[..]].concat())["evaluation"].clone();
    let direct = of(&["--against", &original]);
    let from_whole = of(&["--base", &whole, "--fail-if", "kld_mean > 9"]);
    let from_some = of(&["--base", &some, "--fail-if", "top1 < 0.1"]);
    let divergence = |evaluation: &Value| evaluation["compact"]["overall"]["divergence"].clone();
    assert_eq!(from_whole["original"]["overall"]["by_token"]["predictions"], 4 * 127);
    assert_eq!(from_whole["base"]["top"], 4096);
    assert_eq!(
        (&from_whole["original"]["tokens_per_second"], divergence(&from_whole).get("top")),
        (&Value::Null, None)
    );
    close(&divergence(&from_whole), &divergence(&direct), 1e-5, "whole");
    let saved = &saved["evaluation"]["compact"]["overall"]["nll"];
    assert!(
        (from_whole["original"]["overall"]["nll"].as_f64().unwrap() - saved.as_f64().unwrap()).abs() < 1e-6
    );
    // Everything but the divergence itself is known from the likeliest tokens; that is a bound from below, and close.
    let (bound, exact) = (divergence(&from_some), divergence(&direct));
    assert_eq!((&bound["top"], &bound["top1_agreement"]), (&64.into(), &exact["top1_agreement"]));
    for key in ["mean", "median", "p99", "max"] {
        let (bound, exact) = (bound[key].as_f64().unwrap(), exact[key].as_f64().unwrap());
        assert!(bound <= exact + 1e-6 && bound > 0.7 * exact, "{key}: {bound} for {exact}");
    }

    let refused = |code: i32, args: &[&str]| {
        let output = common::moepress(&[&["eval", &fewer], args].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    };
    let gate = refused(2, &[&["--base", &some, "--fail-if", "kld_p99 > 1"], &cut[..]].concat());
    assert!(gate.contains("--base-top all"), "{gate}");
    let other = refused(3, &["--base", &some, "--window", "64", "--windows", "4", "--text", &text]);
    assert!(other.contains("window: is 128, the evaluation has 64"), "{other}");
    let mut damaged = fs::read(&some).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(file("damaged"), &damaged).unwrap();
    let damage = refused(3, &[&["--base", &file("damaged")], &cut[..]].concat());
    assert!(damage.contains("digest: differs"), "{damage}");
    fs::write(file("short"), &damaged[..middle]).unwrap();
    refused(3, &[&["--base", &file("short")], &cut[..]].concat());
    refused(3, &[&["--base", &text], &cut[..]].concat());
}

/// `eval --task` of a file of `tests/fixtures/evaluation`.
fn asked(model: &str, file: &str, more: &[&str]) -> Value {
    let file = root().join("tests/fixtures/evaluation").join(file).display().to_string();
    json(&[&["eval", model, "--task", &file], more].concat())
}

/// Figures of a task beside those of transformers, which have no filter in their keys.
fn figures_are(result: &Value, reference: &Value, what: &str) {
    for (key, wanted) in reference.as_object().unwrap().iter().filter(|(_, wanted)| wanted.is_number()) {
        let found = result[format!("{key},none")].as_f64().unwrap();
        assert!((found - wanted.as_f64().unwrap()).abs() < 1e-12, "{what}, {key}: {found} for {wanted}");
    }
}

/// Which of the questions of choices.jsonl after the first `shots` these log-likelihoods get right, and what they pick.
fn picks(reference: &Value, shots: usize) -> Vec<(bool, usize)> {
    let text = fs::read_to_string(root().join("tests/fixtures/evaluation/choices.jsonl")).unwrap();
    let right =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["answer"].as_u64().unwrap());
    let pick = |of: &Value| {
        let values: Vec<f64> = of.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap()
    };
    let picked = reference["loglikelihoods"].as_array().unwrap().iter().map(pick);
    right.skip(shots).zip(picked).map(|(right, picked)| (right == picked as u64, picked)).collect()
}

#[test]
fn multiple_choice_is_that_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let (fewer, original) = (fewer(dir.path()), demo().display().to_string());
    let reference = reference();
    for (shots, wanted) in reference["choices"].as_object().unwrap() {
        let found = asked(&original, "choices.jsonl", &["--shots", shots]);
        figures_are(&found["results"]["choices"], wanted, &format!("{shots} shots"));
        let task = &found["tasks"][0];
        let count = 40 - shots.parse::<u64>().unwrap();
        assert_eq!((&task["kind"], &task["questions"]), (&"multiple_choice".into(), &count.into()));
        assert_eq!(
            (&found["results"]["choices"]["samples"], &found["evaluation"]),
            (&count.into(), &Value::Null)
        );
    }

    let beside = asked(&fewer, "choices.jsonl", &["--against", &original, "--fail-if", "flips>0.9"]);
    let (result, base) = (&beside["results"]["choices"], &beside["original_results"]["choices"]);
    let wanted = &reference["choices_fewer_experts"]["0"];
    figures_are(result, wanted, "fewer experts");
    figures_are(base, &reference["choices"]["0"], "original");
    let (ours, theirs) = (picks(wanted, 0), picks(&reference["choices"]["0"], 0));
    let share = |differ: fn(&(bool, usize), &(bool, usize)) -> bool| {
        ours.iter().zip(&theirs).filter(|(a, b)| differ(a, b)).count() as f64 / ours.len() as f64
    };
    let (flips, changed) = (share(|a, b| a.0 != b.0), share(|a, b| a.1 != b.1));
    assert!(changed > 0.0, "the models answer alike, so this tests nothing");
    assert_eq!(
        (result["flips,none"].as_f64(), result["changed,none"].as_f64()),
        (Some(flips), Some(changed))
    );
}

#[test]
fn open_questions_are_answered_as_transformers_does() {
    let original = demo().display().to_string();
    for (shots, wanted) in reference()["open"].as_object().unwrap() {
        let found = asked(&original, "open.jsonl", &["--shots", shots, "--answer", "12"]);
        figures_are(&found["results"]["open"], wanted, &format!("{shots} shots"));
        assert_eq!(found["tasks"][0]["kind"], "generate_until");
    }
}

#[test]
fn bad_tasks_are_refused_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let original = demo().display().to_string();
    let refused = |text: &str, more: &[&str]| {
        let path = dir.path().join("quiz.jsonl");
        fs::write(&path, text).unwrap();
        let file = path.display().to_string();
        let output = common::moepress(&[&["eval", &original, "--task", &file], more].concat());
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0));
        String::from_utf8(output.stderr).unwrap()
    };
    let open = "{\"question\": \"a\", \"answer\": \"b\"}\n";
    assert!(refused("{}\n", &[]).contains("line 1: has no field \"question\""));
    assert!(
        refused(&format!("{open}{{\"question\": \"a\", \"choices\": [\"b\"], \"answer\": 0}}"), &[])
            .contains("line 2")
    );
    assert!(refused(open, &["--shots", "1"]).contains("none is left to ask"));
    let long =
        format!("{{\"question\": \"a\", \"choices\": [\"b\", \"{}\"], \"answer\": 0}}", "word ".repeat(3000));
    assert!(refused(&long, &[]).contains("question 1"));
}

#[test]
fn drift_and_the_first_layer_that_departs() {
    let dir = tempfile::tempdir().unwrap();
    let (fewer, original) = (fewer(dir.path()), demo().display().to_string());
    let text = texts(dir.path()).remove(0);
    let of = |model: &str| {
        let cut = ["--window", "64", "--windows", "4", "--text", &text];
        json(
            &[
                &["eval", model, "--against", &original, "--drift", "4", "--fail-if", "routing_kept<0.1"],
                &cut[..],
            ]
            .concat(),
        )
    };
    let itself = of(&original);
    assert_eq!((&itself["drift"]["tokens"], &itself["drift"]["changed"]), (&256.into(), &0.0.into()));
    assert_eq!((&itself["drift"]["kept"], &itself["routing"]), (&1.0.into(), &itself["routing_after"]));
    let two = of(&fewer);
    let layer = &two["drift"]["steps"][1]["routing"];
    // 2 of 4 experts a token: every set is another, and in the first layer, which sees nearly the same, half are kept.
    assert_eq!((&layer["changed"], &layer["kept"]), (&1.0.into(), &0.5.into()));
    for side in ["routing", "routing_after"] {
        let run = &two[side][0]["runs"][0];
        assert!(run["srp"].is_number() && run["sch"].is_number(), "{side}: {run}");
    }
    assert_ne!(two["routing"], two["routing_after"]);

    let walk =
        |a: &str, b: &str| json(&["compare", a, b, "--text", &text, "--window", "64", "--windows", "2"]);
    assert_eq!(walk(&original, &original)["departs"], Value::Null);
    let apart = walk(&original, &fewer);
    let steps = apart["steps"].as_array().unwrap();
    assert_eq!(steps[0]["states"]["sqnr_db"], Value::Null);
    let first = steps.iter().find(|step| step["states"]["sqnr_db"].as_f64().is_some_and(|db| db < 20.0));
    assert_eq!((&apart["departs"], first.is_some()), (&first.unwrap()["place"], true));
    assert!(steps[1]["states"]["sqnr_db"].is_number() && steps[1]["alone"]["cosine"].as_f64().unwrap() < 1.0);
    assert_eq!((steps.len(), &steps.last().unwrap()["place"]), (8, &"logits".into()));
}
