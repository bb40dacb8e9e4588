//! `moepress logits` against `transformers`.

use crate::common::moepress;
use crate::golden::{all, bits, folder, shards, word};
use moepress_checkpoint::Shards;
use std::fs;
use std::path::Path;

/// The reference's token ids, as the file that `--ids` reads.
pub fn ids(name: &str, dir: &Path) -> String {
    let reference = shards(&folder(name).join("reference"));
    let width = reference.info("input_ids").unwrap().shape[1];
    let ids = bits(&reference, "input_ids");
    let windows: Vec<&[u32]> = ids.chunks(width).collect();
    let file = dir.join(format!("{name}.json"));
    fs::write(&file, serde_json::to_string(&windows).unwrap()).unwrap();
    word(file)
}

/// What `moepress logits` writes for these ids.
pub fn logits(model: &Path, ids: &str, dir: &Path) -> Shards {
    fs::create_dir(dir).unwrap();
    let out = word(dir.join("model.safetensors"));
    let output = moepress(&["logits", &word(model), "--ids", ids, "--out", &out]);
    assert!(output.status.success(), "{model:?}: {}", String::from_utf8_lossy(&output.stderr));
    shards(dir)
}

/// None of the folders has a tokenizer.
#[test]
fn ids_give_the_logits_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    for name in all() {
        let found = logits(&folder(&name), &ids(&name, dir.path()), &dir.path().join(&name));
        let reference = shards(&folder(&name).join("reference"));
        let shape = |shards: &Shards| shards.info("logits").unwrap().shape.clone();
        assert_eq!(shape(&found), shape(&reference), "{name}");
        let values = |shards| bits(shards, "logits").into_iter().map(f32::from_bits).collect::<Vec<_>>();
        let (found, wanted) = (values(&found), values(&reference));
        let largest = wanted.iter().fold(0.0f32, |largest, logit| largest.max(logit.abs()));
        for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let apart = (found - wanted).abs();
            assert!(apart <= 2e-4 * largest, "{name}: logit {at} is {found} instead of {wanted}");
        }
    }
}
