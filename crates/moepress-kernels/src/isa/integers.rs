//! Activations to eight bits with AVX-512 VBMI and VNNI; bit for bit what [`Chunk::new`] makes of them.

use crate::activations::{BLOCK, CHUNK, Chunk, LANES, Order, ROUND, scale};
use std::arch::x86_64::*;

/// Of up to 256 values; the rest are zeros.
pub(super) fn chunk(values: &[f32], order: Order) -> Chunk {
    debug_assert!(super::avx512::available());
    // SAFETY: `super::chunks` names this function only where `available` holds.
    unsafe { enabled(values, order) }
}

/// By order and phase: for each byte of a phase the place of its activation within the half of the chunk it is in.
static PLACES: [[[u8; 64]; 4]; 3] = [places(Order::Pairs), places(Order::Nibbles), places(Order::Straight)];

const fn places(order: Order) -> [[u8; 64]; 4] {
    let mut places = [[0; 64]; 4];
    let mut k = 0;
    while k < 4 {
        let mut i = 0;
        while i < 64 {
            places[k][i] = ((16 * (i / 4) + order.place(k, i % 4)) % 128) as u8;
            i += 1;
        }
        k += 1;
    }
    places
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn enabled(values: &[f32], order: Order) -> Chunk {
    let mut chunk = Chunk::ZERO;
    let mut padded = [0.0; CHUNK];
    let values = match values.first_chunk::<CHUNK>() {
        Some(values) => values,
        None => {
            padded[..values.len()].copy_from_slice(values);
            &padded
        }
    };
    let mut codes = [0u8; CHUNK];
    for block in 0..CHUNK / BLOCK {
        let mut vectors = [_mm512_setzero_ps(); BLOCK / 16];
        let mut largest = _mm512_setzero_si512();
        for i in 0..BLOCK / 16 {
            // SAFETY: sixteen of the values, read unaligned.
            vectors[i] = unsafe { _mm512_loadu_ps(values.as_ptr().add(BLOCK * block + 16 * i)) };
            let magnitude = _mm512_and_si512(_mm512_castps_si512(vectors[i]), _mm512_set1_epi32(0x7fff_ffff));
            largest = _mm512_max_epu32(largest, magnitude);
        }
        let (step, inverse) = scale(_mm512_reduce_max_epu32(largest));
        chunk.scales[8 * block..][..8].fill(step);
        for i in 0..BLOCK / 16 {
            let scaled = _mm512_mul_ps(vectors[i], _mm512_set1_ps(inverse));
            let rounded = _mm512_castps_si512(_mm512_add_ps(scaled, _mm512_set1_ps(ROUND)));
            // SAFETY: sixteen of the codes, written unaligned.
            unsafe {
                _mm_storeu_si128(
                    codes.as_mut_ptr().add(BLOCK * block + 16 * i).cast(),
                    _mm512_cvtepi32_epi8(rounded),
                );
            }
        }
    }
    // SAFETY: 64 bytes each: four parts of the codes, read unaligned; places, unaligned; phases and sums, which are aligned.
    unsafe {
        let part = |at: usize| codes.as_ptr().add(64 * at).cast();
        let parts = [
            _mm512_loadu_si512(part(0)),
            _mm512_loadu_si512(part(1)),
            _mm512_loadu_si512(part(2)),
            _mm512_loadu_si512(part(3)),
        ];
        let mut sums = _mm512_setzero_si512();
        for k in 0..4 {
            let places = _mm512_loadu_si512(PLACES[order as usize][k].as_ptr().cast());
            let low = _mm512_permutex2var_epi8(parts[0], places, parts[1]);
            let high = _mm512_permutex2var_epi8(parts[2], places, parts[3]);
            let phase = _mm512_mask_blend_epi32(0xff00, low, high);
            _mm512_store_si512(chunk.codes[k].as_mut_ptr().cast(), phase);
            sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), phase);
        }
        _mm512_store_si512(chunk.sums.as_mut_ptr().cast(), sums);
    }
    const { assert!(LANES == 16) };
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_same_integers(
            values in proptest::collection::vec(-3f32..3.0, 0..=CHUNK), exponent in -140i32..120, at in 0usize..3,
        ) {
            let order = [Order::Pairs, Order::Nibbles, Order::Straight][at];
            let values: Vec<f32> = values.iter().map(|x| x * 2f32.powi(exponent)).collect();
            if let Some(make) = crate::isa::chunks() {
                let (found, wanted) = (make(&values, order), Chunk::new(&values, order));
                prop_assert_eq!(found.codes, wanted.codes);
                prop_assert_eq!(found.sums, wanted.sums);
                prop_assert_eq!(found.scales, wanted.scales);
            }
        }
    }
}
