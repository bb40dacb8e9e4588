//! Why a device cannot be used.

#[cfg(feature = "device")]
use crate::kernels::Coding;
use moepress_checkpoint::{CheckpointError, ErrorKind};
use moepress_nn::{BlockError, DeviceError};
use moepress_runtime::RuntimeError;

/// An error of computing on a device.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// There is no such device, or this build does not know it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A model on the CPU cannot be loaded.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Less memory than the model takes.
    #[error("{device} has {there} bytes of memory, and the model takes at least {needed}")]
    Memory {
        /// Name of the device.
        device: String,
        /// Memory of the device, in bytes.
        there: u64,
        /// Weights, in bytes.
        needed: u64,
    },
    /// Weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Weights do not fit the description.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A buffer that the device does not offer.
    #[error("a buffer of {bytes} bytes is more than the device allows, {most}")]
    Buffer {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes that one buffer may have.
        most: u64,
    },
    /// More weights in one table than 32-bit indices reach.
    #[error("{bytes} bytes of weights in one layer are more than 32-bit indices reach")]
    TooLarge {
        /// Bytes so far.
        bytes: u64,
    },
    /// A matrix that only the CPU computes with.
    #[error("matrices of low rank are computed with on the CPU alone: use --device cpu")]
    LowRank,
    #[cfg(feature = "device")]
    /// A matrix among others of another format.
    #[error("a matrix of {found:?} among those of {expected:?}")]
    Coding {
        /// Of the others.
        expected: Coding,
        /// Of the matrix.
        found: Coding,
    },
    /// Inputs that are not `[n, cols]`.
    #[error("x has {found} elements instead of {n} rows of {cols}, the columns of the weights")]
    Input {
        /// Rows asked for.
        n: usize,
        /// Columns of the weights.
        cols: usize,
        /// Elements of x.
        found: usize,
    },
    /// What the driver says.
    #[error("the device failed: {0}")]
    Driver(String),
}

impl GpuError {
    /// What the error means to whoever started the run.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Device(_) | Self::LowRank => ErrorKind::Usage,
            Self::Runtime(error) => error.kind(),
            Self::Checkpoint(error) => error.kind(),
            Self::Block(_) | Self::Input { .. } => ErrorKind::BadInput,
            Self::Memory { .. } | Self::Buffer { .. } | Self::TooLarge { .. } => ErrorKind::NoSpace,
            #[cfg(feature = "device")]
            Self::Coding { .. } => ErrorKind::BadInput,
            Self::Driver(_) => ErrorKind::Io,
        }
    }
}

impl From<GpuError> for RuntimeError {
    fn from(error: GpuError) -> Self {
        Self::Device(error.to_string())
    }
}
