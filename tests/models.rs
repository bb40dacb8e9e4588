//! Whole runs on models that are odd in one way; the numbers are rows of the table of malformed inputs.

#![allow(clippy::unwrap_used, clippy::panic)]

#[expect(dead_code, reason = "shared with other tests")]
mod common;

use common::{demo, json, moepress, root};
use moepress_checkpoint::{Files, OsFiles, RawDtype, RawTensor, Shards, encode_shard};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

/// A copy of the shipped model that can be changed, and a place for what is made of it.
struct Odd {
    dir: tempfile::TempDir,
    tensors: BTreeMap<String, RawTensor>,
    config: Value,
}

impl Odd {
    fn new() -> Self {
        let files: Arc<dyn Files> = Arc::new(OsFiles);
        let shards = Shards::open(&files, &demo()).unwrap();
        let tensors = shards.tensors().map(|(name, _)| (name.to_owned(), shards.read(name).unwrap()));
        let config = serde_json::from_slice(&fs::read(demo().join("config.json")).unwrap()).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), tensors: tensors.collect(), config }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Gives every weight of expert 3 in layer 2 the same bf16 number.
    fn fill(&mut self, bits: u16) {
        let expert =
            |(name, _): &(&String, &mut RawTensor)| name.starts_with("model.layers.2.mlp.experts.3.");
        let mut filled = 0;
        for (_, raw) in self.tensors.iter_mut().filter(expert) {
            assert_eq!(raw.dtype, RawDtype::BF16);
            raw.bytes.as_chunks_mut::<2>().0.fill(bits.to_le_bytes());
            filled += 1;
        }
        assert_eq!(filled, 3);
    }

    /// Writes the model and a recipe for it.
    fn recipe(&self, stages: &str) -> String {
        let model = self.dir.path().join("model");
        fs::create_dir_all(&model).unwrap();
        fs::copy(demo().join("tokenizer.json"), model.join("tokenizer.json")).unwrap();
        fs::write(model.join("config.json"), self.config.to_string()).unwrap();
        fs::write(model.join("model.safetensors"), encode_shard(&self.tensors).unwrap()).unwrap();
        let text = root().join("calibration/novel.txt").display().to_string();
        let recipe = format!(
            "version: 1\nmodel: model\ncalibration: {{files: [{text}], window: 64, windows: 2}}\nstages:\n{stages}\
             evaluate: {{files: [{text}], window: 64, windows: 1}}\n"
        );
        fs::write(self.path("recipe.yaml"), recipe).unwrap();
        self.path("recipe.yaml")
    }

    /// The report of a run, which must succeed.
    fn run(&self, stages: &str, out: &str) -> Value {
        json(&["run", &self.recipe(stages), "--out", &self.path(out)])
    }

    /// The line of a run that must end with 3.
    fn refuses(&self, stages: &str) -> String {
        let output = moepress(&["run", &self.recipe(stages), "--out", &self.path("refused")]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{error}");
        assert!(error.lines().filter(|line| line.starts_with("error: ")).count() == 1, "{error}");
        assert!(!fs::exists(self.path("refused")).unwrap());
        error
    }
}

const PRUNE: &str = "  - prune_atoms: {method: heapr, ratio: 0.1}\n  - quantize: {format: int4, group: 64}\n";

fn edits(out: &str) -> Vec<Value> {
    serde_json::from_slice(&fs::read(format!("{out}/edits.json")).unwrap()).unwrap()
}

#[test]
fn row_25_an_expert_of_zeros_goes_first() {
    let mut odd = Odd::new();
    odd.fill(0);
    let report = odd.run(PRUNE, "out");
    let kept: Vec<Value> = edits(&odd.path("out"))
        .into_iter()
        .filter(|edit| edit["edit"] == "keep_atoms" && edit["layer"] == 2 && edit["expert"] == 3)
        .collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0]["atoms"], json!([]));
    let notes = report["stages"][0]["notes"].to_string();
    assert!(notes.contains("experts have no atoms left"), "{notes}");
    let compact = &report["evaluation"]["compact"]["overall"];
    assert!(
        compact["likelihood"]["nll"].is_number() || compact["divergence"]["mean"].is_number(),
        "{compact}"
    );
    let warning = "layer 2 expert 3: the output is zero for every token that is routed there";
    assert!(report["notes"].to_string().contains(warning), "{}", report["notes"]);
    let report = odd.run("  - prune_experts: {method: reap, ratio: 0.0625}\n", "experts");
    assert!(report["notes"].to_string().contains(warning), "{}", report["notes"]);
    assert!(report["evaluation"]["compact"]["overall"]["divergence"]["mean"].is_number());
    let edit = edits(&odd.path("experts")).into_iter().find(|edit| edit["layer"] == 2).unwrap();
    assert!(!edit["experts"].as_array().unwrap().contains(&json!(3)), "{edit}");
}

#[test]
fn row_25_weights_that_are_no_numbers() {
    let mut odd = Odd::new();
    let name = "model.layers.2.mlp.experts.3.up_proj.weight";
    odd.tensors.get_mut(name).unwrap().bytes[34..36].copy_from_slice(&0x7fc0u16.to_le_bytes());
    let line = odd.refuses(PRUNE);
    assert!(line.contains(name) && line.contains("element 17 of data is not finite"), "{line}");
    let line = odd.refuses("  - quantize: {format: int4, group: 64}\n");
    assert!(line.contains(name), "{line}");
}

#[test]
fn row_26_sums_beyond_f32_are_refused() {
    let mut odd = Odd::new();
    odd.fill(0x7f7f);
    let line = odd.refuses(PRUNE);
    assert!(line.contains("not finite"), "{line}");
}

#[test]
fn row_27_custom_code_is_named_and_never_run() {
    let mut odd = Odd::new();
    odd.config["auto_map"] = json!({"AutoModelForCausalLM": "modeling.Model"});
    let recipe = odd.recipe("  - quantize: {format: int8, group: 64}\n");
    let note = "config.json names custom code (auto_map): it is never run";
    let model = odd.path("model");
    assert_eq!(json(&["inspect", &model])["notes"], json!([note]));
    assert!(String::from_utf8(moepress(&["inspect", &model]).stdout).unwrap().contains(note));
    assert_eq!(json(&["plan", &recipe])["notes"], json!([note]));
    odd.config["model_type"] = json!("qwen9_moe");
    let line = odd.refuses("  - quantize: {format: int8, group: 64}\n");
    assert!(line.contains("config.json: field `model_type`: `qwen9_moe` is not supported"), "{line}");
}

#[test]
fn layers_that_predict_several_tokens_are_dropped_or_kept() {
    let mut odd = Odd::new();
    odd.config["num_nextn_predict_layers"] = json!(1);
    let name = "model.layers.6.eh_proj.weight";
    let raw = RawTensor { dtype: RawDtype::BF16, shape: vec![8, 4], bytes: (0..64).collect() };
    odd.tensors.insert(name.into(), raw.clone());
    let recipe = odd.recipe("  - quantize: {format: int8, group: 64}\n");
    let dropped =
        "1 tensors of multi-token-prediction layers were left out (64 bytes); `mtp: keep` carries them along";
    let kept =
        "1 tensors of multi-token-prediction layers are carried along unchanged and never run (64 bytes)";
    for (mtp, note, bytes) in [("drop", dropped, Value::Null), ("keep", kept, json!(64))] {
        let set = format!("mtp={mtp}");
        let plan = json(&["plan", &recipe, "--set", &set]);
        assert_eq!(plan["notes"], json!([note]));
        let out = odd.path(mtp);
        let report = json(&["run", &recipe, "--out", &out, "--set", &set]);
        assert_eq!((&report["notes"], &report["after"]), (&json!([note]), &plan["after"]));
        assert_eq!(report["after"]["classes"]["carried"]["bytes"], bytes);
        assert_eq!(edits(&out)[0]["edit"] == "drop_carried", mtp == "drop");
        assert_eq!(json(&["inspect", &out, "--verify"])["size"], report["after"]);
        let shard = format!("{out}/carried.safetensors");
        match mtp {
            "keep" => {
                let whole = BTreeMap::from([(name.to_owned(), raw.clone())]);
                assert_eq!(fs::read(shard).unwrap(), encode_shard(&whole).unwrap());
            }
            _ => assert!(!fs::exists(shard).unwrap()),
        }
    }
}
