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
