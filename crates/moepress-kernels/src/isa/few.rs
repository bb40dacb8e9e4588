//! Few inputs and codes in fields: AVX-512 VNNI, straight from memory.
//!
//! What bounds it is how many vector instructions there are for every 64 bytes, so scales are turned into numbers and
//! multiplied with those of the activations sixteen groups at a time, and codes of two bits are taken out of their bytes with one
//! shift and no more than a mask each.

use super::avx512::{self, load, spread};
use super::{Grid, TERNARY, chunk_bytes, middle};
use crate::activations::{BLOCK, CHUNK, Chunk, Integers, LANES};
use crate::part::Part;
use crate::rows::FEW;
use moepress_quant::{Code, Packed};
use std::arch::x86_64::*;

/// Rows of weights that meet at a time.
const ROWS: usize = 4;
/// Chunks between what is read and what is asked for: as long as memory takes.
const AHEAD: usize = 16;

/// x · Wᵀ for the rows of W from `first` on, whose codes are in fields.
pub(super) fn rows(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>) {
    debug_assert!(super::avx512::available());
    // SAFETY: `super::kernels` lists this function only where `available` holds.
    unsafe {
        match x.n {
            1 => enabled::<1>(x, w, first, out),
            _ => enabled::<FEW>(x, w, first, out),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni,bmi2")]
fn enabled<const T: usize>(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>) {
    match (w.format.code, w.format.symmetric) {
        (Code::Ternary, _) => meet::<TERNARY, true, T>(x, w, first, out),
        (Code::Int(2), true) => meet::<2, true, T>(x, w, first, out),
        (Code::Int(2), false) => meet::<2, false, T>(x, w, first, out),
        (Code::Int(3), true) => meet::<3, true, T>(x, w, first, out),
        (Code::Int(3), false) => meet::<3, false, T>(x, w, first, out),
        (Code::Int(4), true) => meet::<4, true, T>(x, w, first, out),
        (Code::Int(4), false) => meet::<4, false, T>(x, w, first, out),
        (Code::Int(_), true) => meet::<8, true, T>(x, w, first, out),
        (Code::Int(_), false) => meet::<8, false, T>(x, w, first, out),
        // `Order::of` has none for them.
        (Code::Fp4 | Code::Fp8, _) => (0..x.n).for_each(|input| out.of_input(input).fill(f32::NAN)),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni,bmi2")]
fn meet<const KIND: u8, const CENTRED: bool, const T: usize>(
    x: Integers<'_>,
    w: &Packed,
    first: usize,
    out: &mut Part<'_>,
) {
    let (width, groups) = (w.format.row_bytes(w.cols), w.format.row_groups(w.cols));
    let (bytes, size) = (w.codes.bytes(), const { chunk_bytes(KIND) });
    let (whole, chunks) = (width / size, width.div_ceil(size));
    // Scales of a chunk: at least one for every step of the activations, and sixteen of so many chunks in a register.
    let count = CHUNK / w.format.group.min(BLOCK);
    let together = LANES / count;
    // SAFETY: this function has the features.
    let (of_lanes, of_groups) = unsafe { (spread(count), spread(32 / count)) };
    let next = _mm512_set1_epi32(count as i32);
    // Rows that are met together lie apart, each followed by that of the next turn: few long runs of memory are what
    // processors read ahead, and several rows of one page are not.
    let stride = out.rows().div_ceil(ROWS);
    let mut sums = [[_mm512_setzero_ps(); ROWS]; T];
    let mut grids = [[Grid { scales: _mm512_setzero_ps(), offsets: _mm512_setzero_ps() }; ROWS]; T];
    for start in (0..x.n).step_by(T) {
        let inputs = if T == 1 { 1 } else { T.min(x.n - start) };
        for at in 0..stride {
            let (mut packed, mut scales, mut offsets) =
                ([bytes; ROWS], [&w.scales[..]; ROWS], [&w.offsets[..]; ROWS]);
            for r in 0..ROWS {
                // The last rows are done twice rather than by code of their own.
                let row = first + (at + r * stride).min(out.rows() - 1);
                packed[r] = &bytes[row * width..][..width];
                scales[r] = &w.scales[row * groups..][..groups];
                if !CENTRED {
                    offsets[r] = &w.offsets[row * groups..][..groups];
                }
            }
            for t in 0..inputs {
                sums[t] = [_mm512_setzero_ps(); ROWS];
            }
            let mut chunk = 0;
            while chunk < chunks {
                for r in 0..ROWS {
                    let scales = numbers(scales[r], count * chunk);
                    let offsets = if CENTRED { scales } else { numbers(offsets[r], count * chunk) };
                    for t in 0..inputs {
                        grids[t][r] = Grid { scales, offsets };
                    }
                }
                for t in 0..inputs {
                    let steps = _mm512_permutexvar_ps(of_groups, sixteen(x.steps(start + t, chunk)));
                    for r in 0..ROWS {
                        grids[t][r].scales = _mm512_mul_ps(grids[t][r].scales, steps);
                    }
                }
                let mut of_lanes = of_lanes;
                let end = chunks.min(chunk + together);
                while chunk < end {
                    let left = if chunk < whole { usize::MAX } else { width - chunk * size };
                    let mut at = [bytes.as_ptr(); ROWS];
                    for r in 0..ROWS {
                        at[r] = packed[r].as_ptr().wrapping_add(chunk * size);
                    }
                    let range = [chunk, start, start + inputs];
                    // SAFETY: this function has the features; a chunk begins within the rows, and `left` bytes of it are there.
                    unsafe {
                        match chunk < whole {
                            true => {
                                add::<KIND, CENTRED, T>(x, range, at, usize::MAX, of_lanes, &grids, &mut sums)
                            }
                            false => add::<KIND, CENTRED, T>(x, range, at, left, of_lanes, &grids, &mut sums),
                        }
                    }
                    of_lanes = _mm512_add_epi32(of_lanes, next);
                    chunk += 1;
                }
            }
            for t in 0..inputs {
                let out = out.of_input(start + t);
                for r in 0..ROWS {
                    if let Some(out) = out.get_mut(at + r * stride) {
                        *out = _mm512_reduce_add_ps(sums[t][r]);
                    }
                }
            }
        }
    }
}

/// Adds what a chunk of weights comes to with the inputs from one to before another.
///
/// # Safety
/// As for [`avx512::unpack`]; of every row `left` > 0 bytes are there.
#[inline(always)]
unsafe fn add<const KIND: u8, const CENTRED: bool, const T: usize>(
    x: Integers<'_>,
    [chunk, start, end]: [usize; 3],
    packed: [*const u8; ROWS],
    left: usize,
    of_lanes: __m512i,
    grids: &[[Grid<__m512>; ROWS]; T],
    sums: &mut [[__m512; ROWS]; T],
) {
    // SAFETY: the caller's promise; a prefetch may ask for any address; what is read of x are arrays of 64 bytes, 64-byte
    // aligned.
    unsafe {
        let mut codes = [[_mm512_setzero_si512(); 4]; ROWS];
        for r in 0..ROWS {
            for line in 0..const { chunk_bytes(KIND).div_ceil(64) } {
                _mm_prefetch::<_MM_HINT_T1>(
                    packed[r].wrapping_add(const { AHEAD * chunk_bytes(KIND) } + 64 * line).cast(),
                );
            }
            codes[r] = unpack::<KIND>(packed[r], left);
        }
        for t in 0..if T == 1 { 1 } else { end - start } {
            let x = x.chunk(chunk, start + t);
            let total = _mm512_load_si512(x.sums.as_ptr().cast());
            let begin = if CENTRED { less::<KIND>(total) } else { _mm512_setzero_si512() };
            for r in 0..ROWS {
                let scales = _mm512_permutexvar_ps(of_lanes, grids[t][r].scales);
                let dots = _mm512_cvtepi32_ps(dots::<KIND>(begin, &codes[r], x));
                sums[t][r] = _mm512_fmadd_ps(dots, scales, sums[t][r]);
            }
            if !CENTRED {
                let totals = _mm512_mul_ps(_mm512_cvtepi32_ps(total), _mm512_load_ps(x.scales.as_ptr()));
                for r in 0..ROWS {
                    let offsets = _mm512_permutexvar_ps(of_lanes, grids[t][r].offsets);
                    sums[t][r] = _mm512_fmadd_ps(totals, offsets, sums[t][r]);
                }
            }
        }
    }
}

/// Sixteen scales or offsets from group `at` on; the only one of a whole row in all lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
fn numbers(of_row: &[u16], at: usize) -> __m512 {
    match of_row {
        [bits] => _mm512_cvtph_ps(_mm256_set1_epi16(*bits as i16)),
        // SAFETY: this function has the features; what is left is there.
        _ => unsafe { avx512::numbers(of_row[at..].as_ptr(), of_row.len() - at) },
    }
}

/// The first sixteen numbers, zeros for those that are missing.
#[inline]
#[target_feature(enable = "avx512f,bmi2")]
fn sixteen(numbers: &[f32]) -> __m512 {
    let count = if numbers.len() < LANES { numbers.len() } else { LANES };
    // SAFETY: the mask keeps the load within what is there.
    unsafe { _mm512_maskz_loadu_ps(_bzhi_u32(0xffff, count as u32) as __mmask16, numbers.as_ptr()) }
}

/// The four phases of codes; odd ones of codes of two bits are four times as much.
///
/// # Safety
/// As for [`avx512::unpack`].
#[inline(always)]
unsafe fn unpack<const KIND: u8>(packed: *const u8, left: usize) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        if KIND != TERNARY && KIND != 2 {
            return avx512::unpack::<KIND>(packed, left);
        }
        let mut bytes = load(packed, 0, left);
        if KIND == TERNARY {
            // −1, 0, 1 in fields of two bits (10, 00, 01) to 0, 1, 2: the upper bit is the lower one of the field, the lower one
            // that neither is set.
            let matrix = i64::from_be_bytes([0x03, 0x01, 0x0c, 0x04, 0x30, 0x10, 0xc0, 0x40]);
            bytes = _mm512_gf2p8affine_epi64_epi8::<0x55>(bytes, _mm512_set1_epi64(matrix));
        }
        let (even, odd) = (_mm512_set1_epi8(0x03), _mm512_set1_epi8(0x0c));
        let high = _mm512_srli_epi32::<4>(bytes);
        [
            _mm512_and_si512(bytes, even),
            _mm512_and_si512(bytes, odd),
            _mm512_and_si512(high, even),
            _mm512_and_si512(high, odd),
        ]
    }
}

/// What dot products begin with, of the sums of activations, so that codes count from the middle.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn less<const KIND: u8>(sums: __m512i) -> __m512i {
    // The first phases that are added are four times as much.
    let shift = middle(KIND) + if KIND == TERNARY || KIND == 2 { 2 } else { 0 };
    // SAFETY: registers only.
    unsafe {
        _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_sll_epi32(sums, _mm_cvtsi32_si128(shift as i32)))
    }
}

/// Σ code · x per lane, plus what they begin with.
///
/// # Safety
/// AVX-512 with VNNI.
#[inline(always)]
unsafe fn dots<const KIND: u8>(begin: __m512i, codes: &[__m512i; 4], x: &Chunk) -> __m512i {
    // SAFETY: every phase of x is 64 bytes, 64-byte aligned.
    unsafe {
        let x = |k: usize| _mm512_load_si512(x.codes[k].as_ptr().cast());
        if KIND == TERNARY || KIND == 2 {
            let odd = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(begin, codes[1], x(1)), codes[3], x(3));
            let all = _mm512_srai_epi32::<2>(odd);
            return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(all, codes[0], x(0)), codes[2], x(2));
        }
        let mut dots = begin;
        for k in 0..4 {
            dots = _mm512_dpbusd_epi32(dots, codes[k], x(k));
        }
        dots
    }
}
