//! Several inputs and rows of weights, both bf16: AVX-512 BF16 (Cooper Lake, Zen 4 and later).

use crate::part::Part;
use std::arch::x86_64::*;
use std::array::from_fn;
use std::mem::transmute;

/// Rows of weights and of inputs that meet at a time: 24 sums and four weights in 32 registers.
const WEIGHTS: usize = 4;
const INPUTS: usize = 6;

pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
}

pub(super) fn rows(x: &[u16], w: &[u8], cols: usize, out: &mut Part<'_>) {
    debug_assert!(available());
    // SAFETY: `super::halves` names this function only where `available` holds.
    unsafe { enabled(x, w, cols, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn enabled(x: &[u16], w: &[u8], cols: usize, out: &mut Part<'_>) {
    let (inputs, weights) = (x.len() / cols, w.len() / (2 * cols));
    for start in (0..inputs).step_by(INPUTS) {
        // The last rows are done twice rather than by code of their own.
        let x: [&[u16]; INPUTS] = from_fn(|i| &x[(start + i).min(inputs - 1) * cols..][..cols]);
        for first in (0..weights).step_by(WEIGHTS) {
            let w: [&[u8]; WEIGHTS] = from_fn(|r| &w[(first + r).min(weights - 1) * 2 * cols..][..2 * cols]);
            let sums = meet(w, x, cols);
            for (r, sums) in sums.iter().enumerate().take(weights - first) {
                for (i, &sum) in sums.iter().enumerate().take(inputs - start) {
                    out.of_input(start + i)[first + r] = _mm512_reduce_add_ps(sum);
                }
            }
        }
    }
}

/// Lanes whose sums are the products of these rows, each of `cols` numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn meet(w: [&[u8]; WEIGHTS], x: [&[u16]; INPUTS], cols: usize) -> [[__m512; INPUTS]; WEIGHTS] {
    let mut sums = [[_mm512_setzero_ps(); INPUTS]; WEIGHTS];
    let mut weights = [load(w[0].as_ptr().cast(), 0, 0); WEIGHTS];
    for at in (0..cols).step_by(32) {
        let mask = if cols - at < 32 { u32::MAX >> (32 - (cols - at)) } else { u32::MAX };
        for r in 0..WEIGHTS {
            weights[r] = load(w[r].as_ptr().cast(), at, mask);
        }
        for i in 0..INPUTS {
            let x = load(x[i].as_ptr().cast(), at, mask);
            for r in 0..WEIGHTS {
                sums[r][i] = _mm512_dpbf16_ps(sums[r][i], weights[r], x);
            }
        }
    }
    sums
}

/// The numbers of a row from `at` on that the mask selects; they must be there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn load(row: *const i16, at: usize, mask: u32) -> __m512bh {
    // SAFETY: masked-out numbers are not touched, and the caller has the others; both types are 512 bits, whatever
    // they hold.
    unsafe { transmute::<__m512i, __m512bh>(_mm512_maskz_loadu_epi16(mask, row.wrapping_add(at))) }
}
