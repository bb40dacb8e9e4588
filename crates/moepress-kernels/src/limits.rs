//! What the processor can do at most: what the speed of kernels is compared with.

use crate::vector::by_processor;
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Instant;

/// Bytes that every thread reads: far more than caches hold.
const READ: usize = 256 << 20;
/// Times a limit is measured; the best counts, for nothing makes a machine faster than it is.
const ROUNDS: usize = 5;
/// Steps of a loop of arithmetic.
#[cfg(target_arch = "x86_64")]
const STEPS: usize = 1 << 20;

/// Limits of some threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Threads.
    pub threads: usize,
    /// Bytes per second read from memory.
    pub read: f64,
    /// f32 operations per second in fused multiply-adds, two each; none where there are no such instructions.
    pub fma: Option<f64>,
    /// The same in products of pairs of bf16.
    pub bf16: Option<f64>,
    /// Operations per second on bytes in products of fours, two for each product.
    pub int8: Option<f64>,
}

impl Limits {
    /// Measures them, which takes about two seconds; nothing else should run meanwhile.
    ///
    /// # Errors
    /// That many threads cannot be started.
    pub fn measure(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        Ok(pool.install(|| {
            let buffers: Vec<Vec<u64>> = (0..threads).into_par_iter().map(|_| vec![1; READ / 8]).collect();
            let arithmetic = |work: fn() -> u64| rate(threads, |_| work());
            Self {
                threads,
                read: rate(threads, |thread| {
                    black_box(sum(&buffers[thread]));
                    READ as u64
                }),
                fma: peak::fma().map(arithmetic),
                bf16: peak::bf16().map(arithmetic),
                int8: peak::int8().map(arithmetic),
            }
        }))
    }
}

/// The best rate at which all threads do work that counts itself.
fn rate(threads: usize, work: impl Fn(usize) -> u64 + Sync) -> f64 {
    let round = |_| {
        let started = Instant::now();
        let done: u64 = (0..threads).into_par_iter().with_max_len(1).map(&work).sum();
        done as f64 / started.elapsed().as_secs_f64().max(1e-9)
    };
    (0..ROUNDS).map(round).fold(0.0, f64::max)
}

by_processor! {
    fn sum(values: &[u64]) -> u64 {
        let mut sums = [0u64; 64];
        for values in values.as_chunks::<64>().0 {
            for lane in 0..64 {
                sums[lane] = sums[lane].wrapping_add(values[lane]);
            }
        }
        sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
    }
}

#[cfg(target_arch = "x86_64")]
mod peak {
    use super::{STEPS, black_box};
    use std::arch::x86_64::*;

    /// Chains that do not wait for each other.
    const CHAINS: usize = 16;

    pub(super) fn fma() -> Option<fn() -> u64> {
        #[target_feature(enable = "avx512f")]
        fn wide() -> u64 {
            let mut sums = [_mm512_set1_ps(black_box(1.0)); CHAINS];
            let factor = _mm512_set1_ps(black_box(0.5));
            for _ in 0..STEPS {
                for chain in 0..CHAINS {
                    sums[chain] = _mm512_fmadd_ps(sums[chain], factor, factor);
                }
            }
            black_box(sums);
            (STEPS * CHAINS * 16 * 2) as u64
        }
        #[target_feature(enable = "avx2,fma")]
        fn narrow() -> u64 {
            let mut sums = [_mm256_set1_ps(black_box(1.0)); CHAINS - 4];
            let factor = _mm256_set1_ps(black_box(0.5));
            for _ in 0..STEPS {
                for chain in 0..CHAINS - 4 {
                    sums[chain] = _mm256_fmadd_ps(sums[chain], factor, factor);
                }
            }
            black_box(sums);
            (STEPS * (CHAINS - 4) * 8 * 2) as u64
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            return Some(|| unsafe { wide() });
        }
        let there = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        // SAFETY: as above.
        there.then_some(|| unsafe { narrow() })
    }

    pub(super) fn bf16() -> Option<fn() -> u64> {
        #[target_feature(enable = "avx512f,avx512bf16")]
        fn pairs() -> u64 {
            let mut sums = [_mm512_set1_ps(black_box(0.0)); CHAINS];
            let factor = _mm512_cvtne2ps_pbh(sums[0], sums[0]);
            for _ in 0..STEPS {
                for chain in 0..CHAINS {
                    sums[chain] = _mm512_dpbf16_ps(sums[chain], factor, factor);
                }
            }
            black_box(sums);
            (STEPS * CHAINS * 32 * 2) as u64
        }
        // SAFETY: the processor has the instructions.
        is_x86_feature_detected!("avx512bf16").then_some(|| unsafe { pairs() })
    }

    pub(super) fn int8() -> Option<fn() -> u64> {
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn fours() -> u64 {
            let mut sums = [_mm512_set1_epi32(black_box(0)); CHAINS];
            let factor = _mm512_set1_epi32(black_box(0x0101_0101));
            for _ in 0..STEPS {
                for chain in 0..CHAINS {
                    sums[chain] = _mm512_dpbusd_epi32(sums[chain], factor, factor);
                }
            }
            black_box(sums);
            (STEPS * CHAINS * 64 * 2) as u64
        }
        // SAFETY: the processor has the instructions.
        is_x86_feature_detected!("avx512vnni").then_some(|| unsafe { fours() })
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod peak {
    pub(super) fn fma() -> Option<fn() -> u64> {
        None
    }
    pub(super) fn bf16() -> Option<fn() -> u64> {
        None
    }
    pub(super) fn int8() -> Option<fn() -> u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_sums() {
        let values: Vec<u64> = (0..640).collect();
        assert_eq!(sum(&values), 639 * 640 / 2);
    }
}
