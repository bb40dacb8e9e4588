//! Why a plan or a run ended early.

use moepress_calibrate::CalibrateError;
use moepress_checkpoint::{CheckpointError, ErrorKind};
use moepress_eval::EvalError;
use moepress_model::EditError;
use moepress_recipe::RecipeError;
use moepress_runtime::RuntimeError;
use moepress_stages::{ApplyError, StageError};
use moepress_stats::StatisticsError;
use moepress_text::TextError;

/// An error of planning or running a recipe, one line.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The recipe contradicts itself or the model.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A stage cannot do what it was told.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Text cannot be read or tokenized.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A sweep failed.
    #[error(transparent)]
    Calibrate(#[from] CalibrateError),
    /// A statistic cannot be used.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
    /// A decision does not fit the model it was taken for.
    #[error("a stage decided what the model does not allow: {0}")]
    Edit(#[from] EditError),
    /// Weights do not allow what was decided for them.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The result cannot be loaded.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The result cannot be evaluated.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A model cannot be put onto a device.
    #[error("{message}")]
    Device {
        /// Why not.
        message: String,
        /// What that means to whoever started the run.
        kind: ErrorKind,
    },
    /// More memory is needed than there is.
    #[error(
        "not enough memory: about {needed} bytes are needed, {available} are available (shorter or fewer windows, or fewer threads, need less)"
    )]
    Memory {
        /// Predicted peak.
        needed: u64,
        /// What the system can give.
        available: u64,
    },
    /// The request cannot be met as it stands.
    #[error("{0}")]
    Usage(String),
    /// The limit of the recipe is too low.
    #[error("a limit of {limit} bytes of memory is too low: at least {needed} bytes are needed{}", if *evaluation { " (for the evaluation; without `evaluate` less would do)" } else { "" })]
    Limit {
        /// The least that would do.
        needed: u64,
        /// What is allowed.
        limit: u64,
        /// Whether it is the evaluation that needs so much.
        evaluation: bool,
    },
    /// The report cannot be written as JSON.
    #[error("cannot encode the report: {0}")]
    Report(String),
    /// The caller asked for an end.
    #[error("interrupted")]
    Cancelled,
}

impl PipelineError {
    /// What the error means to whoever started the run; `None` when they interrupted it.
    pub fn kind(&self) -> Option<ErrorKind> {
        Some(match self {
            Self::Recipe(_) | Self::Stage(StageError::Recipe(_)) | Self::Usage(_) => ErrorKind::Usage,
            Self::Stage(StageError::Coverage(_)) => ErrorKind::BadInput,
            Self::Stage(StageError::Statistics(_)) | Self::Edit(_) | Self::Report(_) => ErrorKind::Io,
            Self::Checkpoint(e) => e.kind(),
            Self::Text(e) => e.kind(),
            Self::Runtime(e) => e.kind(),
            Self::Eval(e) => return e.kind(),
            Self::Calibrate(e) => return e.kind(),
            Self::Device { kind, .. } => *kind,
            Self::Cancelled => return None,
            Self::Statistics(_) | Self::Apply(_) => ErrorKind::BadInput,
            Self::Memory { .. } | Self::Limit { .. } => ErrorKind::NoSpace,
        })
    }
}
