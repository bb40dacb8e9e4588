//! `tokenizer.json`, as an untrusted file.

#[cfg(test)]
mod tests;

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

    /// The directory of the checkpoint.
    pub(crate) fn dir(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// The id of a token as it is written in the vocabulary.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether there is a token of this id.
    pub(crate) fn has(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
    }

    /// Token ids of `text`, all below the `vocab` of [`Self::open`]; no special tokens are added.
    ///
    /// # Errors
    /// The tokenizer has no tokens for this text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let ids = guarded(&self.file, || self.inner.encode_fast(text, false))?.get_ids().to_vec();
        self.checked(ids)
    }

    /// As [`Self::encode`], and for each token the bytes of `text` up to its end, which never become fewer.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub(crate) fn encode_with_ends(&self, text: &str) -> Result<(Vec<u32>, Vec<usize>), TextError> {
        let encoding = guarded(&self.file, || self.inner.encode(text, false))?;
        let mut end = 0;
        let ends = encoding.get_offsets().iter().map(|&(_, offset)| {
            // Tokens of one character share its offsets, and some trim white space from theirs.
            end = offset.clamp(end, text.len());
            end
        });
        Ok((self.checked(encoding.get_ids().to_vec())?, ends.collect()))
    }

    fn checked(&self, ids: Vec<u32>) -> Result<Vec<u32>, TextError> {
        match ids.iter().find(|&&id| id as usize >= self.vocab) {
            None => Ok(ids),
            Some(id) => {
                let reason = format!("id {id} is not below {}, the embeddings of the model", self.vocab);
                Err(CheckpointError::bad_input(&self.file, "tokens", reason).into())
            }
        }
    }

    /// As [`Self::encode`], with the special tokens that the tokenizer puts around a text by itself.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.checked(guarded(&self.file, || self.inner.encode_fast(text, true))?.get_ids().to_vec())
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
