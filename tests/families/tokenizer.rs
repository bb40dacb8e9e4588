//! A tokenizer for models with any vocabulary of up to 256: one token per byte.

use serde_json::{Map, Value, json};

/// `tokenizer.json` in which every byte below `vocab` is its own id.
pub fn bytes(vocab: u32) -> Value {
    // Byte-level BPE writes bytes that cannot be printed as the letters from U+0100 on.
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let letter = |b: u32| match printable(b) {
        true => char::from_u32(b).unwrap(),
        false => char::from_u32(256 + (0..b).filter(|&before| !printable(before)).count() as u32).unwrap(),
    };
    let vocab: Map<String, Value> = (0..vocab).map(|b| (letter(b).to_string(), b.into())).collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []}
    })
}
