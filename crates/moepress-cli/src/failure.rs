//! Why a command ended early: an exit code and one line.

use moepress_bench::BenchError;
use moepress_checkpoint::{CheckpointError, ErrorKind};
use moepress_eval::EvalError;
use moepress_gpu::GpuError;
use moepress_nn::DeviceError;
use moepress_pipeline::PipelineError;
use moepress_recipe::RecipeError;
use moepress_runtime::RuntimeError;
use moepress_text::TextError;
use serde_json::{Value, json};
use std::fmt::Display;

/// Exit code of a command whose results are complete but not good enough.
pub const GATES_FAILED: u8 = 10;

/// What an early end means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Unexpected: the system or moepress itself failed.
    Fault,
    /// The command line or the recipe is wrong.
    Usage,
    /// An input is malformed or not supported.
    BadInput,
    /// Not enough memory or disk space.
    NoSpace,
    /// The output is owned by another run.
    Owned,
    /// A signal of this number.
    Interrupted(u8),
}

/// An early end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: Reason,
    /// What, where, and how to fix it; one line.
    pub message: String,
}

impl Failure {
    /// Control characters in the message are escaped.
    pub fn new(reason: Reason, message: impl Display) -> Self {
        let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        Self { reason, message: message.to_string().chars().map(shown).collect() }
    }

    pub fn usage(message: impl Display) -> Self {
        Self::new(Reason::Usage, message)
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self.reason {
            Reason::Fault => 1,
            Reason::Usage => 2,
            Reason::BadInput => 3,
            Reason::NoSpace => 4,
            Reason::Owned => 5,
            Reason::Interrupted(signal) => 128 + signal,
        }
    }

    /// What `--json` prints in place of a result.
    pub fn document(&self) -> Value {
        let word = match self.reason {
            Reason::Fault => "fault",
            Reason::Usage => "usage",
            Reason::BadInput => "bad_input",
            Reason::NoSpace => "no_space",
            Reason::Owned => "owned",
            Reason::Interrupted(_) => "interrupted",
        };
        let error = json!({ "code": word, "exit_code": self.code(), "message": self.message });
        json!({ "schema_version": 1, "error": error })
    }

    /// An error of a library; without a kind it is an interruption, whose signal is filled in by
    /// [`crate::interrupt::Interrupt::blame`].
    fn of(kind: Option<ErrorKind>, error: &impl Display) -> Self {
        let reason = match kind {
            None => Reason::Interrupted(2),
            Some(ErrorKind::Usage) => Reason::Usage,
            Some(ErrorKind::BadInput) => Reason::BadInput,
            Some(ErrorKind::NoSpace) => Reason::NoSpace,
            Some(ErrorKind::Owned) => Reason::Owned,
            Some(ErrorKind::Io) => Reason::Fault,
        };
        Self::new(reason, error)
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        let reason = match error {
            DeviceError::NotBuilt(_) => Reason::Usage,
            DeviceError::NotFound(_) => Reason::NoSpace,
        };
        Self::new(reason, error)
    }
}

impl From<GpuError> for Failure {
    fn from(error: GpuError) -> Self {
        match error {
            GpuError::Device(error) => error.into(),
            _ => Self::of(Some(error.kind()), &error),
        }
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        Self::of(error.kind(), &error)
    }
}

impl From<EvalError> for Failure {
    fn from(error: EvalError) -> Self {
        Self::of(error.kind(), &error)
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        Self::of(Some(error.kind()), &error)
    }
}

impl From<TextError> for Failure {
    fn from(error: TextError) -> Self {
        Self::of(Some(error.kind()), &error)
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self::of(Some(error.kind()), &error)
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Checkpoint(error) => error.into(),
            BenchError::Runtime(error) => error.into(),
            BenchError::Format(_) | BenchError::Context { .. } => Self::usage(error),
            BenchError::Product(_) | BenchError::Threads(_) => Self::new(Reason::Fault, error),
        }
    }
}

impl From<RecipeError> for Failure {
    fn from(error: RecipeError) -> Self {
        Self::usage(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn errors_have_the_documented_codes() {
        let code = |failure: Failure| failure.code();
        let path = Path::new("m").to_owned();
        assert_eq!(code(CheckpointError::bad_input(&path, "a", "b").into()), 3);
        assert_eq!(code(CheckpointError::Usage { path: path.clone(), reason: "x".into() }.into()), 2);
        assert_eq!(code(CheckpointError::NoSpace { dir: path.clone(), needed: 2, free: 1 }.into()), 4);
        assert_eq!(code(CheckpointError::Owned { out: path.clone() }.into()), 5);
        assert_eq!(code(CheckpointError::Encode { reason: "x".into() }.into()), 1);
        assert_eq!(code(PipelineError::Memory { needed: 2, available: 1 }.into()), 4);
        assert_eq!(code(PipelineError::Cancelled.into()), 130);
        assert_eq!(code(TextError::TooShort { file: path, found: 1, needed: 2 }.into()), 3);
        assert_eq!(code(RuntimeError::Sampling("x".to_owned()).into()), 2);
        assert_eq!(Failure::new(Reason::Interrupted(15), "").code(), 143);
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(Failure::usage("a\nb\u{1b}[2J").message, "a\\nb\\u{1b}[2J");
    }
}
