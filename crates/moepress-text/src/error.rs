//! What can go wrong between text and tokens.

use moepress_checkpoint::{CheckpointError, ErrorKind};
use std::path::PathBuf;

/// An error of reading, encoding or cutting text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The tokenizer or the text cannot be read, or is malformed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The text gives less than one window.
    #[error("{}: {found} tokens, but one window needs {needed} (give a longer text or a shorter window)", file.display())]
    TooShort {
        /// The text.
        file: PathBuf,
        /// Tokens in it.
        found: usize,
        /// Tokens of a window.
        needed: usize,
    },
    /// Less memory than tokenizing takes.
    #[error("{}: tokenizing it takes about {needed} bytes of memory, {available} are available (cut it into documents, one per line of a .jsonl file)", file.display())]
    Memory {
        /// The text.
        file: PathBuf,
        /// Bytes that tokenizing takes.
        needed: u64,
        /// Bytes that there are.
        available: u64,
    },
    /// Windows too short to predict anything.
    #[error("a window of {0} tokens predicts nothing (it needs 2 at least)")]
    Window(usize),
    /// What a protocol does not allow.
    #[error("{0}")]
    Protocol(&'static str),
}

impl TextError {
    /// What the error means to whoever started the run.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Checkpoint(error) => error.kind(),
            Self::TooShort { .. } => ErrorKind::BadInput,
            Self::Memory { .. } => ErrorKind::NoSpace,
            Self::Window(_) | Self::Protocol(_) => ErrorKind::Usage,
        }
    }
}
