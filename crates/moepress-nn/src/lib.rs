//! Decoder blocks on burn, driven by [`moepress_model::ModelSpec`].
//!
//! One decoder serves calibration and inference: a [`Block`] is made of [`Linear`] maps, dense or packed,
//! and lets a [`Watch`] see what flows through it. On the CPU every operation runs on the calling thread,
//! so that results do not depend on the number of threads; callers run independent sequences in parallel.

#![warn(missing_docs)]

mod attention;
mod block;
mod device;
mod ends;
mod linear;
mod moe;
mod ops;
mod watch;

pub use attention::{Attend, KeyValues, Rotary};
pub use block::{Block, BlockError, Mlp};
pub use burn::tensor::{Device, Int, Tensor, TensorData};
pub use device::{Backend, DeviceError};
pub use ends::{Ends, token_losses};
pub use linear::{Dense, Linear, MakeLinear, dense};
pub use moe::{Experts, Gated, Routed};
pub use ops::{add_rows, from_rows, rms_norm, select_rows, to_rows};
pub use watch::{Ignore, Side, Site, Watch};
