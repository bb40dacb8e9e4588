//! The read bandwidth of a device, measured.

use crate::GpuError;
use crate::device::{Buffer, Gpu};
use crate::kernels::probe::{UNITS, read};
use cubecl::prelude::{CubeCount, CubeDim};
use std::time::Instant;

/// Cubes of the probe: enough for any card.
const CUBES: u32 = 4096;
/// Times it is measured; the best counts, for nothing makes a device faster than it is.
const ROUNDS: usize = 5;

/// Bytes per second that kernels read from the memory of a device, over `bytes` of it (rounded to 16 MiB), which should be
/// several times its caches.
///
/// # Errors
/// The device has no room, or fails.
#[allow(unsafe_code)] // launches without bound checks
pub fn read_bandwidth(gpu: &Gpu, bytes: usize) -> Result<f64, GpuError> {
    let rounds = bytes.div_ceil(16 * (CUBES * UNITS) as usize).max(1);
    let (words, out) = (4 * rounds * (CUBES * UNITS) as usize, (CUBES * UNITS) as usize);
    let (words, out) = (gpu.empty(words), gpu.empty(out));
    let launch = || {
        // SAFETY: every unit reads one vector of each round, of which the buffer holds as many.
        unsafe {
            read::launch_unchecked(
                &gpu.client,
                CubeCount::Static(CUBES, 1, 1),
                CubeDim::new_1d(UNITS),
                words.arg(),
                out.arg(),
                rounds as u32,
            );
        }
    };
    let seconds = fastest(gpu, &out, ROUNDS, 4, launch)?;
    Ok(4.0 * words.len as f64 / seconds)
}

/// Seconds of one of `times` launches in a row, the best of `rounds`; `out` is what they write, and is waited for.
///
/// # Errors
/// The device fails.
pub fn fastest(
    gpu: &Gpu,
    out: &Buffer,
    rounds: usize,
    times: usize,
    mut launch: impl FnMut(),
) -> Result<f64, GpuError> {
    let wait = || gpu.read(&out.first(1)).map(drop);
    launch();
    wait()?;
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let started = Instant::now();
        (0..times).for_each(|_| launch());
        wait()?;
        best = best.min(started.elapsed().as_secs_f64() / times as f64);
    }
    Ok(best)
}
