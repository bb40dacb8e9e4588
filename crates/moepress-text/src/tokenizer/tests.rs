//! Tokenizers as they are, and as they should not be.

use super::*;
use crate::Stream;
use crate::toy::bytes;
use moepress_checkpoint::{ErrorKind, OsFiles};
use proptest::prelude::*;
use serde_json::{Value, json};

fn open(text: &[u8], vocab: usize) -> Result<Tokenizer, TextError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), text).unwrap();
    Tokenizer::open(&OsFiles, dir.path(), vocab)
}

fn open_value(value: &Value, vocab: usize) -> Result<Tokenizer, TextError> {
    open(value.to_string().as_bytes(), vocab)
}

#[test]
fn bytes_there_and_back() {
    let tokenizer = open_value(&bytes(), 257).unwrap();
    // Not truncated to two tokens, whatever the file says.
    assert_eq!(tokenizer.encode("ab cé").unwrap(), [97, 98, 32, 99, 195, 169]);
    assert_eq!(tokenizer.encode("a<|end|>").unwrap(), [97, 256]);
    assert_eq!(tokenizer.decode(&[97, 256]).unwrap(), "a<|end|>");
    assert_eq!(tokenizer.encode("").unwrap(), [0; 0]);
}

proptest! {
    #[test]
    fn a_stream_of_pieces_is_the_text(text in "\\PC{0,40}") {
        let tokenizer = open_value(&bytes(), 257).unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.clone());
        let mut stream = Stream::new(&tokenizer);
        let mut streamed = String::new();
        for id in ids {
            let piece = stream.push(id).unwrap();
            let broken = piece.contains(char::REPLACEMENT_CHARACTER);
            prop_assert!(!broken || text.contains(char::REPLACEMENT_CHARACTER));
            streamed.push_str(&piece);
        }
        streamed.push_str(&stream.finish().unwrap());
        prop_assert_eq!(streamed, text);
    }
}

#[test]
fn malformed_tokenizers_are_refused() {
    let whole = bytes().to_string();
    let with = |pointer: &str, value: Value| {
        let mut json = bytes();
        *json.pointer_mut(pointer).unwrap() = value;
        json.to_string()
    };
    let cases = [
        ("", "tokenizer: "),
        ("{}", "tokenizer: "),
        (&whole[..whole.len() / 2], "tokenizer: "),
        (&with("/model/merges", json!(["a zz"])), "tokenizer: "),
        (&with("/model/dropout", json!(0.5)), "model.dropout: makes tokens random"),
        (&with("/model/vocab/!", json!(400)), "token \"!\" has id 400, but the model has 257 embeddings"),
        (&with("/added_tokens", json!([])), ""),
    ];
    for (text, reason) in cases {
        match open(text.as_bytes(), 257) {
            Ok(_) => assert_eq!(reason, ""),
            Err(error) => {
                assert!(!reason.is_empty() && error.to_string().contains(reason), "{error}");
                assert_eq!(error.kind(), ErrorKind::BadInput);
            }
        }
    }
    let error = open_value(&bytes(), 256).err().unwrap().to_string();
    assert!(error.ends_with("token \"<|end|>\" has id 256, but the model has 256 embeddings"), "{error}");
    let missing = Tokenizer::open(&OsFiles, Path::new("nowhere"), 1).err().unwrap();
    assert_eq!(
        (missing.kind(), missing.to_string()),
        (ErrorKind::BadInput, "nowhere/tokenizer.json: file: missing".into())
    );
}

/// Files that the library reads and then breaks off at, or refuses late.
#[test]
fn row_33_tokenizers_that_break_off() {
    let special = json!({"SpecialToken": {"id": "[CLS]", "type_id": 0}});
    let template =
        json!({"type": "TemplateProcessing", "single": [special], "pair": [], "special_tokens": {}});
    for (pointer, value) in [
        ("/pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        ("/post_processor", template),
        ("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        ("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="})),
        ("/decoder", json!({"type": "Strip", "content": "a", "start": 9, "stop": 9})),
        (
            "/truncation",
            json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 9}),
        ),
        (
            "/padding",
            json!({"strategy": {"Fixed": 0}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 999, "pad_type_id": 0, "pad_token": "x"}),
        ),
        ("/model/vocab", json!({})),
        ("/model", json!({"type": "Unigram", "unk_id": 7, "vocab": [["a", -1.0]]})),
        ("/model", json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"})),
        (
            "/model",
            json!({"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 0}),
        ),
    ] {
        let mut file = bytes();
        *file.pointer_mut(pointer).unwrap() = value.clone();
        let used = open_value(&file, 257).and_then(|tokenizer| {
            let ids = tokenizer.encode("a bc")?;
            assert!(ids.iter().all(|&id| id < 257), "{value}");
            tokenizer.decode(&ids)
        });
        if let Err(error) = used {
            assert_eq!(
                (error.kind(), error.to_string().lines().count()),
                (ErrorKind::BadInput, 1),
                "{error}"
            );
        }
    }
    let mut zero = bytes();
    zero["pre_tokenizer"] = json!({"type": "FixedLength", "length": 0});
    let error = open_value(&zero, 257).unwrap().encode("a").unwrap_err().to_string();
    assert!(
        error.ends_with("tokenizer: the tokenizer cannot be used: it broke off at an unexpected value"),
        "{error}"
    );
}

#[test]
fn row_33_a_tokenizer_of_two_gigabytes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join(FILE)).unwrap().set_len(2 << 30).unwrap();
    let error = Tokenizer::open(&OsFiles, dir.path(), 257).err().unwrap();
    assert!(
        error.to_string().ends_with("2147483648 bytes, more than the 67108864 that such a file may have"),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::BadInput);
}
