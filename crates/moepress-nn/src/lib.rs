//! Decoder blocks on burn, driven by [`moepress_model::ModelSpec`].
//!
//! One decoder serves calibration and inference: a [`Block`] is made of [`Linear`] maps, dense or packed,
//! and lets a [`Watch`] see what flows through it. On the CPU every operation runs on the calling thread,
//! so that results do not depend on the number of threads; callers run independent sequences in parallel.

#![warn(missing_docs)]

mod attention;
mod block;
mod build;
mod device;
mod ends;
mod linear;
mod moe;
mod ops;
mod rotary;
mod routing;
mod watch;

pub use attention::{Attend, KeyValues};
pub use block::{Block, Mlp, dense_mlp};
pub use build::{BlockError, Builder};
pub use burn::tensor::{Device, Int, Tensor, TensorData};
#[cfg(feature = "extension")]
pub use burn::{backend::Cube, tensor::DType};
pub use device::{Backend, DeviceError};
pub use ends::{Embedding, Head, token_losses};
pub use linear::{Dense, Linear, MakeLinear, dense};
pub use moe::{Expert, Experts, Gated, Mixture, Routed};
pub use ops::{Norm, add_rows, from_rows, select_rows, to_rows};
pub use rotary::Rotary;
pub use watch::{Ignore, Side, Site, Watch};
