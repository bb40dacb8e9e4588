//! Few inputs and codes in five-trit bytes: AVX-512 VBMI and VNNI, straight from memory.
//!
//! Two tables of 256 entries, each in four registers, turn a byte into four fields of two bits and one more: 64 bytes at a time
//! into 320 codes. A lane is twenty columns then, which the groups of a row do not keep to: columns of a lane that belong to
//! the group after are met by activations of their own.

use super::avx512::{load, pairs};
use crate::activations::{Five, LANES};
use crate::part::Part;
use crate::rows::{Decode, FEW};
use moepress_quant::{Grouped, Packed};
use std::arch::x86_64::*;

/// Bytes between what is read and what is asked for.
const AHEAD: usize = 4096;
/// Rows of weights that meet at a time.
const ROWS: usize = 2;

/// Of every byte, 64 to a register: the weights of its first four trits plus one, in fields of two bits.
static FOUR: [[u8; 64]; 4] = table(0, 4);
/// The same of the fifth.
static FIFTH: [[u8; 64]; 4] = table(4, 5);

const fn table(first: u32, end: u32) -> [[u8; 64]; 4] {
    let mut table = [[0; 64]; 4];
    let mut byte = 0;
    while byte < 243 {
        let mut trit = first;
        while trit < end {
            // 0, 1, 2 are 0, 1, −1.
            let plus_one = (byte / 3usize.pow(trit) % 3 + 1) % 3;
            table[byte / 64][byte % 64] |= (plus_one as u8) << (2 * (trit - first));
            trit += 1;
        }
        byte += 1;
    }
    table
}

/// x · Wᵀ for the rows of W from `first` on, for `n` rows of x of as many chunks each; groups are of 32 or more.
pub(super) fn rows(x: &[Five], n: usize, w: &Packed, first: usize, decode: Decode, out: &mut Part<'_>) {
    debug_assert!(super::avx512::available());
    // SAFETY: `super::trits` names this function only where `available` holds.
    unsafe {
        match (n, decode) {
            (1, Decode::Tables) => enabled::<false, 1>(x, n, w, first, out),
            (1, Decode::Multiply) => enabled::<true, 1>(x, n, w, first, out),
            (_, Decode::Tables) => enabled::<false, FEW>(x, n, w, first, out),
            (_, Decode::Multiply) => enabled::<true, FEW>(x, n, w, first, out),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni,bmi2")]
fn enabled<const MULTIPLY: bool, const T: usize>(
    x: &[Five],
    n: usize,
    w: &Packed,
    first: usize,
    out: &mut Part<'_>,
) {
    let (width, groups) = (w.cols.div_ceil(5), w.format.row_groups(w.cols));
    let (bytes, chunks) = (w.codes.bytes(), width.div_ceil(64));
    let (shift, mask) = match w.format.group {
        Grouped::ROW => (usize::BITS - 1, usize::MAX),
        group => (group.ilog2(), group - 1),
    };
    let tables = Tables::load();
    let stride = out.rows().div_ceil(ROWS);
    for start in (0..n).step_by(T) {
        let inputs = if T == 1 { 1 } else { T.min(n - start) };
        for at in 0..stride {
            let (mut packed, mut scales) = ([bytes; ROWS], [&w.scales[..]; ROWS]);
            for r in 0..ROWS {
                // The last row is done twice rather than by code of its own.
                let row = first + (at + r * stride).min(out.rows() - 1);
                packed[r] = &bytes[row * width..][..width];
                scales[r] = &w.scales[row * groups..][..groups];
            }
            let mut sums = [[_mm512_setzero_ps(); ROWS]; T];
            for chunk in 0..chunks {
                let column = Five::COLUMNS * chunk;
                // Groups of the first and the last column of each lane, counted from the first group of the chunk.
                let (group, offset) = (column >> shift, column & mask);
                let places = [places(offset, 0, shift, mask), places(offset, 19, shift, mask)];
                let mut codes = [[_mm512_setzero_si512(); 5]; ROWS];
                let mut grids = [[_mm512_setzero_ps(); 2]; ROWS];
                for r in 0..ROWS {
                    let left = groups - group;
                    let mask = _bzhi_u32(0xffff, if left < 16 { left as u32 } else { 16 }) as __mmask16;
                    // SAFETY: of bytes and scales only those are read that the rows have; a chunk begins within both.
                    let (bytes, numbers) = unsafe {
                        _mm_prefetch::<_MM_HINT_T0>(
                            packed[r].as_ptr().wrapping_add(64 * chunk + AHEAD).cast(),
                        );
                        let numbers = scales[r].as_ptr().add(group).cast();
                        (load(packed[r].as_ptr(), 64 * chunk, width), _mm256_maskz_loadu_epi16(mask, numbers))
                    };
                    codes[r] = if MULTIPLY { multiplied(bytes) } else { tables.look_up(bytes) };
                    let numbers = _mm512_cvtph_ps(numbers);
                    for part in 0..2 {
                        grids[r][part] = _mm512_permutexvar_ps(places[part], numbers);
                    }
                }
                for t in 0..inputs {
                    let x = &x[(start + t) * chunks + chunk];
                    for part in 0..2 {
                        for r in 0..ROWS {
                            sums[t][r] = add(sums[t][r], &codes[r], grids[r][part], x, part);
                        }
                    }
                }
            }
            for r in 0..ROWS {
                let row = at + r * stride;
                for t in 0..if row < out.rows() { inputs } else { 0 } {
                    out.of_input(start + t)[row] = _mm512_reduce_add_ps(sums[t][r]);
                }
            }
        }
    }
}

/// For every lane the group of column `within` of its twenty.
#[inline]
#[target_feature(enable = "avx512f")]
fn places(offset: usize, within: usize, shift: u32, mask: usize) -> __m512i {
    if mask == usize::MAX {
        return _mm512_setzero_si512();
    }
    let lanes = _mm512_setr_epi32(0, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240, 260, 280, 300);
    let columns = _mm512_add_epi32(lanes, _mm512_set1_epi32((offset + within) as i32));
    _mm512_srl_epi32(columns, _mm_cvtsi32_si128(shift as i32))
}

/// Adds what the columns of one part of the lanes come to.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add(sums: __m512, codes: &[__m512i; 5], grid: __m512, x: &Five, part: usize) -> __m512 {
    const { assert!(LANES == 16) };
    // SAFETY: 64 bytes each, as aligned as the chunk.
    unsafe {
        let total = _mm512_load_si512(x.sums[part].as_ptr().cast());
        let mut dots = _mm512_sub_epi32(_mm512_setzero_si512(), total);
        for k in 0..5 {
            dots = _mm512_dpbusd_epi32(dots, codes[k], _mm512_load_si512(x.codes[part][k].as_ptr().cast()));
        }
        let products = _mm512_mul_ps(_mm512_cvtepi32_ps(dots), _mm512_load_ps(x.scales[part].as_ptr()));
        _mm512_fmadd_ps(products, grid, sums)
    }
}

/// Both tables in registers.
struct Tables {
    four: [__m512i; 4],
    fifth: [__m512i; 4],
}

impl Tables {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load() -> Self {
        let (mut four, mut fifth) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
        for i in 0..4 {
            // SAFETY: 64 bytes each, read unaligned.
            unsafe {
                four[i] = _mm512_loadu_si512(FOUR[i].as_ptr().cast());
                fifth[i] = _mm512_loadu_si512(FIFTH[i].as_ptr().cast());
            }
        }
        Self { four, fifth }
    }

    /// The weights of 64 bytes plus one, trit by trit.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
    fn look_up(&self, bytes: __m512i) -> [__m512i; 5] {
        let high = _mm512_movepi8_mask(bytes);
        let four = _mm512_mask_blend_epi8(
            high,
            _mm512_permutex2var_epi8(self.four[0], bytes, self.four[1]),
            _mm512_permutex2var_epi8(self.four[2], bytes, self.four[3]),
        );
        let fifth = _mm512_mask_blend_epi8(
            high,
            _mm512_permutex2var_epi8(self.fifth[0], bytes, self.fifth[1]),
            _mm512_permutex2var_epi8(self.fifth[2], bytes, self.fifth[3]),
        );
        // SAFETY: this function has the features that are needed.
        let [a, b, c, d] = unsafe { pairs(four) };
        [a, b, c, d, fifth]
    }
}

/// The same by arithmetic.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn multiplied(bytes: __m512i) -> [__m512i; 5] {
    // A fraction of 16 bits, at least byte / 243 and less than 1 / 243 above it: times 3, what it exceeds 1 by is the highest trit.
    let scale = _mm512_set1_epi16(270);
    let three = _mm512_set1_epi16(3);
    let mut even = _mm512_mullo_epi16(_mm512_and_si512(bytes, _mm512_set1_epi16(0xff)), scale);
    let mut odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(bytes), scale);
    // 0, 1, 2 are 0, 1, −1.
    let plus_one = _mm512_set1_epi32(0x0000_0201);
    let mut codes = [bytes; 5];
    for trit in 0..5 {
        let low = _mm512_mulhi_epu16(even, three);
        let high = _mm512_slli_epi16::<8>(_mm512_mulhi_epu16(odd, three));
        codes[4 - trit] = _mm512_shuffle_epi8(plus_one, _mm512_or_si512(low, high));
        even = _mm512_mullo_epi16(even, three);
        odd = _mm512_mullo_epi16(odd, three);
    }
    codes
}
