//! Plain and compact checkpoints as directories: the golden models, changed in one way each.

mod carried;
mod hostile;
mod manifests;
mod packed;
mod spellings;

use crate::mutate::random;
use crate::*;
use moepress_model::families::FAMILIES;
use moepress_model::{Config, Place, Tensor, family};
use moepress_quant::Stored;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn files() -> Arc<dyn Files> {
    Arc::new(OsFiles)
}

/// A model directory in the making.
#[derive(Clone)]
struct Model {
    config: Map<String, Value>,
    tensors: BTreeMap<String, RawTensor>,
}

impl Model {
    /// A golden model.
    fn golden(name: &str) -> Self {
        let dir = golden(name);
        let config = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        let shards = Shards::open(&files(), &dir).unwrap();
        let names = shards.tensors().map(|(name, _)| name.to_owned());
        Self { config, tensors: names.map(|name| (name.clone(), shards.read(&name).unwrap())).collect() }
    }

    /// A model of that configuration whose tensors, where its family has them whole, are `fill(shape)`.
    fn new(config: Value, mut fill: impl FnMut(&[usize]) -> RawTensor) -> Self {
        let config = config.as_object().unwrap().clone();
        let family = family(Config(&config)).unwrap();
        let spec = (family.spec)(Config(&config)).unwrap();
        let mut tensors = BTreeMap::new();
        for tensor in spec.tensors() {
            if let [Place { name, slice: None }, ..] = &(family.places)(tensor)[..] {
                tensors.insert(name.clone(), fill(&spec.shape(tensor).unwrap()));
            }
        }
        Self { config, tensors }
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.config.insert(key.into(), value.into());
        self
    }

    fn insert(&mut self, name: &str, dtype: RawDtype, shape: &[usize], bytes: Vec<u8>) {
        self.tensors.insert(name.into(), RawTensor { dtype, shape: shape.to_vec(), bytes });
    }

    fn tensor(&mut self, name: &str) -> &mut RawTensor {
        self.tensors.get_mut(name).unwrap()
    }

    fn write(&self, dir: &Path) {
        fs::write(dir.join("config.json"), serde_json::to_vec(&self.config).unwrap()).unwrap();
        fs::write(dir.join("model.safetensors"), encode_shard(&self.tensors).unwrap()).unwrap();
    }

    fn open(&self) -> (tempfile::TempDir, Result<Checkpoint, CheckpointError>) {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path());
        let checkpoint = Checkpoint::open(&files(), dir.path());
        (dir, checkpoint)
    }

    /// All its tensors.
    fn read(&self) -> BTreeMap<Tensor, Stored> {
        let (_dir, checkpoint) = self.open();
        read(&checkpoint.unwrap()).unwrap()
    }

    /// Refuses to open, naming all of `words`.
    #[track_caller]
    fn refused(&self, words: &[&str]) {
        let error = self.open().1.err().unwrap_or_else(|| panic!("opens, without {words:?}"));
        named(&error, words);
    }

    /// Opens, and refuses to be read.
    #[track_caller]
    fn unreadable(&self, words: &[&str]) {
        let (_dir, checkpoint) = self.open();
        named(&read(&checkpoint.unwrap()).unwrap_err(), words);
    }
}

#[track_caller]
fn named(error: &CheckpointError, words: &[&str]) {
    let line = error.to_string();
    assert!(words.iter().all(|word| line.contains(word)) && !line.contains('\n'), "{line} without {words:?}");
    assert_eq!(error.kind(), ErrorKind::BadInput);
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden").join(name)
}

/// All tensors of a model: those outside the layers one by one, the others by layer.
fn read(source: &dyn Source) -> Result<BTreeMap<Tensor, Stored>, CheckpointError> {
    let spec = source.spec();
    let mut all = BTreeMap::new();
    for tensor in spec.tensors().into_iter().filter(|tensor| tensor.layer().is_none()) {
        all.insert(tensor, source.tensor(tensor)?);
    }
    for layer in 0..spec.layers.len() {
        let parts = source.layer(layer)?;
        all.extend(parts.into_iter().map(|(part, stored)| (Tensor::Layer(layer, part), stored)));
    }
    assert!(all.keys().copied().eq(spec.tensors().into_iter().collect::<std::collections::BTreeSet<_>>()));
    Ok(all)
}

/// Random bf16 numbers between −2 and 2.
fn noise(shape: &[usize]) -> RawTensor {
    let mut state = shape.iter().product::<usize>() as u64;
    let number = |_| ((random(&mut state) & 0x80ff) as u16 | 0x3f00).to_le_bytes();
    let bytes = (0..shape.iter().product::<usize>()).flat_map(number).collect();
    RawTensor { dtype: RawDtype::BF16, shape: shape.to_vec(), bytes }
}

/// A small configuration of Qwen3-MoE.
fn qwen(hidden: usize, width: usize) -> Value {
    json!({
        "model_type": "qwen3_moe", "hidden_size": hidden, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 8, "vocab_size": 16, "num_hidden_layers": 2, "num_experts": 3, "num_experts_per_tok": 2,
        "moe_intermediate_size": width, "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "tie_word_embeddings": true,
    })
}

#[test]
fn every_golden_model_is_read_whole() {
    let folders =
        fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = folders.filter(|name| golden(name).is_dir()).collect();
    assert!(FAMILIES.iter().all(|family| names.iter().any(|name| name == family.model_type)));
    for name in &names {
        let model = Model::golden(name);
        let checkpoint = Checkpoint::open(&files(), &golden(name)).unwrap_or_else(|e| panic!("{e}"));
        let spec = checkpoint.spec();
        assert!(checkpoint.notes().is_empty() && spec.carried.is_empty(), "{name}");
        let all = read(&checkpoint).unwrap();
        for (&tensor, stored) in &all {
            assert_eq!(Some(stored.shape()), spec.shape(tensor), "{name}: {tensor}");
            assert_eq!(Some(stored.format()), spec.format(tensor), "{name}: {tensor}");
            assert!(
                stored.to_f32().iter().any(|w| *w != 0.0) || stored.shape().len() == 1,
                "{name}: {tensor}"
            );
        }
        let weights: usize = all.values().map(Stored::len).sum();
        let on_disk: usize = model.tensors.values().map(|raw| raw.shape.iter().product::<usize>()).sum();
        assert_eq!(weights, on_disk, "{name}");
        assert_eq!(spec.total_weights(), on_disk as u64, "{name}");
    }
}

#[test]
fn a_tensor_that_is_not_there_is_an_error() {
    let checkpoint = Checkpoint::open(&files(), &golden("qwen3_moe")).unwrap();
    named(
        &checkpoint.tensor(Tensor::HeadBias).unwrap_err(),
        &["lm_head.bias", "is not a tensor of the model"],
    );
    named(&checkpoint.carried("model.norm.weight").unwrap_err(), &["is not carried along"]);
}
