//! Where tensors live: on the CPU, or on a GPU whose backend was built in.

use burn::tensor::Device;
use std::fmt;

/// A backend that tensors can be computed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// burn-flex, on the calling thread.
    Cpu,
    /// CUDA C++ through NVRTC; cargo feature `cuda`.
    Cuda,
    /// WGSL on Vulkan, Metal or DirectX; cargo feature `wgpu`.
    Wgpu,
}

/// A backend that cannot be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// It is not part of this build.
    #[error("this build has no {0} support (build with `--features {0}`, or use the CPU)")]
    NotBuilt(Backend),
    /// The system has no device for it, or no driver.
    #[error("no {0} device was found (is its driver installed? the CPU needs none)")]
    NotFound(Backend),
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
        })
    }
}

impl Backend {
    /// The first device of this backend. Devices are listed before one is opened: opening one that is not
    /// there would panic at the first operation.
    ///
    /// # Errors
    /// The backend is not built in, or has no device here.
    pub fn device(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "cuda")]
            Self::Cuda => first(self, burn::tensor::DeviceType::Cuda),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => first(self, burn::tensor::DeviceType::Wgpu),
            #[cfg(not(all(feature = "cuda", feature = "wgpu")))]
            missing => Err(DeviceError::NotBuilt(missing)),
        }
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn first(backend: Backend, kind: burn::tensor::DeviceType) -> Result<Device, DeviceError> {
    Device::enumerate(kind).into_vec().into_iter().next().ok_or(DeviceError::NotFound(backend))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there_and_others_say_why_not() {
        assert!(Backend::Cpu.device().is_ok());
        #[cfg(not(feature = "cuda"))]
        assert_eq!(
            Backend::Cuda.device().err().map(|e| e.to_string()).as_deref(),
            Some("this build has no cuda support (build with `--features cuda`, or use the CPU)")
        );
    }
}
