//! Why an evaluation ended early.

use moepress_calibrate::CalibrateError;
use moepress_checkpoint::ErrorKind;
use moepress_runtime::RuntimeError;

/// An error of evaluating a model.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The model cannot be run on the texts.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The model cannot be read layer by layer.
    #[error(transparent)]
    Walk(#[from] CalibrateError),
    /// There is nothing to predict.
    #[error("text {0:?} has no windows of at least 2 tokens, so nothing to predict")]
    Empty(String),
    /// No texts at all.
    #[error("no texts to evaluate on")]
    NoTexts,
    /// Two models that do not share a vocabulary.
    #[error("a vocabulary of {model} tokens cannot be compared with one of {against}")]
    Vocabulary {
        /// Tokens of the model.
        model: usize,
        /// Tokens of the one it is compared with.
        against: usize,
    },
    /// A likelihood or divergence that is NaN or infinite.
    #[error("text {0:?}: the model computes logits that are not finite: its weights are damaged")]
    NotFinite(String),
    /// The caller asked for an end.
    #[error("interrupted")]
    Cancelled,
}

impl EvalError {
    /// What the error means to whoever started the run; an interruption has no kind.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Runtime(error) => Some(error.kind()),
            Self::Walk(error) => error.kind(),
            Self::NotFinite(_) | Self::Empty(_) | Self::NoTexts => Some(ErrorKind::BadInput),
            Self::Vocabulary { .. } => Some(ErrorKind::Usage),
            Self::Cancelled => None,
        }
    }
}
