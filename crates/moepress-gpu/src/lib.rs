//! Inference on GPUs: packed kernels in CubeCL, which run on CUDA (cargo feature `cuda`) and on Vulkan, Metal or DirectX
//! (`wgpu`). Without either feature this crate is empty.
//!
//! **Error bounds**, for finite inputs whose products and sums stay in the range of f32; ε = 2⁻²³, c = `cols`. All
//! weights and inputs are exact f32; only sums round: |y − ref| ≤ (c + 4) · ε · Σⱼ |xⱼ| mⱼ + c · 2⁻¹²⁴ · (1 + max |x| + max m), where
//! mⱼ is |wⱼ|, and in grouped formats with offsets scale · code + |offset|. The second term covers underflow: GPUs may
//! take subnormal numbers for zeros, among them the scale 2⁻¹²⁷ of `mxfp4`.

#![warn(missing_docs)]
#![cfg(feature = "device")]

mod bank;
mod device;
mod error;
mod kernels;
mod launch;
mod limits;
#[cfg(all(test, feature = "cuda"))]
mod cuda_source;

pub use bank::{Bank, Packer, coding_of};
pub use device::{Buffer, Gpu};
pub use error::GpuError;
pub use kernels::{Coding, FewShape, Level, ManyShape, Scaling, Segment, Work};
pub use launch::{Plan, Shape, matmul, product};
pub use limits::{fastest, read_bandwidth};
