//! Loading a model onto a device, in a build that knows devices and in one that does not.

use crate::GpuError;
use moepress_checkpoint::Source;
use moepress_nn::Backend;
use moepress_runtime::{Blocks, Model};

/// Loads a model onto the first device of a backend, to be run there.
///
/// # Errors
/// The backend is not built in or has no device; a weight cannot be read or does not fit the description; the device has
/// no room.
pub fn load(source: &dyn Source, backend: Backend) -> Result<Model, GpuError> {
    let device = backend.device()?;
    #[cfg(feature = "device")]
    if backend != Backend::Cpu {
        return crate::guard::guarded(|| crate::decoder::load(source, device));
    }
    drop(device);
    Ok(Model::load(source)?)
}

/// The same, to be evaluated there.
///
/// # Errors
/// As [`load`].
pub fn load_blocks(source: &dyn Source, backend: Backend) -> Result<Blocks, GpuError> {
    let device = backend.device()?;
    #[cfg(feature = "device")]
    if backend != Backend::Cpu {
        return crate::guard::guarded(|| crate::decoder::load_blocks(source, device));
    }
    drop(device);
    Ok(Blocks::load(source)?)
}
