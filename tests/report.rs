//! Reports of a run and of an evaluation: complete, documented, compared, judged, and looked at in a browser.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use common::{DOMAINS, demo, json, moepress, root};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small run with everything that a report can hold.
struct Place(tempfile::TempDir);

impl Place {
    fn new(gates: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let file = |folder: &str, name: &str| {
            root().join(folder).join(name).with_extension("txt").display().to_string()
        };
        let [a, b, ..] = DOMAINS;
        let recipe = format!(
            "version: 1\nmodel: {}\ncalibration: {{files: [{}], window: 64, windows: 2}}\nstages:\n\
             \x20 - prune_atoms: {{method: heapr, ratio: 0.3}}\n  - quantize: {{format: int4, group: 64}}\n\
             evaluate: {{files: [{}, {}], window: 64, windows: 2}}\n{gates}",
            demo().display(),
            file("calibration", a),
            file("tests/fixtures/eval-text", a),
            file("tests/fixtures/eval-text", b),
        );
        fs::write(place.path("recipe.yaml"), recipe).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Runs the recipe to `out`; the exit code, and what it said on stderr.
    fn run(&self, out: &str, more: &[&str]) -> (i32, String) {
        let (recipe, out) = (self.text("recipe.yaml"), self.text(out));
        let output = moepress(&[&["run", &recipe, "--out", &out], more].concat());
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// All keys of a document but the names of classes of tensors.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            found.insert(key.clone());
            if key != "classes" {
                keys(value, found);
            }
        }),
        Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn a_run_is_reported_judged_compared_and_looked_at() {
    let place = Place::new("gates: {fail_if: ['kld_mean > 9', 'ppl[novel] > 1.0*original']}\n");
    let junit = place.text("gates.xml");
    let events = place.text("events.jsonl");
    let (code, said) = place.run("a", &["--junit", &junit, "--events", &events]);
    assert_eq!(code, 10, "{said}");
    assert!(said.contains("error: quality gate failed: ppl[novel] > 1.0*original (measured "), "{said}");
    let report = read(&place.path("a/report.json"));
    let verdicts: Vec<_> =
        report["gates"].as_array().unwrap().iter().map(|gate| gate["failed"].clone()).collect();
    assert_eq!(verdicts, [false, true]);
    let xml = fs::read_to_string(&junit).unwrap();
    assert!(xml.contains("tests=\"2\" failures=\"1\""), "{xml}");

    // Progress, a document a line.
    let lines = fs::read_to_string(&events).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["event"], &lines[0]["command"]), (&"start".into(), &"run".into()));
    assert_eq!(
        (&lines.last().unwrap()["event"], &lines.last().unwrap()["exit_code"]),
        (&"end".into(), &10.into())
    );
    assert!(lines.iter().any(|line| line["event"] == "step" && line["phase"] == "evaluate"));

    // Every key is documented.
    let documentation = fs::read_to_string(root().join("docs/report.md")).unwrap();
    let mut found = BTreeSet::new();
    keys(&report, &mut found);
    let missing: Vec<_> = found.iter().filter(|key| !documentation.contains(&format!("`{key}`"))).collect();
    assert!(found.len() > 80 && missing.is_empty(), "docs/report.md lacks {missing:?}");

    // The same run again, held against the first: sizes are the same, and half of them fail.
    fs::write(
        place.path("recipe.yaml"),
        fs::read_to_string(place.path("recipe.yaml"))
            .unwrap()
            .replace("ppl[novel]", "ppl[drama]")
            .replace("1.0*", "9*"),
    )
    .unwrap();
    let baseline = place.text("a");
    let against = [
        "--baseline",
        &baseline,
        "--fail-if",
        "nll > baseline + stderr",
        "--fail-if",
        "size_bytes > baseline",
    ];
    let (code, said) = place.run("b", &against);
    assert_eq!(code, 0, "{said}");
    let (code, said) = place.run("c", &["--baseline", &baseline, "--fail-if", "size_bytes > 0.5*baseline"]);
    assert_eq!((code, place.path("c/report.html").is_file()), (10, true), "{said}");
    let changed = json(&["report", "diff", &place.text("a"), &place.text("b/report.json")]);
    let metric = |name: &str| {
        changed["metrics"].as_array().unwrap().iter().find(|m| m["name"] == name).unwrap().clone()
    };
    assert_eq!(
        (&metric("size_bytes")["change"], &metric("ppl[novel]")["change"]),
        (&0.0.into(), &0.0.into())
    );
    assert_eq!((&changed["only_a"], &changed["only_b"]), (&Value::Array(vec![]), &Value::Array(vec![])));

    look_at(&place.path("a/report.html"), place.0.path());
}

#[test]
fn gates_that_cannot_be_judged_are_usage() {
    let place = Place::new("gates: {fail_if: ['kld_men > 9']}\n");
    let (code, said) = place.run("a", &[]);
    assert!(
        code == 2 && said.contains("gates.fail_if[0]: unknown metric `kld_men`; did you mean `kld_mean`?"),
        "{said}"
    );
    let plan = moepress(&["plan", &place.text("recipe.yaml")]);
    assert_eq!(plan.status.code(), Some(2));
    let place = Place::new("");
    for (condition, reason) in [
        ("nll > baseline", "--baseline FILE"),
        ("ppl[nvel] > 3", "unknown text `nvel`; did you mean `novel`?"),
        ("bpw > 1 + stderr", "`bpw` has no standard error"),
    ] {
        let (code, said) = place.run("a", &["--fail-if", condition]);
        assert!(code == 2 && said.contains(reason), "{condition}: {said}");
    }
    fs::write(place.path("other.json"), "{\"schema_version\": 1}").unwrap();
    let (code, said) =
        place.run("a", &["--baseline", &place.text("other.json"), "--fail-if", "nll > baseline"]);
    assert!(code == 3 && said.contains("other.json: file: is no report"), "{said}");
    assert!(!place.path("a").exists());
}

#[test]
fn an_evaluation_writes_the_same_reports() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (demo().display().to_string(), dir.path().join("report").display().to_string());
    let text = root().join("tests/fixtures/eval-text/novel.txt").display().to_string();
    let eval = ["eval", &model, "--text", &text, "--window", "64", "--windows", "1", "--report", &out];
    let printed = json(&eval);
    assert_eq!(read(&Path::new(&out).join("report.json")), printed);
    assert_eq!((&printed["command"], &printed["evaluation"]["original"]), (&"eval".into(), &Value::Null));
    let page = fs::read_to_string(Path::new(&out).join("report.html")).unwrap();
    assert!(page.contains("Evaluated with moepress") && Path::new(&out).join("report.md").is_file());
    let again = moepress(&eval);
    assert_eq!(again.status.code(), Some(2), "an output is never overwritten");
}

#[test]
fn a_proposed_recipe_can_be_planned() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (demo().display().to_string(), dir.path().join("recipe.yaml").display().to_string());
    let texts = DOMAINS.map(|name| root().join(format!("calibration/{name}.txt")).display().to_string());
    let mut args = vec!["init", "--model", &model, "--out", &out, "--text"];
    args.extend(texts.iter().map(String::as_str));
    let done = moepress(&args);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let recipe = fs::read_to_string(&out).unwrap();
    assert!(recipe.lines().filter(|line| line.trim_start().starts_with('#')).count() > 15, "{recipe}");
    let plan = json(&["plan", &out, "--set", "calibration.window=256", "--set", "evaluate.window=256"]);
    assert!(plan["after"]["bpw"].as_f64().unwrap() <= 4.01, "{plan}");
    assert_eq!(moepress(&args).status.code(), Some(2));
}

/// Renders a page in light and dark, wide and narrow, and checks what can be seen.
fn look_at(page: &Path, dir: &Path) {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let works = |name: &&&str| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    let Some(chromium) = names.iter().find(works) else {
        eprintln!("skipped: there is no chromium, so nobody looked at {}", page.display());
        return;
    };
    let mut shots = Vec::new();
    for (scheme, value) in [("dark", "0"), ("light", "1")] {
        for (width, height) in [(1000, 2600), (420, 2600)] {
            let shot = dir.join(format!("{scheme}-{width}.png"));
            let output = Command::new(chromium)
                .args([
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--hide-scrollbars",
                    "--force-color-profile=srgb",
                ])
                .arg(format!("--user-data-dir={}", dir.join("profile").display()))
                .arg(format!("--blink-settings=preferredColorScheme={value}"))
                .arg(format!("--window-size={width},{height}"))
                .arg(format!("--screenshot={}", shot.display()))
                .arg(format!("file://{}", page.display()))
                .output()
                .unwrap();
            assert!(shot.is_file(), "{}", String::from_utf8_lossy(&output.stderr));
            shots.push(shot);
        }
    }
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let looked =
        Command::new(python).arg(root().join("tests/python/screenshot.py")).args(shots).output().unwrap();
    assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stderr));
}
