//! The built binary, as a user meets it: words, exit codes, one line per error, nothing written on failure.

#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const COMMANDS: [&str; 15] = [
    "init", "doctor", "schema", "run", "plan", "stats", "sweep", "inspect", "eval", "compare", "report",
    "generate", "logits", "serve", "bench",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn demo() -> PathBuf {
    root().join("tests/fixtures/demo-qwen3-moe")
}

fn moepress(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moepress")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The message of a command that must end with `code`, with nothing on stdout and one line on stderr.
fn fails(code: i32, args: &[&str]) -> String {
    let output = moepress(args);
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert_eq!(stdout(&output), "", "{args:?}");
    let line = error.strip_prefix("error: ").and_then(|rest| rest.strip_suffix('\n'));
    let line = line.unwrap_or_else(|| panic!("{args:?}: {error:?}"));
    assert!(!line.contains('\n'), "{args:?}: {error:?}");
    line.to_owned()
}

/// Names below a directory, with contents.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let mut below = contents(&path);
                below.push((path, vec![]));
                below
            } else {
                let bytes = fs::read(&path).unwrap();
                vec![(path, bytes)]
            }
        })
        .collect();
    found.sort();
    found
}

/// A folder of its own with a recipe for the demo model or a copy of it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.dir.path().join(name), bytes).unwrap();
        self.path(name)
    }

    /// A copy of the demo model that may be damaged.
    fn model(&self) -> PathBuf {
        let copy = self.dir.path().join("model");
        fs::create_dir(&copy).unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(demo().join(name), copy.join(name)).unwrap();
        }
        copy
    }

    /// A small recipe: a calibration text and the stages given.
    fn recipe(&self, model: &Path, calibration: &Path, stages: &str) -> String {
        let (model, text) = (model.display(), calibration.display());
        self.write(
            "recipe.yaml",
            format!(
                "version: 1\nmodel: {model}\ncalibration:\n  files: [{text}]\n  window: 64\n  windows: 2\nstages:\n{stages}"
            ),
        )
    }

    /// The line of `moepress run` on that recipe, which must end with `code` and write nothing.
    fn refuses(&self, code: i32, recipe: &str, out: &str) -> String {
        let before = contents(self.dir.path());
        let line = fails(code, &["run", recipe, "--out", &self.path(out)]);
        assert_eq!(contents(self.dir.path()), before, "{line}");
        line
    }
}

fn novel() -> PathBuf {
    root().join("calibration/novel.txt")
}

const QUANTIZE: &str = "  - quantize: {format: int4, group: 64}\n";

#[test]
fn every_command_has_help_with_examples() {
    for command in COMMANDS {
        let output = moepress(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(stdout(&output).contains(&format!("Examples:\n  moepress {command} ")), "{command}");
    }
    let help = stdout(&moepress(&["--help"]));
    assert!(COMMANDS.iter().all(|command| help.contains(&format!("  {command} "))), "{help}");
    assert!(
        ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "10 ", "130 "]
            .iter()
            .all(|c| help.contains(&format!("\n  {c}")))
    );
    let version = format!("moepress {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&moepress(&["--version"])), version);
}

#[test]
fn wrong_words_are_usage() {
    assert_eq!(moepress(&[]).status.code(), Some(2));
    assert!(fails(2, &["insect", "x"]).contains("'inspect'"));
    assert!(fails(2, &["run", "r.yaml", "--tread", "2"]).contains("'--threads'"));
    assert!(fails(2, &["run", "r.yaml", "--threads", "0"]).contains("0 is not in"));
    assert!(fails(2, &["run", "r.yaml", "--fail-if", "kld_men>1"]).contains("did you mean `kld_mean`?"));
    assert_eq!(fails(2, &["run", "nowhere.yaml"]), "nowhere.yaml: file: missing");
    let model = demo().to_str().unwrap().to_owned();
    assert!(fails(2, &["eval", &model, "--text", "t", "--fail-if", "top1<1"]).contains("--against"));
    assert!(fails(2, &["generate", &model, "--prompt", ""]).contains("no text"));
    assert!(fails(3, &["inspect", "nowhere"]).contains("does not exist"));
}

#[test]
fn a_misspelt_key_is_found_in_its_line() {
    let place = Place::new();
    let recipe = place.recipe(&demo(), &novel(), "  - prune_atoms: {method: heapr, ratoi: 0.5}\n");
    let line = place.refuses(2, &recipe, "out");
    assert!(line.starts_with(&format!("{recipe}:8:")) && line.contains("did you mean `ratio`?"), "{line}");
    assert_eq!(fails(2, &["plan", &recipe]), line);
}

#[test]
fn damaged_models_are_refused() {
    let place = Place::new();
    let model = place.model();
    let recipe = place.recipe(&model, &novel(), QUANTIZE);
    let (config, weights) = (model.join("config.json"), model.join("model.safetensors"));
    let whole = (fs::read_to_string(&config).unwrap(), fs::read(&weights).unwrap());

    fs::write(&config, whole.0.replace("\"qwen3_moe\"", "\"qwen9_moe\"")).unwrap();
    let line = place.refuses(3, &recipe, "out");
    assert!(line.contains("config.json: field `model_type`: `qwen9_moe` is not supported"), "{line}");
    let many = whole.0.replace("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 4096");
    fs::write(&config, many.replace("\"num_local_experts\": 16", "\"num_local_experts\": 16384")).unwrap();
    let line = place.refuses(3, &recipe, "out");
    assert!(line.contains("field `num_hidden_layers`: 4096 layers of 16384 experts"), "{line}");
    fs::write(&config, &whole.0).unwrap();

    fs::write(&weights, &whole.1[..whole.1.len() - 1000]).unwrap();
    let line = place.refuses(3, &recipe, "out");
    assert!(line.contains("model.safetensors"), "{line}");

    // A tensor of another name in place of the one that is asked for.
    let name = b"\"model.norm.weight\"";
    let at = whole.1.windows(name.len()).position(|window| window == name).unwrap();
    let mut renamed = whole.1.clone();
    renamed[at + 1] = b'x';
    fs::write(&weights, renamed).unwrap();
    let line = place.refuses(3, &recipe, "out");
    assert!(line.contains("model.norm.weight"), "{line}");
}

#[test]
fn an_empty_text_is_refused() {
    let place = Place::new();
    let text = place.write("empty.txt", "");
    let recipe = place.recipe(&demo(), Path::new(&text), "  - prune_atoms: {ratio: 0.5}\n");
    let line = place.refuses(3, &recipe, "out");
    assert!(line.contains("empty.txt") && line.contains("no text"), "{line}");
}

#[test]
fn outputs_and_inputs_are_never_overwritten() {
    let place = Place::new();
    let model = place.model();
    let recipe = place.recipe(&model, &novel(), QUANTIZE);
    fs::create_dir(place.path("out")).unwrap();
    assert!(place.refuses(2, &recipe, "out").contains("output exists"));
    assert!(place.refuses(2, &recipe, "model").contains("is the model directory"));
    assert!(place.refuses(2, &recipe, "model/new").contains("is inside the model directory"));
    assert!(place.refuses(2, &recipe, "").contains("contains the model directory"));
    assert!(place.refuses(2, &recipe, "none/out").contains("parent directory does not exist"));
}

#[test]
fn errors_are_a_json_document_when_asked() {
    let output = moepress(&["inspect", "nowhere", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema_version"], 1);
    assert_eq!(document["error"]["code"], "bad_input");
    assert_eq!(document["error"]["message"], "nowhere: path: does not exist");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error: nowhere: path: does not exist\n");
    let usage: Value = serde_json::from_slice(&moepress(&["run", "--json"]).stdout).unwrap();
    assert_eq!(usage["error"]["code"], "usage");
}

#[test]
fn a_recipe_is_planned_run_and_judged() {
    let place = Place::new();
    let recipe = place.recipe(&demo(), &novel(), QUANTIZE);
    let plan: Value = serde_json::from_slice(&moepress(&["plan", &recipe, "--json"]).stdout).unwrap();
    let out = place.path("out");
    let run = moepress(&["run", &recipe, "--out", &out, "--json", "--fail-if", "size_ratio>0.01"]);
    assert_eq!(run.status.code(), Some(10), "{}", String::from_utf8_lossy(&run.stderr));
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(report["after"], plan["after"]);
    assert_eq!((&report["schema_version"], &report["gates"][0]["failed"]), (&1.into(), &true.into()));
    assert!(String::from_utf8_lossy(&run.stderr).contains("error: quality gate failed: size_ratio>0.01"));
    for name in ["moepress.json", "report.json", "report.md", "report.html"] {
        assert!(Path::new(&out).join(name).is_file(), "{name}");
    }

    let inspected: Value =
        serde_json::from_slice(&moepress(&["inspect", &out, "--verify", "--json"]).stdout).unwrap();
    assert_eq!(inspected["size"], report["after"]);
    assert_eq!(inspected["compact"]["verified"], true);

    let (original, text) = (demo(), root().join("tests/fixtures/eval-text/novel.txt"));
    let mut eval = vec!["eval", &out, "--text", text.to_str().unwrap(), "--windows", "1", "--window", "64"];
    eval.extend(["--against", original.to_str().unwrap(), "--json", "--fail-if", "kld_mean>5"]);
    let eval = moepress(&eval);
    assert_eq!(eval.status.code(), Some(0), "{}", String::from_utf8_lossy(&eval.stderr));
    let eval: Value = serde_json::from_slice(&eval.stdout).unwrap();
    assert_eq!(eval["evaluation"]["compact"]["overall"]["predictions"], 63);
    assert!(eval["evaluation"]["compact"]["overall"]["divergence"]["mean"].as_f64().unwrap() > 0.0);
    assert_eq!(eval["gates"][0]["failed"], false);

    // Nothing is loaded that the manifest does not vouch for.
    let stray = Path::new(&out).join("merges.txt");
    fs::write(&stray, "a b").unwrap();
    let line = fails(3, &["generate", &out, "--prompt", "a"]);
    assert!(line.contains("merges.txt: file: is not listed in moepress.json"), "{line}");
    fs::remove_file(&stray).unwrap();

    // One bit of a weight file: nothing runs on it.
    let shard = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
    let shard = shard.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).min().unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    assert!(fails(3, &["generate", &out, "--prompt", "a"]).contains("differs from its digest"));
}

#[test]
fn a_doctor_looks_before_hours_are_spent() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out").display().to_string();
    let check = |words: &[&str]| -> (Output, Value) {
        let output = moepress(&[words, &["--json"]].concat());
        let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        (output, document)
    };
    let states = |document: &Value| -> Vec<(String, String)> {
        let checks = document["checks"].as_array().unwrap().iter();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        checks.map(|check| (word(&check["name"]), word(&check["state"]))).collect()
    };
    let (output, document) = check(&["doctor", "--out", &out]);
    assert!(output.status.success() && document["rehearsal"].is_null(), "{document}");
    let names: Vec<String> = states(&document).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["processor", "memory", "cuda", "wgpu", "disk"]);

    let recipe = root().join("recipes/demo.yaml").display().to_string();
    let (output, document) = check(&["doctor", &recipe, "--out", &out]);
    assert!(output.status.success(), "{document}");
    let rehearsal = &document["rehearsal"];
    assert_eq!((&rehearsal["layers"], &rehearsal["of_layers"]), (&json!(1), &json!(6)));
    let number = |key: &str| rehearsal[key].as_f64().unwrap();
    assert!(number("seconds") > 0.0 && number("whole_seconds") > number("seconds"));
    assert!(number("tokens") < number("of_tokens"));

    // A recipe that cannot run is found out, with the exit code it would end with; the rest is told all the same.
    let (output, document) = check(&["doctor", &recipe, "--out", &out, "--max-memory", "1MiB"]);
    assert_eq!(output.status.code(), Some(4), "{document}");
    let failed: Vec<_> = states(&document).into_iter().filter(|(_, state)| state == "failed").collect();
    assert_eq!(failed[0].0, "recipe");
    let (output, _) = check(&["doctor", &recipe, "--out", &dir.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "something was left behind");
    assert_eq!(fails(2, &["doctor", "nowhere.yaml"]).lines().count(), 1);
}

#[test]
fn json_is_one_document_for_commands_that_write_text() {
    let dir = tempfile::tempdir().unwrap();
    let model = demo().display().to_string();
    let document = |words: &[&str]| -> Value {
        let output = moepress(&[words, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    let words = ["generate", &model, "--prompt", "The old house", "-n", "8"];
    let said = document(&words);
    let plain = stdout(&moepress(&words));
    assert_eq!(said["texts"][0]["text"].as_str().unwrap(), plain.trim_end_matches('\n'));
    assert_eq!((&said["texts"][0]["tokens"], &said["texts"][0]["stop"]), (&json!(8), &json!("length")));
    let several =
        document(&[&words[..], &["--texts", "3", "--temperature", "1", "--memory-budget", "12MB"]].concat());
    assert_eq!(several["texts"].as_array().unwrap().len(), 3);
    assert!(several["experts"]["uses"].as_u64().unwrap() > 0, "{several}");
    let file = dir.path().join("l.safetensors").display().to_string();
    let logits = document(&["logits", &model, "--prompt", "The old", "--out", &file]);
    assert_eq!((&logits["output"], &logits["shape"][2]), (&json!(file), &json!(4096)));
    assert!(document(&["init", "--model", &model])["recipe"].as_str().unwrap().contains("version: 1"));
}

#[test]
fn a_linked_model_is_as_good_and_text_seen_before_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("model");
    std::os::unix::fs::symlink(demo(), &link).unwrap();
    assert!(moepress(&["inspect", link.to_str().unwrap()]).status.success());
    let text = novel().display().to_string();
    let texts = format!("{{files: ['{text}'], window: 64, windows: 2}}");
    let recipe = dir.path().join("r.yaml");
    let stages = "  - prune_experts: {method: frequency, ratio: 0.05}\n  - prune_atoms: {ratio: 0.02, ranking: per_expert, align: 64}\n";
    let head = format!("version: 1\nmodel: {}\ncalibration: {texts}\nevaluate: {texts}\n", link.display());
    fs::write(&recipe, format!("{head}stages:\n{stages}")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_moepress"));
    // The usual output is made where nobody names one.
    let output = command.args(["run", "r.yaml", "--json"]).current_dir(dir.path()).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert!(dir.path().join("out/r/report.html").exists());
    let said = |value: &Value| value.to_string();
    assert!(said(&report["notes"]).contains("is measured on and evaluated on"), "{}", report["notes"]);
    assert!(said(&report["stages"][0]["notes"]).contains("0% of all experts go, 5% were asked for"));
    assert!(said(&report["stages"][1]["notes"]).contains("33.3333% of all atoms go, 2% were asked for"));
    assert!(report["losses"][0]["predicted"].as_f64().unwrap() > 0.0);
    for words in [["-n1", "--read-ahead"], ["--cache", "lru"], ["--used-before", "x"]] {
        let said = fails(2, &[&["generate", link.to_str().unwrap(), "--prompt", "a"][..], &words].concat());
        assert!(said.contains("--memory-budget"), "{said}");
    }
    assert!(
        fails(3, &["init", "--model", link.to_str().unwrap(), "--text", "nope.txt"]).contains("nope.txt")
    );
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let place = Place::new();
        let recipe = place.recipe(&demo(), &novel(), "  - prune_atoms: {ratio: 0.5}\n");
        let before = contents(place.dir.path());
        let mut command = Command::new(env!("CARGO_BIN_EXE_moepress"));
        command.args(["run", &recipe, "--out", &place.path("out"), "--threads", "1"]);
        // Long enough that the signal always comes before the end.
        command.args(["--set", "calibration.windows=64", "--set", "calibration.window=256"]);
        let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        while !Path::new(&place.path(".out.lock")).exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "error: interrupted\n");
        assert_eq!(contents(place.dir.path()), before);
    }
}

#[test]
fn logits_have_the_shape_asked_for() {
    let place = Place::new();
    let model = demo().to_str().unwrap().to_owned();
    let ids = place.write("ids.json", "[[1, 2, 3], [4, 5, 6]]");
    let out = place.path("logits.safetensors");
    let output = moepress(&["logits", &model, "--ids", &ids, "--out", &out]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = fs::read(&out).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    assert_eq!(header["logits"]["dtype"], "F32");
    assert_eq!(header["logits"]["shape"], serde_json::json!([2, 3, 4096]));

    let before = contents(place.dir.path());
    assert!(fails(2, &["logits", &model, "--ids", &ids, "--out", &out]).contains("exists"));
    let other = place.path("other");
    for (ids, reason) in [
        ("[[1, 2], [3]]", "[1]: has 1 ids, [0] has 2"),
        ("[[4096]]", "[0][0]: 4096 is no token id from 0 to 4095"),
        ("[1]", "must be a list of equally long lists"),
        ("[[1", "JSON"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), ids).unwrap();
        let line = fails(3, &["logits", &model, "--ids", file.path().to_str().unwrap(), "--out", &other]);
        assert!(line.contains(reason), "{line}");
    }
    assert_eq!(contents(place.dir.path()), before);
}

#[test]
fn equal_seeds_give_equal_texts() {
    let model = demo().to_str().unwrap().to_owned();
    let generate = |seed: &str| {
        let output = moepress(&[
            "generate",
            &model,
            "--prompt",
            "The old",
            "-n",
            "24",
            "--temperature",
            "1",
            "--seed",
            seed,
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        stdout(&output)
    };
    assert_eq!(generate("1"), generate("1"));
    assert_ne!(generate("1"), generate("2"));
}

#[test]
fn what_a_model_cannot_run_is_blamed_on_its_place() {
    let place = Place::new();
    let model = place.model();
    let path = model.to_str().unwrap();
    let (ids, out) = (place.write("ids.json", format!("[{:?}]", [1; 1025])), place.path("out"));
    let long = "1025 tokens are more than the context of the model, 1024";
    assert_eq!(fails(2, &["logits", path, "--ids", &ids, "--out", &out]), format!("{ids}: {long}"));
    let prompt = "\n".repeat(3000);
    for command in [
        vec!["generate", path, "--prompt", &prompt],
        vec!["logits", path, "--out", &out, "--prompt", &prompt],
    ] {
        let line = fails(2, &command);
        assert!(
            line.starts_with("--prompt: ") && line.ends_with("more than the context of the model, 1024"),
            "{line}"
        );
    }

    // Norm weights near the largest number there is: finite, but not what is computed with them.
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let at =
        |side: usize| start + header["model.norm.weight"]["data_offsets"][side].as_u64().unwrap() as usize;
    bytes[at(0)..at(1)].chunks_exact_mut(2).for_each(|weight| weight.copy_from_slice(&[0x7f, 0x7f]));
    fs::write(&weights, bytes).unwrap();
    let reason = format!("{path}: the model computes logits that are not finite: its weights are damaged");
    assert_eq!(fails(3, &["generate", path, "--prompt", "a"]), reason);
    assert_eq!(fails(3, &["logits", path, "--prompt", "a", "--out", &out]), reason);
}
