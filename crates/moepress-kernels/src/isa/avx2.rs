//! AVX2 with FMA and F16C: Haswell, Zen and later.

use super::portable::{padded, triples};
use super::{Grid, Isa, Met, TERNARY, middle};
use crate::activations::{Chunk, Integers};
use crate::part::Part;
use moepress_quant::Packed;
use std::arch::x86_64::*;

pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

pub(super) fn rows(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>) {
    debug_assert!(available());
    // SAFETY: `kernels` lists this function only where `available` holds.
    unsafe { enabled(x, w, first, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn enabled(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>) {
    // SAFETY: this function has the features that the methods of `Avx2` need.
    unsafe {
        match x.n {
            1 => super::rows::<Avx2, 1, 1>(x, w, first, out),
            _ => super::rows::<Avx2, 2, 16>(x, w, first, out),
        }
    }
}

struct Avx2;

/// 32 bytes, number `at` of them.
#[inline(always)]
unsafe fn half(values: &[u8], at: usize) -> __m256i {
    let values = &values[32 * at..32 * at + 32];
    // SAFETY: 32 bytes, read unaligned.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

/// The bits of each byte from `BITS` on, under a mask that hides those of the next byte.
#[inline(always)]
unsafe fn shifted<const BITS: i32>(x: [__m256i; 2], mask: i8) -> [__m256i; 2] {
    // SAFETY: registers only.
    unsafe {
        let mask = _mm256_set1_epi8(mask);
        [
            _mm256_and_si256(_mm256_srli_epi16::<BITS>(x[0]), mask),
            _mm256_and_si256(_mm256_srli_epi16::<BITS>(x[1]), mask),
        ]
    }
}

/// The four phases of codes of two bits.
#[inline(always)]
unsafe fn pairs(x: [__m256i; 2]) -> [[__m256i; 2]; 4] {
    // SAFETY: registers only.
    unsafe { [shifted::<0>(x, 3), shifted::<2>(x, 3), shifted::<4>(x, 3), shifted::<6>(x, 3)] }
}

/// −1, 0, 1 in fields of two bits (10, 00, 01) as 0, 1, 2.
#[inline(always)]
unsafe fn plus_one(x: __m256i) -> __m256i {
    // SAFETY: registers only.
    unsafe {
        let any = _mm256_or_si256(x, _mm256_srli_epi16::<1>(x));
        let zero = _mm256_andnot_si256(any, _mm256_set1_epi8(0x55));
        _mm256_or_si256(_mm256_and_si256(_mm256_add_epi8(x, x), _mm256_set1_epi8(0xaau8 as i8)), zero)
    }
}

/// Even (0x88) or odd (0xdd) numbers of four bytes of the 64 bytes from half `at` on, in order.
#[inline(always)]
unsafe fn nibbles<const PICK: i32>(packed: &[u8; 128], at: usize) -> __m256i {
    // SAFETY: registers, and memory through `half`.
    unsafe {
        let (a, b) = (_mm256_castsi256_ps(half(packed, at)), _mm256_castsi256_ps(half(packed, at + 1)));
        _mm256_permute4x64_epi64::<0xd8>(_mm256_castps_si256(_mm256_shuffle_ps::<PICK>(a, b)))
    }
}

/// The 128 bytes from half `at` on as four phases: number k of every four numbers of four bytes.
#[inline(always)]
unsafe fn straight(packed: &[u8; 256], at: usize) -> [__m256i; 4] {
    // SAFETY: registers, and memory through `half`.
    unsafe {
        let (a, b) = (half(packed, at), half(packed, at + 1));
        let (c, d) = (half(packed, at + 2), half(packed, at + 3));
        // Transposed within 128 bits, then set in order.
        let low = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let high = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        [
            _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi64(low.0, low.1), order),
            _mm256_permutevar8x32_epi32(_mm256_unpackhi_epi64(low.0, low.1), order),
            _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi64(high.0, high.1), order),
            _mm256_permutevar8x32_epi32(_mm256_unpackhi_epi64(high.0, high.1), order),
        ]
    }
}

/// Eight numbers of four bytes from `values[at..]`.
#[inline(always)]
unsafe fn eight<T>(values: &[T; 16], half: usize) -> __m256i {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: sixteen numbers of four bytes, of which the first or the last eight are read.
    unsafe { _mm256_loadu_si256(values.as_ptr().add(8 * half).cast()) }
}

// SAFETY: every method is inlined into `enabled`, and reads memory through references to arrays only.
unsafe impl Isa for Avx2 {
    type Codes = [[__m256i; 2]; 4];
    type Lanes = [__m256; 2];
    type Spread = Option<[__m256i; 2]>;

    #[inline(always)]
    unsafe fn unpack<const KIND: u8>(packed: *const u8, left: usize) -> Self::Codes {
        // SAFETY: the features are the caller's promise; memory is read by `padded` and `half` alone.
        unsafe {
            match KIND {
                TERNARY => {
                    let packed = padded::<64>(packed, left);
                    pairs([plus_one(half(&packed, 0)), plus_one(half(&packed, 1))])
                }
                2 => {
                    let packed = padded::<64>(packed, left);
                    pairs([half(&packed, 0), half(&packed, 1)])
                }
                3 => {
                    let codes = triples(padded(packed, left));
                    let mut halves = Self::no_codes();
                    for k in 0..4 {
                        halves[k] = [half(&codes[k], 0), half(&codes[k], 1)];
                    }
                    halves
                }
                4 => {
                    let packed = padded::<128>(packed, left);
                    let even = [nibbles::<0x88>(&packed, 0), nibbles::<0x88>(&packed, 2)];
                    let odd = [nibbles::<0xdd>(&packed, 0), nibbles::<0xdd>(&packed, 2)];
                    [
                        shifted::<0>(even, 15),
                        shifted::<4>(even, 15),
                        shifted::<0>(odd, 15),
                        shifted::<4>(odd, 15),
                    ]
                }
                _ => {
                    let packed = padded::<256>(packed, left);
                    let (low, high) = (straight(&packed, 0), straight(&packed, 4));
                    [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn spread(count: usize) -> Self::Spread {
        if count == 16 {
            return None;
        }
        // SAFETY: registers only.
        unsafe {
            let shift = _mm_cvtsi32_si128((16 / count).ilog2() as i32);
            let first = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let last = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
            Some([_mm256_srl_epi32(first, shift), _mm256_srl_epi32(last, shift)])
        }
    }

    #[inline(always)]
    unsafe fn numbers(bits: *const u16, left: usize, spread: Self::Spread) -> Self::Lanes {
        // SAFETY: sixteen numbers of two bytes are read in two halves, from there or from a copy.
        unsafe {
            let mut copy = [0u16; 16];
            let mut bits = bits;
            if left < 16 {
                std::ptr::copy_nonoverlapping(bits, copy.as_mut_ptr(), left);
                bits = copy.as_ptr();
            }
            let low = _mm256_cvtph_ps(_mm_loadu_si128(bits.cast()));
            match spread {
                None => [low, _mm256_cvtph_ps(_mm_loadu_si128(bits.add(8).cast()))],
                Some([first, last]) => {
                    [_mm256_permutevar8x32_ps(low, first), _mm256_permutevar8x32_ps(low, last)]
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: a hint, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn zero() -> Self::Lanes {
        // SAFETY: registers only.
        unsafe { [_mm256_setzero_ps(); 2] }
    }

    #[inline(always)]
    unsafe fn no_codes() -> Self::Codes {
        // SAFETY: registers only.
        unsafe { [[_mm256_setzero_si256(); 2]; 4] }
    }

    #[inline(always)]
    unsafe fn meet<const KIND: u8, const CENTRED: bool>(x: &Chunk) -> Met<Self::Lanes> {
        // SAFETY: registers, and memory through `eight`.
        unsafe {
            let scales = [_mm256_castsi256_ps(eight(&x.scales, 0)), _mm256_castsi256_ps(eight(&x.scales, 1))];
            let mut totals = Self::zero();
            for half in 0..2 {
                let sums = eight(&x.sums, half);
                totals[half] = match CENTRED {
                    true => {
                        _mm256_castsi256_ps(_mm256_sll_epi32(sums, _mm_cvtsi32_si128(middle(KIND) as i32)))
                    }
                    false => _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scales[half]),
                };
            }
            Met { scales, totals }
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
        // SAFETY: each half of a phase of x is 32 bytes, 32-byte aligned.
        unsafe {
            for half in 0..2 {
                let mut dots = _mm256_setzero_si256();
                for k in 0..4 {
                    let x = _mm256_load_si256(x.codes[k].as_ptr().add(32 * half).cast());
                    let codes = codes[k][half];
                    dots = match KIND {
                        8 => _mm256_add_epi32(dots, wide(codes, x)),
                        // Two products a term, four terms: at most 8 · 15 · 127, which 16 bits hold.
                        _ => _mm256_add_epi16(dots, _mm256_maddubs_epi16(codes, x)),
                    };
                }
                if KIND != 8 {
                    dots = _mm256_madd_epi16(dots, _mm256_set1_epi16(1));
                }
                if CENTRED {
                    dots = _mm256_sub_epi32(dots, _mm256_castps_si256(met.totals[half]));
                }
                let products = _mm256_mul_ps(_mm256_cvtepi32_ps(dots), met.scales[half]);
                sums[half] = _mm256_fmadd_ps(products, grid.scales[half], sums[half]);
                if !CENTRED {
                    sums[half] = _mm256_fmadd_ps(met.totals[half], grid.offsets[half], sums[half]);
                }
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn sum(lanes: Self::Lanes) -> f32 {
        // SAFETY: registers only.
        unsafe {
            let eight = _mm256_add_ps(lanes[0], lanes[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

/// Dot products of four unsigned with four signed bytes, of any size.
#[inline(always)]
unsafe fn wide(codes: __m256i, x: __m256i) -> __m256i {
    // SAFETY: registers only.
    unsafe {
        let zero = _mm256_setzero_si256();
        let sign = _mm256_cmpgt_epi8(zero, x);
        let low = _mm256_madd_epi16(_mm256_unpacklo_epi8(codes, zero), _mm256_unpacklo_epi8(x, sign));
        let high = _mm256_madd_epi16(_mm256_unpackhi_epi8(codes, zero), _mm256_unpackhi_epi8(x, sign));
        _mm256_hadd_epi32(low, high)
    }
}
