//! Inference: loads a plain or a compact checkpoint and computes from the weights as they are
//! stored, so that a model needs the memory of its file.

mod blocks;
mod cache;
mod decoder;
mod error;
mod generate;
mod log_probabilities;
mod model;
mod packed;
pub mod rules;
mod sampling;
mod session;
#[cfg(test)]
mod toy;

pub use blocks::Blocks;
pub use cache::{ExpertId, MakePolicy, POLICIES, Policy, Replayed, Trace, Used, Visit, belady, replay};
pub use decoder::{CacheReport, OnMiss, Span};
pub use error::RuntimeError;
pub use generate::{Generated, Request, Stop, generate};
pub use log_probabilities::LogProbabilities;
pub use model::{DeviceDecoder, Model, check, expert_bytes};
pub use moepress_kernels::Precision;
pub use packed::packed;
pub use sampling::{Sampler, Sampling, likeliest};
pub use session::{Session, step_together};
