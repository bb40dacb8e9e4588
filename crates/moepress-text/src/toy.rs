//! A checkpoint's text side, for tests.

use crate::{TextError, Tokenizer};
use moepress_checkpoint::{Files, OsFiles};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

/// A byte-level tokenizer without merges: one token per byte, ids 0..256, and one added token.
pub(crate) fn bytes() -> Value {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let shifted: Vec<u32> = (0..256).filter(|&b| !printable(b)).collect();
    let letter = |b: u32| match shifted.iter().position(|&s| s == b) {
        Some(place) => char::from_u32(256 + place as u32).unwrap(),
        None => char::from_u32(b).unwrap(),
    };
    let vocab: serde_json::Map<String, Value> = (0..256).map(|b| (letter(b).to_string(), b.into())).collect();
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [{"id": 256, "content": "<|end|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []}
    })
}

/// A directory with that tokenizer and other files.
pub(crate) fn checkpoint(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = bytes().to_string();
    for (name, text) in [("tokenizer.json", tokenizer.as_str())].iter().chain(files) {
        let mut file = OsFiles.create(&dir.path().join(name)).unwrap();
        file.write(text.as_bytes()).unwrap();
    }
    dir
}

/// Its tokenizer.
pub(crate) fn tokenizer(dir: &Path) -> Result<Tokenizer, TextError> {
    Tokenizer::open(&OsFiles, dir, 257)
}
