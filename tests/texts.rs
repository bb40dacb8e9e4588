//! Text in every form a recipe allows, on the shipped model.

#![allow(clippy::unwrap_used)]

mod common;

use common::{DOMAINS, demo, json, moepress, root};
use serde_json::{Value, json as value};
use std::fs;
use std::path::{Path, PathBuf};

/// A folder with recipes and texts.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// A copy of the shipped model with other files of the tokenizer.
    fn model(&self, files: &[(&str, &str)]) {
        fs::create_dir(self.path("model")).unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(demo().join(name), self.path("model").join(name)).unwrap();
        }
        files.iter().for_each(|(name, text)| self.write(&format!("model/{name}"), text));
    }

    fn recipe(&self, model: &Path, texts: &str) -> String {
        let stages = "stages:\n  - prune_atoms: {ratio: 0.25}\n";
        let model = model.display();
        self.write("recipe.yaml", format!("version: 1\nmodel: {model}\n{texts}{stages}"));
        self.path("recipe.yaml").display().to_string()
    }

    /// The report of a run of a recipe, and the statistics it measured.
    fn run(&self, name: &str, texts: &str) -> (Value, Vec<u8>) {
        let recipe = self.recipe(&demo(), texts);
        let statistics = self.path(&format!("{name}.safetensors"));
        let (out, file) = (self.path(name).display().to_string(), statistics.display().to_string());
        let report = json(&["run", &recipe, "--out", &out, "--statistics", &file]);
        (report, fs::read(statistics).unwrap())
    }

    /// The line of a run that must end with code 3 and leave no output.
    fn refused(&self, model: &Path, texts: &str) -> String {
        let recipe = self.recipe(model, texts);
        let out = self.path("refused");
        let output = moepress(&["run", &recipe, "--out", out.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), error.lines().count()), (Some(3), 1), "{error}");
        assert!(!out.exists());
        error.trim_end().replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn novel() -> String {
    fs::read_to_string(root().join(format!("calibration/{}.txt", DOMAINS[0]))).unwrap()[..40_000].to_owned()
}

/// Cuts a text where no token of the shipped tokenizer crosses: between single ends of lines and words.
fn documents(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut parts = vec![];
    let mut start = 0;
    for at in 2..bytes.len() {
        let cut =
            bytes[at - 1] == b'\n' && !bytes[at - 2].is_ascii_whitespace() && bytes[at].is_ascii_alphabetic();
        if cut {
            parts.push(&text[start..at]);
            start = at;
        }
    }
    parts.push(&text[start..]);
    parts
}

fn lines(field: &str, documents: &[&str]) -> String {
    documents.iter().map(|document| format!("{}\n", value!({ field: document, "id": 1 }))).collect()
}

#[test]
fn one_text_measures_the_same_in_any_file() {
    let place = Place::new();
    let text = novel();
    let parts = documents(&text);
    assert!(parts.len() > 100);
    place.write("a.txt", &text);
    place.write("whole.jsonl", lines("text", &[&text]));
    place.write("parts.jsonl", format!("\n{}", lines("body", &parts).replace('\n', "\r\n")));
    for (policy, suffix) in [("", "first"), (", seed: 5", "drawn"), (", seed: 5, bos: window", "bos")] {
        let run = |name: &str, files: &str| {
            place.run(
                &format!("{name}-{suffix}"),
                &format!("calibration: {{files: [{files}], window: 64, windows: 3{policy}}}\n"),
            )
        };
        let (report, statistics) = run("text", "a.txt");
        assert_eq!(report["calibration"]["tokens"], 192);
        for (name, files) in [("whole", "whole.jsonl"), ("parts", "{file: parts.jsonl, field: body}")] {
            let (other, found) = run(name, files);
            assert!(found == statistics, "{name} {suffix}");
            assert_eq!(other["calibration"]["nll"], report["calibration"]["nll"]);
        }
    }
}

#[test]
fn a_mix_is_weighted_and_reported() {
    let place = Place::new();
    let text = novel();
    place.write("a.txt", &text);
    place.write("b.jsonl", lines("text", &documents(&text)));
    let texts = "calibration:\n  files:\n    - a.txt\n    - {file: b.jsonl, weight: 0.5}\n    - {file: a.txt, weight: 0.1}\n  \
                 window: 64\n  windows: 4\n  seed: 3\n  bos: window\nevaluate: {files: [b.jsonl], window: 64, windows: 2}\n";
    let (report, _) = place.run("mix", texts);
    let calibration = &report["calibration"];
    assert_eq!((&calibration["tokens"], &calibration["window"]), (&value!(448), &value!(64)));
    let sampling = &calibration["sampling"];
    assert_eq!((&sampling["seed"], &sampling["bos"]), (&value!(3), &value!("window")));
    let of = |key: &str| {
        sampling["files"].as_array().unwrap().iter().map(|file| file[key].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("file"), ["a.txt", "b.jsonl", "a.txt#2"]);
    assert_eq!(of("weight"), [1.0, 0.5, 0.1]);
    assert_eq!(of("windows"), [4, 2, 1]);
    assert_eq!(of("tokens"), [256, 128, 64]);
    assert_eq!(of("documents"), [1, documents(&text).len(), 1]);
    let sampling = &report["evaluation"]["sampling"];
    assert_eq!((&sampling["seed"], &sampling["bos"]), (&Value::Null, &value!("none")));
    assert_eq!(sampling["files"][0]["windows"], 2);

    // The recipe is part of the checkpoint, and means the same when it is read again.
    let resolved = fs::read_to_string(place.path("mix/recipe.yaml")).unwrap();
    assert!(
        resolved.contains("  - file: b.jsonl\n    field: text\n    chat: false\n    weight: 0.5\n"),
        "{resolved}"
    );
    let manifest: Value =
        serde_json::from_slice(&fs::read(place.path("mix/moepress.json")).unwrap()).unwrap();
    let inputs = manifest["inputs"]["calibration"].as_object().unwrap();
    assert_eq!(inputs.keys().collect::<Vec<_>>(), ["a.txt", "a.txt#2", "b.jsonl"]);
    let plan = |texts: &str| {
        let recipe = place.recipe(&demo(), texts);
        json(&["plan", &recipe])["peak_memory_bytes"].as_u64().unwrap()
    };
    assert!(plan(&texts.replace("weight: 0.5", "weight: 500")) > plan(texts));
}

#[test]
fn chats_are_read_through_the_template() {
    let place = Place::new();
    let template = "{% for m in messages %}{{ bos_token }}{{ m.role }}\n{{ m.content | trim }}\n{% endfor %}";
    let config = value!({ "bos_token": "<|endoftext|>", "chat_template": template }).to_string();
    place.model(&[("tokenizer_config.json", &config)]);
    let text = novel();
    let turn = |role: &str, part: &str| value!({ "role": role, "content": part });
    let parts = documents(&text);
    let chats = parts.chunks(2).map(|pair| {
        let turns: Vec<_> =
            pair.iter().zip(["user", "assistant"]).map(|(part, role)| turn(role, part)).collect();
        format!("{}\n", value!({ "messages": turns }))
    });
    place.write("chats.jsonl", chats.collect::<String>());
    let texts = "calibration: {files: [{file: chats.jsonl, chat: true}], window: 64, windows: 3}\n";
    let recipe = place.recipe(&place.path("model"), texts);
    let out = place.path("out").display().to_string();
    let report = json(&["run", &recipe, "--out", &out]);
    assert_eq!(report["calibration"]["tokens"], 192);

    // A template that gives up says why, and for which line.
    let broken = config.replace("{% for", "\\n{{ raise_exception('no\\\\nroles') }}{% for");
    place.write("model/tokenizer_config.json", broken);
    let line = place.refused(&place.path("model"), texts);
    assert_eq!(
        line,
        "error: chats.jsonl: line 1: chat_template of model/tokenizer_config.json: line 2: no\\nroles"
    );
    let line = place.refused(&demo(), texts);
    assert!(
        line.contains("tokenizer_config.json: chat_template: is missing, and so is chat_template.jinja"),
        "{line}"
    );
}

/// Row 35 of the corpus of malformed inputs: what is wrong with a text, and in which line.
#[test]
fn row_35_texts_that_are_none() {
    let place = Place::new();
    let (good, short) = (lines("text", &[&novel()[..1000]]), lines("text", &["three little words"]));
    for (name, bytes, reason) in [
        ("a.jsonl", b"".to_vec(), "a.jsonl: 0 tokens, but one window needs 2048"),
        ("a.jsonl", b" \n\n".to_vec(), "a.jsonl: 0 tokens"),
        ("a.jsonl", short.into_bytes(), " tokens, but one window needs 2048"),
        (
            "a.jsonl",
            [good.as_bytes(), b"{\"tekst\": \"a\"}\n"].concat(),
            "a.jsonl: line 2: has no field \"text\" (it has tekst;",
        ),
        ("a.jsonl", [good.as_bytes(), b"\n{\"text\": \"\xff\"}\n"].concat(), "a.jsonl: line 3: not UTF-8"),
        (
            "a.jsonl",
            [good.as_bytes(), b"{\"text\": [\"a\"]}\n"].concat(),
            "a.jsonl: line 2: field \"text\" is no text",
        ),
        (
            "a.jsonl",
            [good.as_bytes(), b"plain text\n"].concat(),
            "a.jsonl: line 2: expected value at column 1",
        ),
        ("a.txt", b"three little words".to_vec(), " tokens, but one window needs 2048"),
        ("a.txt", b"\n\r\n\xff".to_vec(), "a.txt: text: not UTF-8 at byte 3, in line 3"),
        ("a.txt", b"\xef\xbb\xbf \r\n".to_vec(), "a.txt: text: no text, only 3 bytes of white space"),
    ] {
        place.write(name, bytes);
        let texts = format!("calibration: {{files: [{name}], window: 2048, windows: 1}}\n");
        let line = place.refused(&big_context(&place), &texts);
        assert!(line.contains(reason), "{line}");
    }
}

/// The shipped model, told that it can read more than it was trained on.
fn big_context(place: &Place) -> PathBuf {
    let model = place.path("model");
    if !model.exists() {
        let config = fs::read_to_string(demo().join("config.json")).unwrap();
        place.model(&[(
            "config.json",
            &config.replace("\"max_position_embeddings\": 1024", "\"max_position_embeddings\": 4096"),
        )]);
    }
    model
}
