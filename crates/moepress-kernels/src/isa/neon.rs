//! NEON of aarch64, with dot products of bytes where the processor has them (Armv8.2 and later).

use super::portable::triples;
use super::{Grid, Isa, Met, TERNARY, middle};
use crate::activations::{Chunk, Integers, LANES};
use crate::part::Part;
use moepress_quant::Packed;
use std::arch::aarch64::*;
use std::arch::asm;
use std::arch::is_aarch64_feature_detected;
use std::array::from_fn;

pub(super) fn has_dot_products() -> bool {
    is_aarch64_feature_detected!("dotprod")
}

pub(super) fn rows(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>) {
    // SAFETY: every aarch64 processor has NEON.
    unsafe { of_inputs::<false>(x, w, first, out) }
}

pub(super) fn rows_by_dot_products(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>) {
    debug_assert!(has_dot_products());
    // SAFETY: `kernels` lists this function only where `has_dot_products` holds.
    unsafe { enabled(x, w, first, out) }
}

#[target_feature(enable = "neon,dotprod")]
fn enabled(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>) {
    // SAFETY: this function has the features that the methods of `Neon<true>` need.
    unsafe { of_inputs::<true>(x, w, first, out) }
}

#[inline(always)]
unsafe fn of_inputs<const DOT: bool>(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.n {
            1 => super::rows::<Neon<DOT>, 1, 1>(x, w, first, out),
            _ => super::rows::<Neon<DOT>, 2, 8>(x, w, first, out),
        }
    }
}

/// With dot products of bytes, or with products of halves.
struct Neon<const DOT: bool>;

/// Where `N` bytes are: in place, or copied with zeros for those beyond `left`.
///
/// # Safety
/// The pointer is valid for reads of `left` bytes.
#[inline(always)]
unsafe fn whole<const N: usize>(packed: *const u8, left: usize, copy: &mut [u8; N]) -> *const u8 {
    if left >= N {
        return packed;
    }
    // SAFETY: `left` bytes are there, and fit.
    unsafe { std::ptr::copy_nonoverlapping(packed, copy.as_mut_ptr(), left) };
    copy.as_ptr()
}

/// −1, 0, 1 in fields of two bits (10, 00, 01) as 0, 1, 2.
#[inline(always)]
unsafe fn plus_one(x: uint8x16_t) -> uint8x16_t {
    // SAFETY: registers only.
    unsafe {
        let any = vorrq_u8(x, vshrq_n_u8::<1>(x));
        let zero = vbicq_u8(vdupq_n_u8(0x55), any);
        vorrq_u8(vandq_u8(vshlq_n_u8::<1>(x), vdupq_n_u8(0xaa)), zero)
    }
}

/// The four phases of codes of two bits.
#[inline(always)]
unsafe fn pairs(x: uint8x16_t) -> [uint8x16_t; 4] {
    // SAFETY: registers only.
    unsafe {
        let mask = vdupq_n_u8(3);
        [
            vandq_u8(x, mask),
            vandq_u8(vshrq_n_u8::<2>(x), mask),
            vandq_u8(vshrq_n_u8::<4>(x), mask),
            vshrq_n_u8::<6>(x),
        ]
    }
}

/// f16 bits of finite numbers as f32.
#[inline(always)]
unsafe fn widened(bits: uint16x4_t) -> float32x4_t {
    // SAFETY: registers only.
    unsafe {
        let bits = vmovl_u16(bits);
        // The exponents differ by 112; subnormal numbers come out right too.
        let size = vreinterpretq_f32_u32(vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7fff))));
        let size = vmulq_n_f32(size, f32::from_bits((127 + 112) << 23));
        let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
        vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(size), sign))
    }
}

/// Quarter `at` of sixteen numbers of four bytes.
#[inline(always)]
unsafe fn quarter<T>(values: &[T; LANES], at: usize) -> uint32x4_t {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: sixteen numbers of four bytes, of which four are read.
    unsafe { vld1q_u32(values.as_ptr().add(4 * at).cast()) }
}

/// Adds the sums of four products of bytes each, with codes that are no larger than 15 (`SMALL`) or any.
#[inline(always)]
unsafe fn dot<const DOT: bool, const SMALL: bool>(codes: [int8x16_t; 4], x: [int8x16_t; 4]) -> int32x4_t {
    // SAFETY: registers only; the instruction for dot products is there where `DOT` is.
    unsafe {
        if DOT {
            let mut sums = vdupq_n_s32(0);
            for k in 0..4 {
                // The intrinsic for it is not stable.
                asm!(
                    "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
                    sums = inout(vreg) sums, a = in(vreg) codes[k], b = in(vreg) x[k],
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            return sums;
        }
        if SMALL {
            // Four products of at most 15 · 127, which 16 bits hold.
            let (mut low, mut high) = (vdupq_n_s16(0), vdupq_n_s16(0));
            for k in 0..4 {
                low = vmlal_s8(low, vget_low_s8(codes[k]), vget_low_s8(x[k]));
                high = vmlal_high_s8(high, codes[k], x[k]);
            }
            return vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
        }
        let (mut low, mut high) = (vdupq_n_s32(0), vdupq_n_s32(0));
        for k in 0..4 {
            low = vpadalq_s16(low, vmull_s8(vget_low_s8(codes[k]), vget_low_s8(x[k])));
            high = vpadalq_s16(high, vmull_high_s8(codes[k], x[k]));
        }
        vpaddq_s32(low, high)
    }
}

// SAFETY: every method is inlined into a function with the features, and reads memory through references to arrays, and
// through `whole`.
unsafe impl<const DOT: bool> Isa for Neon<DOT> {
    /// Of each quarter of sixteen lanes the four phases.
    type Codes = [[uint8x16_t; 4]; 4];
    type Lanes = [float32x4_t; 4];
    type Spread = usize;

    #[inline(always)]
    unsafe fn unpack<const KIND: u8>(packed: *const u8, left: usize) -> Self::Codes {
        // SAFETY: the caller's promise; `whole` has as many bytes as are read.
        unsafe {
            let mut codes = Self::no_codes();
            match KIND {
                TERNARY | 2 => {
                    let mut copy = [0; 64];
                    let packed = whole(packed, left, &mut copy);
                    for q in 0..4 {
                        let bytes = vld1q_u8(packed.add(16 * q));
                        codes[q] = pairs(if KIND == TERNARY { plus_one(bytes) } else { bytes });
                    }
                }
                3 => {
                    let mut copy = [0; 96];
                    let packed = whole(packed, left, &mut copy);
                    let phases = triples(packed.cast::<[u8; 96]>().read());
                    for q in 0..4 {
                        for k in 0..4 {
                            codes[q][k] = vld1q_u8(phases[k].as_ptr().add(16 * q));
                        }
                    }
                }
                4 => {
                    let mut copy = [0; 128];
                    let packed = whole(packed, left, &mut copy);
                    let low = vdupq_n_u8(15);
                    for q in 0..4 {
                        // Even words are the first two phases, odd ones the others.
                        let words = vld2q_u32(packed.add(32 * q).cast());
                        let (even, odd) = (vreinterpretq_u8_u32(words.0), vreinterpretq_u8_u32(words.1));
                        codes[q] = [
                            vandq_u8(even, low),
                            vshrq_n_u8::<4>(even),
                            vandq_u8(odd, low),
                            vshrq_n_u8::<4>(odd),
                        ];
                    }
                }
                _ => {
                    let mut copy = [0; 256];
                    let packed = whole(packed, left, &mut copy);
                    for q in 0..4 {
                        let words = vld4q_u32(packed.add(64 * q).cast());
                        codes[q] =
                            [words.0, words.1, words.2, words.3].map(|phase| vreinterpretq_u8_u32(phase));
                    }
                }
            }
            codes
        }
    }

    #[inline(always)]
    unsafe fn spread(count: usize) -> Self::Spread {
        count
    }

    #[inline(always)]
    unsafe fn numbers(bits: *const u16, left: usize, count: Self::Spread) -> Self::Lanes {
        let mut there = [0u16; LANES];
        let mut wide = [0f32; LANES];
        // SAFETY: at most `left` numbers are read, and no more than fit.
        unsafe {
            std::ptr::copy_nonoverlapping(bits, there.as_mut_ptr(), left.min(count));
            for four in 0..count.div_ceil(4) {
                vst1q_f32(wide.as_mut_ptr().add(4 * four), widened(vld1_u16(there.as_ptr().add(4 * four))));
            }
            let lanes: [f32; LANES] = from_fn(|d| wide[d * count / LANES]);
            from_fn(|q| vld1q_f32(lanes.as_ptr().add(4 * q)))
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_address: *const u8) {}

    #[inline(always)]
    unsafe fn zero() -> Self::Lanes {
        // SAFETY: registers only.
        unsafe { [vdupq_n_f32(0.0); 4] }
    }

    #[inline(always)]
    unsafe fn no_codes() -> Self::Codes {
        // SAFETY: registers only.
        unsafe { [[vdupq_n_u8(0); 4]; 4] }
    }

    #[inline(always)]
    unsafe fn meet<const KIND: u8, const CENTRED: bool>(x: &Chunk) -> Met<Self::Lanes> {
        // SAFETY: registers, and memory through `quarter`.
        unsafe {
            let mut met = Met { scales: Self::zero(), totals: Self::zero() };
            for q in 0..4 {
                met.scales[q] = vreinterpretq_f32_u32(quarter(&x.scales, q));
                let sums = vreinterpretq_s32_u32(quarter(&x.sums, q));
                met.totals[q] = match CENTRED {
                    // Codes of eight bits are less by their middle already, 128.
                    true if KIND == 8 => vdupq_n_f32(0.0),
                    true => vreinterpretq_f32_s32(vshlq_s32(sums, vdupq_n_s32(middle(KIND) as i32))),
                    false => vmulq_f32(vcvtq_f32_s32(sums), met.scales[q]),
                };
            }
            met
        }
    }

    #[inline(always)]
    unsafe fn add<const KIND: u8, const CENTRED: bool>(
        mut sums: Self::Lanes,
        codes: &Self::Codes,
        grid: &Grid<Self::Lanes>,
        x: &Chunk,
        met: &Met<Self::Lanes>,
    ) -> Self::Lanes {
        // SAFETY: each quarter of a phase of x is sixteen bytes.
        unsafe {
            for q in 0..4 {
                let inputs = from_fn(|k| vld1q_s8(x.codes[k].as_ptr().add(16 * q)));
                let mut dots = match KIND {
                    8 => {
                        let signed =
                            from_fn(|k| vreinterpretq_s8_u8(veorq_u8(codes[q][k], vdupq_n_u8(0x80))));
                        dot::<DOT, false>(signed, inputs)
                    }
                    _ => dot::<DOT, true>(from_fn(|k| vreinterpretq_s8_u8(codes[q][k])), inputs),
                };
                if KIND == 8 && !CENTRED {
                    let sums = vreinterpretq_s32_u32(quarter(&x.sums, q));
                    dots = vaddq_s32(dots, vshlq_n_s32::<7>(sums));
                }
                if CENTRED {
                    dots = vsubq_s32(dots, vreinterpretq_s32_f32(met.totals[q]));
                }
                let products = vmulq_f32(vcvtq_f32_s32(dots), met.scales[q]);
                sums[q] = vfmaq_f32(sums[q], products, grid.scales[q]);
                if !CENTRED {
                    sums[q] = vfmaq_f32(sums[q], met.totals[q], grid.offsets[q]);
                }
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn sum(lanes: Self::Lanes) -> f32 {
        // SAFETY: registers only.
        unsafe {
            let four = vaddq_f32(vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3]));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
}
