//! What the machine could do at most.

use crate::BenchError;
use moepress_kernels::Limits;
use serde::Serialize;

/// Limits of some threads together, in units that figures are compared in.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Roofline {
    /// Threads.
    pub threads: usize,
    /// Gigabytes per second read from memory.
    pub read_gb_per_s: f64,
    /// Billions of f32 operations per second in fused multiply-adds.
    pub fma_gflops: Option<f64>,
    /// The same in products of pairs of bf16.
    pub bf16_gflops: Option<f64>,
    /// Billions of operations per second on bytes in products of fours (VNNI).
    pub int8_gops: Option<f64>,
}

impl Roofline {
    /// Measures it, which takes about two seconds.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn measure(threads: usize) -> Result<Self, BenchError> {
        let Limits { threads, read, fma, bf16, int8 } = Limits::measure(threads)?;
        let billions = |rate: f64| rate / 1e9;
        Ok(Self {
            threads,
            read_gb_per_s: billions(read),
            fma_gflops: fma.map(billions),
            bf16_gflops: bf16.map(billions),
            int8_gops: int8.map(billions),
        })
    }

    /// A rate of reading as per cent of what memory gives.
    pub fn of_read(&self, gb_per_s: f64) -> f64 {
        100.0 * gb_per_s / self.read_gb_per_s
    }

    /// A rate of operations as per cent of the fastest arithmetic there is.
    pub fn of_arithmetic(&self, gops: f64) -> f64 {
        let most = [self.int8_gops, self.bf16_gflops, self.fma_gflops].into_iter().flatten();
        100.0 * gops / most.fold(f64::MIN_POSITIVE, f64::max)
    }
}
