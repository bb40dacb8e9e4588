//! Many inputs: AVX-512 VNNI on panels, weights unpacked once for all inputs of a product.
//!
//! In a panel sixteen rows of weights lie side by side, four columns of each in 32 bits, so that one instruction takes four
//! columns of sixteen rows and nothing needs to be added across a register. Sums stay integers over as many columns as share
//! both scales.

use super::avx512::{numbers, spread, unpack};
use super::{Room, TERNARY, chunk_bytes, middle};
use crate::activations::{BLOCK, CHUNK, Chunk, Integers, LANES};
use crate::part::Part;
use moepress_quant::{Code, Packed};
use std::arch::x86_64::*;

/// Registers of sixteen rows, and inputs, that meet at a time: 24 sums, four weights and an input in 32 registers.
const VECTORS: usize = 4;
const INPUTS: usize = 6;
/// Rows of a panel.
const ROWS: usize = 16 * VECTORS;
/// Chunks of columns that are unpacked at a time: panels of up to 400 KB, which the second-level cache holds.
const DEPTH: usize = 16;

/// A chunk of columns of 64 rows.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Panel {
    /// Four columns each, as they lie in a [`Chunk`]: by lane, phase and row.
    codes: [[[[u8; 64]; VECTORS]; 4]; LANES],
    /// By lane and row.
    scales: [[[f32; 16]; VECTORS]; LANES],
    offsets: [[[f32; 16]; VECTORS]; LANES],
}

impl Panel {
    const EMPTY: Self = Self {
        codes: [[[[0; 64]; VECTORS]; 4]; LANES],
        scales: [[[0.0; 16]; VECTORS]; LANES],
        offsets: [[[0.0; 16]; VECTORS]; LANES],
    };
}

/// x · Wᵀ for the rows of W from `first` on, whose codes are in fields.
pub(super) fn rows(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>, room: &mut Room) {
    debug_assert!(super::avx512::available());
    // SAFETY: `super::panels` names this function only where `available` holds.
    unsafe { enabled(x, w, first, out, &mut room.0) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni,bmi2")]
fn enabled(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>, room: &mut Vec<Panel>) {
    let chunks = w.cols.div_ceil(CHUNK);
    if room.len() < chunks.min(DEPTH) {
        room.resize(chunks.min(DEPTH), Panel::EMPTY);
    }
    for at in (0..out.rows()).step_by(ROWS) {
        let count = ROWS.min(out.rows() - at);
        let mut out = out.some(at, count);
        for begin in (0..chunks).step_by(DEPTH) {
            let panels = &mut room[..DEPTH.min(chunks - begin)];
            let from = Place { row: first + at, rows: count, chunk: begin };
            match w.format.code {
                Code::Ternary => fill::<TERNARY>(panels, w, from),
                Code::Int(2) => fill::<2>(panels, w, from),
                Code::Int(3) => fill::<3>(panels, w, from),
                Code::Int(4) => fill::<4>(panels, w, from),
                Code::Int(_) => fill::<8>(panels, w, from),
                // `Order::of` has none for them.
                Code::Fp4 | Code::Fp8 => {
                    return (0..x.n).for_each(|input| out.of_input(input).fill(f32::NAN));
                }
            }
            // Lanes of as many columns as share the scales of weights and activations.
            let lanes = w.format.group.min(BLOCK) / (CHUNK / LANES);
            match w.format.symmetric {
                true => all::<true>(x, panels, begin, [lanes, centre(w.format.code)], &mut out),
                false => all::<false>(x, panels, begin, [lanes, 0], &mut out),
            }
        }
    }
}

/// The code of zero is 1 << this.
fn centre(code: Code) -> usize {
    match code {
        Code::Int(bits) => middle(bits) as usize,
        _ => middle(TERNARY) as usize,
    }
}

/// Where panels come from: rows and chunks of a matrix.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    /// At most as many as a panel has; the last is repeated in the others.
    rows: usize,
    chunk: usize,
}

/// Unpacks consecutive chunks of columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni,bmi2")]
fn fill<const KIND: u8>(panels: &mut [Panel], w: &Packed, from: Place) {
    let (width, groups) = (w.format.row_bytes(w.cols), w.format.row_groups(w.cols));
    let bytes = w.codes.bytes();
    // A group that is longer than a chunk, the whole row, is one for every chunk.
    let (count, step) = match CHUNK / w.format.group {
        0 => (1, 0),
        count => (count, count),
    };
    // SAFETY: this function has the features that are needed; a row holds `width` bytes of codes and
    // `groups` scales (and offsets, where there are any), and chunks begin within both.
    unsafe {
        let spread = spread(count);
        for vector in 0..VECTORS {
            for (index, panel) in panels.iter_mut().enumerate() {
                let (at, group) = ((from.chunk + index) * chunk_bytes(KIND), (from.chunk + index) * step);
                let mut codes = [[_mm512_setzero_si512(); 16]; 4];
                let (mut scales, mut offsets) = ([_mm512_setzero_si512(); 16], [_mm512_setzero_si512(); 16]);
                for r in 0..16 {
                    let row = from.row + (16 * vector + r).min(from.rows - 1);
                    let packed = &bytes[row * width..][..width];
                    // What the next sixteen rows are read from: strides that the processor does not foresee.
                    for line in 0..const { chunk_bytes(KIND).div_ceil(64) } {
                        let line = packed.as_ptr().wrapping_add(at + 16 * width + 64 * line);
                        _mm_prefetch::<_MM_HINT_T0>(line.cast());
                    }
                    let phases = unpack::<KIND>(packed.as_ptr().add(at), width - at);
                    for k in 0..4 {
                        codes[k][r] = phases[k];
                    }
                    let of_row = &w.scales[row * groups..][..groups];
                    let of_row = numbers(of_row.as_ptr().add(group), groups - group);
                    scales[r] = _mm512_castps_si512(_mm512_permutexvar_ps(spread, of_row));
                    if !w.offsets.is_empty() {
                        let of_row = &w.offsets[row * groups..][..groups];
                        let of_row = numbers(of_row.as_ptr().add(group), groups - group);
                        offsets[r] = _mm512_castps_si512(_mm512_permutexvar_ps(spread, of_row));
                    }
                }
                for k in 0..4 {
                    let lanes = transposed(codes[k]);
                    for lane in 0..LANES {
                        _mm512_store_si512(panel.codes[lane][k][vector].as_mut_ptr().cast(), lanes[lane]);
                    }
                }
                let lanes = transposed(scales);
                for lane in 0..LANES {
                    _mm512_store_si512(panel.scales[lane][vector].as_mut_ptr().cast(), lanes[lane]);
                }
                if !w.offsets.is_empty() {
                    let lanes = transposed(offsets);
                    for lane in 0..LANES {
                        _mm512_store_si512(panel.offsets[lane][vector].as_mut_ptr().cast(), lanes[lane]);
                    }
                }
            }
        }
    }
}

/// Sixteen rows of sixteen numbers of 32 bits → columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    // Pairs of rows, then fours of rows: register 4 i + j has, for every four columns, number j of them of rows 4 i to 4 i + 3.
    let mut pairs = rows;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = pairs;
    for i in 0..4 {
        for j in 0..2 {
            fours[4 * i + 2 * j] = _mm512_unpacklo_epi64(pairs[4 * i + j], pairs[4 * i + j + 2]);
            fours[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[4 * i + j], pairs[4 * i + j + 2]);
        }
    }
    let mut columns = fours;
    for j in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x44>(fours[j], fours[4 + j]);
        let low_rest = _mm512_shuffle_i32x4::<0x44>(fours[8 + j], fours[12 + j]);
        let high = _mm512_shuffle_i32x4::<0xee>(fours[j], fours[4 + j]);
        let high_rest = _mm512_shuffle_i32x4::<0xee>(fours[8 + j], fours[12 + j]);
        columns[j] = _mm512_shuffle_i32x4::<0x88>(low, low_rest);
        columns[4 + j] = _mm512_shuffle_i32x4::<0xdd>(low, low_rest);
        columns[8 + j] = _mm512_shuffle_i32x4::<0x88>(high, high_rest);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(high, high_rest);
    }
    columns
}

/// Every input meets the panels, a few at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni,bmi2")]
fn all<const CENTRED: bool>(
    x: Integers<'_>,
    panels: &[Panel],
    begin: usize,
    lanes: [usize; 2],
    out: &mut Part<'_>,
) {
    for start in (0..x.n).step_by(INPUTS) {
        match x.n - start {
            1 => meet::<CENTRED, 1>(x, start, panels, begin, lanes, out),
            2 => meet::<CENTRED, 2>(x, start, panels, begin, lanes, out),
            3 => meet::<CENTRED, 3>(x, start, panels, begin, lanes, out),
            4 => meet::<CENTRED, 4>(x, start, panels, begin, lanes, out),
            5 => meet::<CENTRED, 5>(x, start, panels, begin, lanes, out),
            _ => meet::<CENTRED, INPUTS>(x, start, panels, begin, lanes, out),
        }
    }
}

/// `T` inputs from `start` on meet the panels, which begin at chunk `begin`; what chunks before them came to is in `out`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni,bmi2")]
fn meet<const CENTRED: bool, const T: usize>(
    x: Integers<'_>,
    start: usize,
    panels: &[Panel],
    begin: usize,
    [lanes, centre]: [usize; 2],
    out: &mut Part<'_>,
) {
    let mut masks = [0u16; VECTORS];
    for vector in 0..VECTORS {
        let rows = out.rows().saturating_sub(16 * vector).min(16);
        masks[vector] = ((1u32 << rows) - 1) as u16;
    }
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; T];
    if begin > 0 {
        for t in 0..T {
            let row = out.of_input(start + t).as_ptr();
            for vector in 0..VECTORS {
                // SAFETY: the mask selects only numbers of the row.
                sums[t][vector] =
                    unsafe { _mm512_maskz_loadu_ps(masks[vector], row.wrapping_add(16 * vector)) };
            }
        }
    }
    for (index, panel) in panels.iter().enumerate() {
        let mut inputs = [x.chunk(begin + index, start); T];
        for t in 1..T {
            inputs[t] = x.chunk(begin + index, start + t);
        }
        let mut totals = [[0; LANES]; T];
        for t in 0..T {
            totals[t] = runs(&inputs[t].sums, lanes);
        }
        let mut first = 0;
        while first < LANES {
            let mut total = [0; T];
            for t in 0..T {
                total[t] = totals[t][first];
            }
            add::<CENTRED, T>(panel, inputs, [first, first + lanes], total, centre as i32, &mut sums);
            first += lanes;
        }
    }
    for t in 0..T {
        let row = out.of_input(start + t).as_mut_ptr();
        for vector in 0..VECTORS {
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(row.wrapping_add(16 * vector), masks[vector], sums[t][vector]) };
        }
    }
}

/// The sums of runs of 1, 2, 4 or 8 numbers, each where its run begins.
#[inline]
#[target_feature(enable = "avx512f")]
fn runs(numbers: &[i32; LANES], length: usize) -> [i32; LANES] {
    let mut sums = *numbers;
    // SAFETY: sixteen numbers of four bytes, read and written unaligned.
    unsafe {
        let mut all = _mm512_loadu_si512(numbers.as_ptr().cast());
        if length > 1 {
            all = _mm512_add_epi32(all, _mm512_alignr_epi32::<1>(all, all));
        }
        if length > 2 {
            all = _mm512_add_epi32(all, _mm512_alignr_epi32::<2>(all, all));
        }
        if length > 4 {
            all = _mm512_add_epi32(all, _mm512_alignr_epi32::<4>(all, all));
        }
        _mm512_storeu_si512(sums.as_mut_ptr().cast(), all);
    }
    sums
}

/// Adds the products of lanes from one to before another, which share their scales; `totals` are the sums of their inputs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni,bmi2")]
fn add<const CENTRED: bool, const T: usize>(
    panel: &Panel,
    x: [&Chunk; T],
    [first, end]: [usize; 2],
    totals: [i32; T],
    centre: i32,
    sums: &mut [[__m512; VECTORS]; T],
) {
    let mut dots = [[_mm512_setzero_si512(); VECTORS]; T];
    if CENTRED {
        for t in 0..T {
            dots[t] = [_mm512_set1_epi32((totals[t] << centre).wrapping_neg()); VECTORS];
        }
    }
    for lane in first..end {
        let codes = &panel.codes[lane];
        for k in 0..4 {
            for t in 0..T {
                let four = x[t].codes[k].as_chunks::<4>().0[lane];
                let four = _mm512_set1_epi32(i32::from_ne_bytes(four.map(|code| code as u8)));
                for vector in 0..VECTORS {
                    // SAFETY: 64 bytes, as aligned as the panel.
                    let codes = unsafe { _mm512_load_si512(codes[k][vector].as_ptr().cast()) };
                    dots[t][vector] = _mm512_dpbusd_epi32(dots[t][vector], codes, four);
                }
            }
        }
    }
    for t in 0..T {
        let scale = x[t].scales[first];
        let total = _mm512_set1_ps(totals[t] as f32 * scale);
        let scale = _mm512_set1_ps(scale);
        for vector in 0..VECTORS {
            let products = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[t][vector]), scale);
            // SAFETY: sixteen numbers each, as aligned as the panel.
            unsafe {
                let scales = _mm512_load_ps(panel.scales[first][vector].as_ptr());
                sums[t][vector] = _mm512_fmadd_ps(products, scales, sums[t][vector]);
                if !CENTRED {
                    let offsets = _mm512_load_ps(panel.offsets[first][vector].as_ptr());
                    sums[t][vector] = _mm512_fmadd_ps(total, offsets, sums[t][vector]);
                }
            }
        }
    }
}
