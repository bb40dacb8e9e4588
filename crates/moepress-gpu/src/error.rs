//! Why a device cannot be used.

use crate::kernels::Coding;
use moepress_nn::DeviceError;

/// An error of computing on a device.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// There is no such device, or this build does not know it.
    #[error(transparent)]
    Device(#[from] DeviceError),
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
