//! Whole runs on every golden checkpoint: compress, verify, decode with numpy, evaluate, generate.

use crate::common::{json, moepress, root};
use crate::golden::{all, bits, config, folder, word};
use crate::{logits, tokenizer};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A golden checkpoint with a tokenizer, some text, and room for what is made of it.
struct Place {
    dir: tempfile::TempDir,
    name: String,
}

impl Place {
    fn new(name: &str) -> Self {
        let (dir, config) = (tempfile::tempdir().unwrap(), config(name));
        let model = dir.path().join("model");
        fs::create_dir(&model).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(folder(name).join(file), model.join(file)).unwrap();
        }
        let vocab = config["vocab_size"].as_u64().unwrap() as u32;
        fs::write(model.join("tokenizer.json"), tokenizer::bytes(vocab).to_string()).unwrap();
        // Golden models with fewer tokens than there are bytes know ASCII alone.
        for (from, to) in
            [("calibration/novel.txt", "calibrate.txt"), ("calibration/code.txt", "evaluate.txt")]
        {
            let text = fs::read_to_string(root().join(from)).unwrap();
            fs::write(dir.path().join(to), text.replace(|c: char| !c.is_ascii(), "")).unwrap();
        }
        Self { dir, name: name.into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The report of a run of these stages, which must succeed, and its output.
    fn run(&self, stages: &[&str], out: &str) -> (Value, PathBuf) {
        let stages: Vec<String> = stages.iter().map(|stage| format!("  - {stage}\n")).collect();
        let recipe = format!(
            "version: 1\nmodel: model\ncalibration: {{files: [calibrate.txt], window: 48, windows: 4}}\nstages:\n{}\
             evaluate: {{files: [evaluate.txt], window: 48, windows: 2}}\n",
            stages.concat()
        );
        let (file, out) = (self.path("recipe.yaml"), self.path(out));
        fs::write(&file, recipe).unwrap();
        (json(&["run", &word(file), "--out", &word(&out)]), out)
    }

    fn runs(&self, args: &[&str]) -> String {
        let output = moepress(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: moepress {args:?}: {error}", self.name);
        String::from_utf8(output.stdout).unwrap()
    }

    fn compresses(&self) {
        let mut stages = vec!["prune_experts: {method: reap, ratio: 0.25}"];
        // The folder of the family itself, not of a variant.
        if !self.name.contains('-') {
            stages.push("merge_experts: {method: m_smoe, ratio: 0.25}");
        }
        stages.extend([
            "prune_atoms: {method: heapr, ratio: 0.25}",
            "quantize: {format: int4, group: 32, classes: [experts, shared_experts, attention, embeddings, dense_mlp]}",
        ]);
        let (report, out) = self.run(&stages, "small");
        let name = &self.name;
        let shown = json(&["inspect", &word(&out), "--verify"]);
        assert_eq!(shown["size"], report["after"], "{name}");
        assert_eq!(shown["compact"]["verified"], true, "{name}");
        let (before, after) = (&report["before"]["classes"], &report["after"]["classes"]);
        for class in ["experts", "shared_experts", "attention", "embeddings", "dense_mlp"] {
            let (before, after) = (before[class]["bytes"].as_f64(), after[class]["bytes"].as_f64());
            assert_eq!(before.is_some(), after.is_some(), "{name}: {class}");
            // Narrow rows pay for a whole scale; biases stay as they are.
            assert!(after.is_none_or(|after| after < 0.6 * before.unwrap()), "{name}: {class}: {after:?}");
        }
        let overall = &report["evaluation"]["compact"]["overall"];
        assert!(overall["divergence"]["mean"].as_f64().unwrap() > 0.0, "{name}: {overall}");
        assert!(report["evaluation"]["original"]["overall"]["nll"].is_number(), "{name}");
        decodes(&out, name);

        let text = word(self.path("evaluate.txt"));
        let eval = ["eval", &word(&out), "--text", &text, "--window", "48", "--windows", "2", "--against"];
        let eval = json(&[&eval[..], &[&word(self.path("model"))]].concat());
        assert_eq!(&eval["evaluation"]["compact"]["overall"], overall, "{name}");
        self.runs(&["generate", &word(&out), "--prompt", "The old house", "-n", "48"]);
    }

    fn stays_as_it_is(&self) {
        let stages =
            ["prune_experts: {ratio: 0.0}", "merge_experts: {ratio: 0.0}", "prune_atoms: {ratio: 0.0}"];
        let (report, out) = self.run(&stages, "whole");
        assert_eq!(report["before"], report["after"], "{}", self.name);
        decodes(&out, &self.name);
        let ids = logits::ids(&self.name, self.dir.path());
        let of = |model: &Path, dir: &str| bits(&logits::logits(model, &ids, &self.path(dir)), "logits");
        assert!(of(&out, "compact") == of(&self.path("model"), "plain"), "{}: other logits", self.name);
        let words = ["--prompt", "It was", "-n", "40"];
        let text = |model: &Path| self.runs(&[&["generate", &word(model)], &words[..]].concat());
        assert_eq!(text(&out), text(&self.path("model")), "{}", self.name);
    }
}

/// The independent reader decodes every tensor.
fn decodes(out: &Path, name: &str) {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let run = Command::new(python).arg(root().join("tests/read_compact.py")).arg(out).output().unwrap();
    assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
    assert!(!run.stdout.is_empty(), "{name}");
}

/// The folders of a family.
fn of(family: &str) -> Vec<Place> {
    let ours = |name: &String| name.split('-').next() == Some(family);
    let places: Vec<Place> = all().iter().filter(|name| ours(name)).map(|name| Place::new(name)).collect();
    assert!(!places.is_empty());
    places
}

macro_rules! families {
    ($($family:ident),*) => {
        $(mod $family {
            #[test]
            fn compresses() {
                super::of(stringify!($family)).iter().for_each(super::Place::compresses);
            }

            #[test]
            fn stays_as_it_is_when_everything_is_kept() {
                super::of(stringify!($family)).iter().for_each(super::Place::stays_as_it_is);
            }
        })*

        #[test]
        fn no_folder_is_left_out() {
            let families = [$(stringify!($family)),*];
            let left = all().into_iter().find(|name| !families.contains(&name.split('-').next().unwrap()));
            assert_eq!(left, None);
        }
    };
}

families!(
    deepseek_v2,
    deepseek_v3,
    ernie4_5_moe,
    glm4_moe,
    gpt_oss,
    granitemoe,
    minimax_m2,
    mixtral,
    olmoe,
    phimoe,
    qwen2_moe,
    qwen3_moe
);
