//! `tokenizer.json`, as an untrusted file.

use crate::TextError;
use moepress_checkpoint::{CheckpointError, Files, read_file};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tokenizers::ModelWrapper;

const FILE: &str = "tokenizer.json";
/// The largest in use have a quarter of a million tokens and 35 MB.
const MAX_BYTES: u64 = 64 << 20;

/// Text to token ids and back, as the checkpoint defines it.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    vocab: usize,
}

impl Tokenizer {
    /// Opens `tokenizer.json` in `dir`, for a model with embeddings for `vocab` tokens.
    ///
    /// # Errors
    /// The file is missing, larger than 64 MB, malformed, random (BPE dropout), or has ids of `vocab` or more.
    pub fn open(files: &dyn Files, dir: &Path, vocab: usize) -> Result<Self, TextError> {
        let file = dir.join(FILE);
        let bytes = read_file(files, &file, MAX_BYTES)?;
        let mut inner = guarded(&file, || tokenizers::Tokenizer::from_bytes(&bytes))?;
        let bad = |field: &str, reason: String| Err(CheckpointError::bad_input(&file, field, reason).into());
        if let ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some_and(|dropout| dropout != 0.0)
        {
            return bad("model.dropout", "makes tokens random; only null is supported".into());
        }
        let last = inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).max();
        match last {
            None => return bad("model.vocab", "has no tokens".into()),
            Some((id, token)) if id as usize >= vocab => {
                return bad(
                    "vocabulary",
                    format!("token {token:?} has id {id}, but the model has {vocab} embeddings"),
                );
            }
            Some(_) => {}
        }
        // What a file says about padding and truncation is meant for batches of short inputs.
        inner.with_padding(None);
        guarded(&file, || inner.with_truncation(None).map(|_| ()))?;
        Ok(Self { inner, file, vocab })
    }

    /// Token ids of `text`, all below the `vocab` of [`Self::open`]; no special tokens are added.
    ///
    /// # Errors
    /// The tokenizer has no tokens for this text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let ids = guarded(&self.file, || self.inner.encode_fast(text, false))?.get_ids().to_vec();
        match ids.iter().find(|&&id| id as usize >= self.vocab) {
            None => Ok(ids),
            Some(id) => {
                let reason = format!("id {id} is not below {}, the embeddings of the model", self.vocab);
                Err(CheckpointError::bad_input(&self.file, "tokens", reason).into())
            }
        }
    }

    /// The text of token ids, special tokens included. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        guarded(&self.file, || self.inner.decode(ids, false))
    }
}

/// The library panics on some malformed files and texts; that is an error like any other.
fn guarded<T>(file: &Path, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TextError> {
    let reason = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the tokenizer cannot be used: it broke off at an unexpected value".into(),
    };
    Err(CheckpointError::bad_input(file, "tokenizer", reason).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stream;
    use moepress_checkpoint::{ErrorKind, OsFiles};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// A byte-level tokenizer without merges: one token per byte, ids 0..256, and one added token.
    fn bytes() -> Value {
        let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let shifted: Vec<u32> = (0..256).filter(|&b| !printable(b)).collect();
        let letter = |b: u32| match shifted.iter().position(|&s| s == b) {
            Some(place) => char::from_u32(256 + place as u32).unwrap(),
            None => char::from_u32(b).unwrap(),
        };
        let vocab: serde_json::Map<String, Value> =
            (0..256).map(|b| (letter(b).to_string(), b.into())).collect();
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
}
