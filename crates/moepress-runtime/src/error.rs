//! Why a model cannot be loaded or run.

use moepress_checkpoint::{CheckpointError, ErrorKind};
use moepress_nn::BlockError;

/// An error of loading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Weights do not fit the description.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// There is nothing to run on.
    #[error("no tokens to run the model on")]
    Empty,
    /// A token that the model has no embedding for.
    #[error(
        "token {id} is not in the vocabulary of {vocab} tokens (is the tokenizer that of another model?)"
    )]
    Token {
        /// The token.
        id: u32,
        /// Embeddings of the model.
        vocab: usize,
    },
    /// More tokens than the model was made for.
    #[error("{tokens} tokens are more than the context of the model, {context}")]
    Context {
        /// Tokens of a sequence.
        tokens: usize,
        /// Longest sequence.
        context: usize,
    },
    /// Sequences of different lengths.
    #[error("{tokens} tokens are no {batch} sequences of equal length")]
    Batch {
        /// Tokens in all.
        tokens: usize,
        /// Sequences.
        batch: usize,
    },
    /// A temperature that is no temperature.
    #[error("temperature {0} must be 0 (always the likeliest token) or a number above")]
    Temperature(f64),
    /// A logit that is NaN or infinite.
    #[error("the model computes logits that are not finite: its weights are damaged")]
    NotFinite,
}

impl RuntimeError {
    /// What the error means to whoever started the run.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Checkpoint(error) => error.kind(),
            Self::Block(_) | Self::Token { .. } | Self::NotFinite => ErrorKind::BadInput,
            Self::Empty | Self::Context { .. } | Self::Batch { .. } | Self::Temperature(_) => {
                ErrorKind::Usage
            }
        }
    }
}
