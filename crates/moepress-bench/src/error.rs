//! Why nothing was measured.

use moepress_checkpoint::CheckpointError;
use moepress_kernels::MatmulError;
use moepress_runtime::RuntimeError;

/// An error of measuring.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A product is impossible.
    #[error(transparent)]
    Product(#[from] MatmulError),
    /// No threads.
    #[error("cannot start threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A format that no matrix can be made up in.
    #[error("no matrix of format {0} can be made up to be measured")]
    Format(moepress_quant::Format),
    /// More tokens than the context holds.
    #[error("{asked} tokens are more than the context of the model, {context}")]
    Context {
        /// Tokens of the prompt and after it.
        asked: usize,
        /// Longest sequence.
        context: usize,
    },
}
