//! Any processor. Written so that compilers turn the loops over bytes and lanes into vectors: SSE2 on x86-64,
//! NEON on aarch64, whose baselines have them.

use super::{Grid, Isa, Met, TERNARY, middle};
use crate::activations::{Chunk, Integers, LANES};
use crate::part::Part;
use moepress_quant::{Packed, Scale};
use std::array::from_fn;

pub(super) fn rows(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>) {
    // SAFETY: nothing but the target's baseline is needed.
    unsafe { super::rows::<Portable, 2, 16>(x, w, first, out) }
}

struct Portable;

/// `N` bytes, zeros for those beyond `left`.
///
/// # Safety
/// The pointer is valid for reads of `left` bytes.
#[inline(always)]
pub(super) unsafe fn padded<const N: usize>(packed: *const u8, left: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let count = if left < N { left } else { N };
    // SAFETY: `count` bytes are there, and fit.
    unsafe { std::ptr::copy_nonoverlapping(packed, bytes.as_mut_ptr(), count) };
    bytes
}

/// −1, 0, 1 in fields of two bits (10, 00, 01) as 0, 1, 2.
#[inline(always)]
fn plus_one(byte: u8) -> u8 {
    byte << 1 & 0xaa | !(byte | byte >> 1) & 0x55
}

#[inline(always)]
fn pairs(bytes: [u8; 64]) -> [[u8; 64]; 4] {
    from_fn(|k| bytes.map(|byte| byte >> (2 * k) & 3))
}

/// 256 codes of three bits: a lane of sixteen is six bytes.
#[inline(always)]
pub(super) fn triples(bytes: [u8; 96]) -> [[u8; 64]; 4] {
    let mut codes = [[0; 64]; 4];
    for (lane, b) in bytes.as_chunks::<6>().0.iter().enumerate() {
        let word = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], 0, 0]);
        for (k, phase) in codes.iter_mut().enumerate() {
            for m in 0..4 {
                phase[4 * lane + m] = (word >> (12 * k + 3 * m) & 7) as u8;
            }
        }
    }
    codes
}

#[inline(always)]
fn nibbles(bytes: [u8; 128]) -> [[u8; 64]; 4] {
    from_fn(|k| from_fn(|i| bytes[8 * (i / 4) + 4 * (k / 2) + i % 4] >> (4 * (k % 2)) & 15))
}

#[inline(always)]
fn straight(bytes: [u8; 256]) -> [[u8; 64]; 4] {
    from_fn(|k| from_fn(|i| bytes[16 * (i / 4) + 4 * k + i % 4]))
}

// SAFETY: memory is read through references, `padded`, and where `left` allows it.
unsafe impl Isa for Portable {
    type Codes = [[u8; 64]; 4];
    type Lanes = [f32; LANES];
    type Spread = usize;

    #[inline(always)]
    unsafe fn unpack<const KIND: u8>(packed: *const u8, left: usize) -> Self::Codes {
        // SAFETY: the caller's promise.
        unsafe {
            match KIND {
                TERNARY => pairs(padded::<64>(packed, left).map(plus_one)),
                2 => pairs(padded(packed, left)),
                3 => triples(padded(packed, left)),
                4 => nibbles(padded(packed, left)),
                _ => straight(padded(packed, left)),
            }
        }
    }

    #[inline(always)]
    unsafe fn spread(count: usize) -> Self::Spread {
        count
    }

    #[inline(always)]
    unsafe fn numbers(bits: *const u16, left: usize, count: Self::Spread) -> Self::Lanes {
        from_fn(|d| match d * count / LANES {
            // SAFETY: number `i` is there.
            i if i < left => Scale::F16.value(unsafe { *bits.add(i) }),
            _ => 0.0,
        })
    }

    #[inline(always)]
    unsafe fn prefetch(_address: *const u8) {}

    #[inline(always)]
    unsafe fn zero() -> Self::Lanes {
        [0.0; LANES]
    }

    #[inline(always)]
    unsafe fn no_codes() -> Self::Codes {
        [[0; 64]; 4]
    }

    #[inline(always)]
    unsafe fn meet<const KIND: u8, const CENTRED: bool>(x: &Chunk) -> Met<Self::Lanes> {
        let total = |d: usize| match CENTRED {
            true => f32::from_bits((x.sums[d] << middle(KIND)) as u32),
            false => x.sums[d] as f32 * x.scales[d],
        };
        Met { scales: x.scales, totals: from_fn(total) }
    }

    #[inline(always)]
    unsafe fn add<const KIND: u8, const CENTRED: bool>(
        mut sums: Self::Lanes,
        codes: &Self::Codes,
        grid: &Grid<Self::Lanes>,
        x: &Chunk,
        met: &Met<Self::Lanes>,
    ) -> Self::Lanes {
        let mut dots = [0i32; LANES];
        for (codes, x) in codes.iter().zip(&x.codes) {
            for (d, dot) in dots.iter_mut().enumerate() {
                for i in 4 * d..4 * d + 4 {
                    *dot = dot.wrapping_add(i32::from(i16::from(codes[i]).wrapping_mul(i16::from(x[i]))));
                }
            }
        }
        for d in 0..LANES {
            if CENTRED {
                dots[d] = dots[d].wrapping_sub(met.totals[d].to_bits() as i32);
            }
            sums[d] += dots[d] as f32 * met.scales[d] * grid.scales[d];
            if !CENTRED {
                sums[d] += met.totals[d] * grid.offsets[d];
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn sum(lanes: Self::Lanes) -> f32 {
        let eight: [f32; 8] = from_fn(|i| lanes[i] + lanes[i + 8]);
        let four: [f32; 4] = from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
}
