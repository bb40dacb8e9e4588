//! Layers that predict several tokens, and what else files may hold beside the model.

use super::*;
use moepress_model::Edit;

/// A golden DeepSeek-V3 with one layer more than it runs.
fn with_extra() -> Model {
    let mut model = Model::golden("deepseek_v3");
    model.set("num_nextn_predict_layers", 1);
    model.insert("model.layers.3.eh_proj.weight", RawDtype::BF16, &[2, 4], (0..16).collect());
    model.insert("model.layers.3.eh_proj.weight_scale_inv", RawDtype::F32, &[1, 1], vec![7; 4]);
    model.insert("model.layers.3.mlp.experts.0.up_proj.weight", RawDtype::F8_E4M3, &[3], vec![0xff; 3]);
    model.insert("mtp.0.step", RawDtype::I64, &[], vec![9; 8]);
    model.insert("model.layers.3.empty", RawDtype::BF16, &[0, 4], vec![]);
    model
}

#[test]
fn layers_beyond_the_model_are_carried() {
    let model = with_extra();
    let (_dir, checkpoint) = model.open();
    let checkpoint = checkpoint.unwrap();
    let plain = Model::golden("deepseek_v3");
    assert_eq!(checkpoint.spec().carried.len(), 5);
    for (name, carried) in &checkpoint.spec().carried {
        let raw = checkpoint.carried(name).unwrap();
        assert_eq!(raw, model.tensors[name]);
        assert_eq!((&carried.shape, carried.bytes), (&raw.shape, raw.bytes.len() as u64));
        assert_eq!(carried.dtype, raw.dtype.to_string());
    }
    assert_eq!(read(&checkpoint).unwrap(), plain.read());
    // Announced and left out, as transformers saves them.
    let mut announced = plain.clone();
    assert_eq!(announced.set("num_nextn_predict_layers", 3).read(), plain.read());
    assert_eq!(announced.set("num_nextn_predict_layers", 0).read(), plain.read());
}

#[test]
fn other_tensors_are_refused() {
    let mut model = with_extra();
    model.set("num_nextn_predict_layers", 0);
    model.refused(&["model.layers.3.", "is not a tensor of the deepseek_v3 model"]);
    model.set("num_mtp_modules", 1);
    assert!(model.open().1.is_ok());
    for value in [json!(-1), json!(1.5), json!("1"), json!(4097), json!([1])] {
        model.set("num_mtp_modules", value);
        model.refused(&["config.json", "field `num_mtp_modules`", "must be an integer from 0 to 4096"]);
    }
    for name in [
        "model.layers.4.eh_proj.weight",
        "model.layers.2.eh_proj.weight",
        "model.layers.x.eh_proj.weight",
        "model.layers.3",
        "model.mtp.0.step",
        "mtp_head.weight",
        "visual.patch.weight",
    ] {
        let mut model = with_extra();
        model.insert(name, RawDtype::F32, &[1], vec![0; 4]);
        model.refused(&[&format!("tensor {name:?}"), "is not a tensor of"]);
    }
}

#[test]
fn buffers_are_ignored() {
    let mut model = Model::golden("mixtral");
    let before = model.read();
    model.insert("model.layers.0.self_attn.rotary_emb.inv_freq", RawDtype::F32, &[4], vec![0; 16]);
    model.insert("model.rotary_emb.inv_freq", RawDtype::F32, &[4], vec![0; 16]);
    assert_eq!(model.read(), before);
    let (_dir, checkpoint) = model.open();
    assert!(checkpoint.unwrap().spec().carried.is_empty());
}

#[test]
fn row_27_custom_code_is_never_run() {
    let mut model = Model::golden("deepseek_v2");
    model.set("auto_map", json!({"AutoModelForCausalLM": "modeling_deepseek.DeepseekV2ForCausalLM"}));
    let (dir, _) = model.open();
    fs::write(dir.path().join("modeling_deepseek.py"), "raise SystemExit").unwrap();
    let checkpoint = Checkpoint::open(&files(), dir.path()).unwrap();
    assert_eq!(checkpoint.notes(), ["config.json names custom code (auto_map): it is never run"]);
    model.set("model_type", "deepseek_v9");
    model.refused(&["field `model_type`", "`deepseek_v9` is not supported"]);
}

/// Writes a source as a compact checkpoint.
pub(super) fn compact(source: &dyn Source, dropped: bool, out: &Path) -> Checkpoint {
    struct Edited<'a>(&'a dyn Source, moepress_model::ModelSpec);
    impl Source for Edited<'_> {
        fn spec(&self) -> &moepress_model::ModelSpec {
            &self.1
        }
        fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
            self.0.tensor(tensor)
        }
        fn layer(&self, layer: usize) -> Result<moepress_model::LayerWeights, CheckpointError> {
            self.0.layer(layer)
        }
        fn carried(&self, name: &str) -> Result<RawTensor, CheckpointError> {
            self.0.carried(name)
        }
    }
    let edits = if dropped { vec![Edit::DropCarried] } else { vec![] };
    let source = Edited(source, source.spec().after(&edits).unwrap());
    let mut writer = CompactWriter::new(&files(), out, source.spec().layers.len()).unwrap();
    for layer in [None].into_iter().chain((0..source.spec().layers.len()).map(Some)) {
        let tensors = read(&source).unwrap().into_iter().filter(|(tensor, _)| tensor.layer() == layer);
        writer.write_shard(tensors).unwrap();
    }
    writer.write_carried(&source).unwrap();
    writer.write_manifest(source.spec(), BTreeMap::new(), "").unwrap();
    writer.publish().unwrap();
    Checkpoint::open(&files(), out).unwrap()
}

#[test]
fn compact_checkpoints_carry_or_drop() {
    let model = with_extra();
    let (dir, plain) = model.open();
    let plain = plain.unwrap();
    let out = dir.path().join("kept");
    let kept = compact(&plain, false, &out);
    kept.verify().unwrap();
    assert_eq!(kept.spec(), plain.spec());
    assert_eq!(read(&kept).unwrap(), read(&plain).unwrap());
    let raw: BTreeMap<String, RawTensor> =
        plain.spec().carried.keys().map(|name| (name.clone(), kept.carried(name).unwrap())).collect();
    assert!(raw.iter().all(|(name, raw)| *raw == model.tensors[name]));
    assert_eq!(fs::read(out.join("carried.safetensors")).unwrap(), encode_shard(&raw).unwrap());

    let out = dir.path().join("dropped");
    let dropped = compact(&plain, true, &out);
    assert!(dropped.spec().carried.is_empty() && !out.join("carried.safetensors").exists());
    assert_eq!(read(&dropped).unwrap(), read(&plain).unwrap());
    named(&dropped.carried("mtp.0.step").unwrap_err(), &["mtp.0.step", "is not carried along"]);
}

#[test]
fn every_family_round_trips_through_a_compact_checkpoint() {
    for family in FAMILIES {
        let dir = tempfile::tempdir().unwrap();
        let plain = Checkpoint::open(&files(), &golden(family.model_type)).unwrap();
        let compact = compact(&plain, false, &dir.path().join("out"));
        assert_eq!(compact.spec(), plain.spec());
        assert_eq!(read(&compact).unwrap(), read(&plain).unwrap(), "{}", family.model_type);
    }
}

#[test]
fn a_manifest_that_carries_something_else_is_refused() {
    let (dir, plain) = with_extra().open();
    let out = dir.path().join("out");
    compact(&plain.unwrap(), false, &out);
    let whole: Value = serde_json::from_slice(&fs::read(out.join("moepress.json")).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut Map<String, Value>), words: &[&str]| {
        let mut manifest = whole.clone();
        change(manifest["model"]["carried"].as_object_mut().unwrap());
        fs::write(out.join("moepress.json"), manifest.to_string()).unwrap();
        named(&Checkpoint::open(&files(), &out).err().unwrap(), words);
    };
    let norm = json!({"dtype": "BF16", "shape": [64], "bytes": 128});
    refused(
        &|c| drop(c.insert("model.norm.weight".into(), norm.clone())),
        &["model.carried", "model itself"],
    );
    refused(&|c| drop(c.insert("mtp.x".into(), norm.clone())), &["mtp.x", "missing"]);
    refused(
        &|c| drop(c.remove("mtp.0.step")),
        &["mtp.0.step", "is not a tensor of the model in moepress.json"],
    );
    refused(
        &|c| c["mtp.0.step"]["dtype"] = "U64".into(),
        &["I64 [] of 8 bytes instead of U64 [] of 8 bytes"],
    );
    refused(&|c| c["mtp.0.step"]["shape"] = json!([1]), &["mtp.0.step", "instead of I64 [1]"]);
    refused(&|c| c["mtp.0.step"]["bytes"] = json!(9), &["mtp.0.step", "of 9 bytes"]);
    refused(&|c| c["mtp.0.step"]["more"] = json!(9), &["moepress.json", "unknown field `more`"]);
    fs::write(out.join("moepress.json"), whole.to_string()).unwrap();
    let shard = out.join("carried.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let checkpoint = Checkpoint::open(&files(), &out).unwrap();
    named(&checkpoint.verify().unwrap_err(), &["carried.safetensors", "differs from its digest"]);
    bytes.pop();
    fs::write(&shard, &bytes).unwrap();
    named(&Checkpoint::open(&files(), &out).err().unwrap(), &["carried.safetensors", "length"]);
}

#[test]
fn a_source_that_does_not_keep_its_word_is_an_error() {
    struct Other(Checkpoint);
    impl Source for Other {
        fn spec(&self) -> &moepress_model::ModelSpec {
            self.0.spec()
        }
        fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
            self.0.tensor(tensor)
        }
        fn layer(&self, layer: usize) -> Result<moepress_model::LayerWeights, CheckpointError> {
            self.0.layer(layer)
        }
    }
    let (dir, plain) = with_extra().open();
    let source = Other(plain.unwrap());
    let mut writer = CompactWriter::new(&files(), &dir.path().join("out"), 3).unwrap();
    let error = writer.write_carried(&source).unwrap_err();
    assert!(error.to_string().ends_with("is not carried along"), "{error}");
}
