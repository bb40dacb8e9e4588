//! Inference on the CPU: loads a plain or a compact checkpoint and computes from the weights as they are
//! stored, so that a model needs the memory of its file.

mod cache;
mod decoder;
mod error;
mod generate;
mod model;
mod sampling;
mod session;
#[cfg(test)]
mod toy;

pub use cache::{ExpertId, MakePolicy, POLICIES, Policy, Replayed, Trace, Used, belady, replay};
pub use decoder::CacheReport;
pub use error::RuntimeError;
pub use generate::{Generated, Request, Stop, generate};
pub use model::{Model, expert_bytes};
pub use moepress_kernels::Precision;
pub use sampling::{Sampling, likeliest};
pub use session::{Session, step_together};
