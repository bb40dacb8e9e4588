//! Inference on GPUs: packed kernels in CubeCL, which run on CUDA (cargo feature `cuda`) and on Vulkan, Metal or DirectX
//! (`wgpu`). Without either feature there is only the
//! message that says so.
//!
//! **Error bounds**, for finite inputs whose products and sums stay in the range of f32; ε = 2⁻²³, c = `cols`. All
//! weights and inputs are exact f32; only sums round: |y − ref| ≤ (c + 4) · ε · Σⱼ |xⱼ| mⱼ + c · 2⁻¹²⁴ · (1 + max |x| + max m), where
//! mⱼ is |wⱼ|, and in grouped formats with offsets scale · code + |offset|. The second term covers underflow: GPUs may
//! take subnormal numbers for zeros, among them the scale 2⁻¹²⁷ of `mxfp4`.

#![warn(missing_docs)]

#[cfg(feature = "device")]
mod bank;
#[cfg(all(test, feature = "cuda"))]
mod cuda_source_tests;
#[cfg(feature = "device")]
mod decoder;
#[cfg(feature = "device")]
mod device;
mod error;
#[cfg(feature = "device")]
mod guard;
#[cfg(feature = "device")]
mod kernels;
#[cfg(feature = "device")]
mod launch;
#[cfg(feature = "device")]
mod limits;
#[cfg(feature = "device")]
mod map;
#[cfg(feature = "device")]
mod mixture;
mod open;

pub use error::GpuError;
pub use open::{load, load_blocks};

#[cfg(feature = "device")]
pub use {
    bank::{Bank, Packer, coding_of},
    device::{Buffer, Gpu},
    kernels::{Coding, FewShape, Level, ManyShape, Scaling, Segment, Work},
    launch::{Plan, Shape, matmul, product},
    limits::{fastest, read_bandwidth},
};
