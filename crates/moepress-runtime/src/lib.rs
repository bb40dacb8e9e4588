//! Inference on the CPU: loads a plain or a compact checkpoint and computes from the weights as they are
//! stored, so that a model needs the memory of its file.

mod error;
mod generate;
mod model;
mod packed;
mod session;
#[cfg(test)]
mod toy;

pub use error::RuntimeError;
pub use generate::{Generated, Sampling, Stop, generate, likeliest};
pub use model::{Model, check};
pub use packed::packed;
pub use session::Session;
