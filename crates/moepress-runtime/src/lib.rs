//! Inference on the CPU: loads a plain or a compact checkpoint and computes from the weights as they are
//! stored, so that a model needs the memory of its file.

mod decoder;
mod error;
mod generate;
mod model;
mod sampling;
mod session;
#[cfg(test)]
mod toy;

pub use error::RuntimeError;
pub use generate::{Generated, Request, Stop, generate};
pub use model::Model;
pub use moepress_kernels::Precision;
pub use sampling::{Sampling, likeliest};
pub use session::{Session, step_together};
