//! AVX-512 with VNNI (dot products of bytes), VBMI (permutations of bytes) and GFNI (linear maps of bits): Ice Lake, Zen 4
//! and later.

use super::TERNARY;
use std::arch::x86_64::*;

pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("gfni")
        && is_x86_feature_detected!("bmi2")
}

/// For three-bit codes, phase k: lane d is the two bytes at 6 d + 12 k / 8, twice.
const TRIPLE_BYTES: [[u8; 64]; 4] = {
    let mut places = [[0; 64]; 4];
    let mut k = 0;
    while k < 4 {
        let mut i = 0;
        while i < 64 {
            places[k][i] = (6 * (i / 4) + 12 * k / 8 + i % 2) as u8;
            i += 1;
        }
        k += 1;
    }
    places
};

/// For three-bit codes, phase k: where in its eight bytes the code of a byte begins.
const TRIPLE_SHIFTS: [[u8; 64]; 4] = {
    let mut shifts = [[0; 64]; 4];
    let mut k = 0;
    while k < 4 {
        let mut i = 0;
        while i < 64 {
            shifts[k][i] = (32 * (i / 4 % 2) + 12 * k % 8 + 3 * (i % 4)) as u8;
            i += 1;
        }
        k += 1;
    }
    shifts
};

/// 64 bytes from `at` on, of which the first `left` from the pointer are there; zeros for the others.
#[inline(always)]
pub(super) unsafe fn load(packed: *const u8, at: usize, left: usize) -> __m512i {
    let count = if left <= at {
        0
    } else if left - at < 64 {
        left - at
    } else {
        64
    };
    // SAFETY: the mask keeps the load within what is there; masked-out bytes are not touched.
    unsafe { _mm512_maskz_loadu_epi8(_bzhi_u64(u64::MAX, count as u32), packed.wrapping_add(at).cast()) }
}

#[inline(always)]
unsafe fn bytes(values: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes, read unaligned.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

/// Lane numbers times `step`, plus `first`.
#[inline(always)]
unsafe fn indices(step: i32, first: i32) -> __m512i {
    // SAFETY: registers only.
    unsafe {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        _mm512_add_epi32(_mm512_mullo_epi32(lanes, _mm512_set1_epi32(step)), _mm512_set1_epi32(first))
    }
}

/// A linear map of the bits of each byte: bit i of the result is the parity of the bits that `rows[i]` chooses, and of
/// that bit of `FLIP`.
#[inline(always)]
unsafe fn bits<const FLIP: i32>(x: __m512i, rows: [u8; 4]) -> __m512i {
    let matrix = i64::from_le_bytes([0, 0, 0, 0, rows[3], rows[2], rows[1], rows[0]]);
    // SAFETY: registers only.
    unsafe { _mm512_gf2p8affine_epi64_epi8::<FLIP>(x, _mm512_set1_epi64(matrix)) }
}

/// The four phases of codes of two bits.
#[inline(always)]
pub(super) unsafe fn pairs(x: __m512i) -> [__m512i; 4] {
    // SAFETY: registers only.
    unsafe {
        [
            bits::<0>(x, [0x01, 0x02, 0, 0]),
            bits::<0>(x, [0x04, 0x08, 0, 0]),
            bits::<0>(x, [0x10, 0x20, 0, 0]),
            bits::<0>(x, [0x40, 0x80, 0, 0]),
        ]
    }
}

/// The four phases of ternary codes, −1, 0, 1 in fields of two bits (10, 00, 01) as 0, 1, 2: the upper bit is the lower
/// one of the field, the lower one that neither is set, and both never are.
#[inline(always)]
unsafe fn trits(x: __m512i) -> [__m512i; 4] {
    // SAFETY: registers only.
    unsafe {
        [
            bits::<1>(x, [0x03, 0x01, 0, 0]),
            bits::<1>(x, [0x0c, 0x04, 0, 0]),
            bits::<1>(x, [0x30, 0x10, 0, 0]),
            bits::<1>(x, [0xc0, 0x40, 0, 0]),
        ]
    }
}

#[inline(always)]
unsafe fn low_half(x: __m512i) -> __m512i {
    // SAFETY: registers only.
    unsafe { bits::<0>(x, [0x01, 0x02, 0x04, 0x08]) }
}

#[inline(always)]
unsafe fn high_half(x: __m512i) -> __m512i {
    // SAFETY: registers only.
    unsafe { bits::<0>(x, [0x10, 0x20, 0x40, 0x80]) }
}

/// Phase `k` of codes of three bits.
#[inline(always)]
unsafe fn triples(low: __m512i, high: __m512i, k: usize) -> __m512i {
    // SAFETY: registers, and memory through `bytes`.
    unsafe {
        let words = _mm512_permutex2var_epi8(low, bytes(&TRIPLE_BYTES[k]), high);
        _mm512_and_si512(_mm512_multishift_epi64_epi8(bytes(&TRIPLE_SHIFTS[k]), words), _mm512_set1_epi8(7))
    }
}

/// Phase `k` of codes of eight bits: every fourth number of four bytes.
#[inline(always)]
unsafe fn straight(parts: [__m512i; 4], k: i32) -> __m512i {
    // SAFETY: registers only.
    unsafe {
        // The low eight lanes come from the first two parts, the others from the last two.
        let low = _mm512_permutex2var_epi32(parts[0], indices(4, k), parts[1]);
        let high = _mm512_permutex2var_epi32(parts[2], indices(4, k), parts[3]);
        _mm512_mask_blend_epi32(0xff00, low, high)
    }
}

/// 256 codes, in four phases of sixteen lanes, from `packed`, of which `left` > 0 bytes are there; what is missing reads as zero.
/// Those of ternary weights come out as weight + 1.
///
/// # Safety
/// As for [`super::Isa::unpack`].
#[inline(always)]
pub(super) unsafe fn unpack<const KIND: u8>(packed: *const u8, left: usize) -> [__m512i; 4] {
    // SAFETY: the features are the caller's promise; memory is read by `load` and `bytes` alone.
    unsafe {
        match KIND {
            TERNARY => trits(load(packed, 0, left)),
            2 => pairs(load(packed, 0, left)),
            3 => {
                let (low, high) = (load(packed, 0, left), load(packed, 64, left));
                [triples(low, high, 0), triples(low, high, 1), triples(low, high, 2), triples(low, high, 3)]
            }
            4 => {
                let (low, high) = (load(packed, 0, left), load(packed, 64, left));
                let even = _mm512_permutex2var_epi32(low, indices(2, 0), high);
                let odd = _mm512_permutex2var_epi32(low, indices(2, 1), high);
                [low_half(even), high_half(even), low_half(odd), high_half(odd)]
            }
            _ => {
                let parts = [
                    load(packed, 0, left),
                    load(packed, 64, left),
                    load(packed, 128, left),
                    load(packed, 192, left),
                ];
                [straight(parts, 0), straight(parts, 1), straight(parts, 2), straight(parts, 3)]
            }
        }
    }
}

/// Sixteen f16 numbers, of which `left` > 0 are there; zero for those that are missing.
///
/// # Safety
/// AVX-512, and a pointer valid for reads of up to sixteen of `left` numbers.
#[inline(always)]
pub(super) unsafe fn numbers(bits: *const u16, left: usize) -> __m512 {
    let count = if left < 16 { left } else { 16 };
    // SAFETY: the mask keeps the load within what is there.
    unsafe {
        _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(_bzhi_u32(0xffff, count as u32) as __mmask16, bits.cast()))
    }
}

/// Of `count` numbers, a power of two up to 16, which one a lane gets: lane d number d · `count` / 16.
///
/// # Safety
/// AVX-512.
#[inline(always)]
pub(super) unsafe fn spread(count: usize) -> __m512i {
    // SAFETY: registers only.
    unsafe { _mm512_srl_epi32(indices(1, 0), _mm_cvtsi32_si128((16 / count).ilog2() as i32)) }
}
