//! Why a model cannot be loaded or run.

use moepress_checkpoint::{CheckpointError, ErrorKind};
use moepress_kernels::MatmulError;
use moepress_model::Tensor;
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
    /// A tensor that the model needs and was not given in the right shape.
    #[error("{tensor} is missing or misshapen")]
    Weight {
        /// The tensor.
        tensor: Tensor,
    },
    /// Weights that do not fit what they are multiplied with.
    #[error(transparent)]
    Product(#[from] MatmulError),
    /// A budget that not even the experts of one token fit into.
    #[error("a memory budget of {budget} bytes is too small: {needed} are the least for this model")]
    Budget {
        /// The budget.
        budget: u64,
        /// Everything but the routed experts, as many of those as a token goes to, and low planes where these are kept.
        needed: u64,
    },
    /// Nothing to make do with where experts are not in memory.
    #[error(
        "no routed expert is stored in planes, of which the first could stand for all (quantize with codec: planes)"
    )]
    NoPlanes,
    /// The thread that reads ahead cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// A device that fails, or has not enough memory.
    #[error("{0}")]
    Device(String),
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
    /// A rule of sampling that is none, and why.
    #[error("{0}")]
    Sampling(String),
    /// A logit that is NaN or infinite.
    #[error("the model computes logits that are not finite: its weights are damaged")]
    NotFinite,
}

impl RuntimeError {
    /// What the error means to whoever started the run.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Checkpoint(error) => error.kind(),
            Self::Block(_)
            | Self::Weight { .. }
            | Self::Product(_)
            | Self::Token { .. }
            | Self::NotFinite => ErrorKind::BadInput,
            Self::Budget { .. } => ErrorKind::NoSpace,
            Self::Thread(_) | Self::Device(_) => ErrorKind::Io,
            Self::Empty | Self::NoPlanes | Self::Context { .. } | Self::Batch { .. } | Self::Sampling(_) => {
                ErrorKind::Usage
            }
        }
    }
}
