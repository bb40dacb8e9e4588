//! From packed words to levels and scales, in registers.

use super::coding::{Coding, Level, Scaling};
use cubecl::prelude::*;

/// Every second bit.
const EVEN: u32 = 0x5555_5555;
/// The lowest bit of each half.
const HALVES: u32 = 0x0001_0001;

/// An integer of `bits` at bit `shift` of a word, less `middle`, as f32: the field becomes the mantissa of a number whose
/// last place is one, from which that number's own 2^(23 − shift) is taken again. Exact while `shift + bits` ≤ 23.
#[cube]
fn integer(word: u32, #[comptime] shift: u32, #[comptime] bits: u32, #[comptime] middle: u32) -> f32 {
    let mask = comptime!(((1u32 << bits) - 1) << shift);
    let exponent = comptime!((127 + 23 - shift) << 23);
    let less = comptime!(((1u32 << (23 - shift)) + middle) as f32);
    f32::reinterpret((word & mask) | exponent) - less
}

/// Field number `at` of a chunk as f32, less `middle`.
#[cube]
fn field(words: &Array<u32>, #[comptime] at: usize, #[comptime] bits: u32, #[comptime] middle: u32) -> f32 {
    let word = comptime!(at * bits as usize / 32);
    let shift = comptime!(at as u32 * bits % 32);
    if comptime!(shift + bits <= 23) {
        integer(words[word], shift, bits, middle)
    } else if comptime!(shift + bits <= 32) {
        integer(words[word] >> 16u32, comptime!(shift - 16), bits, middle)
    } else {
        let low = words[word] >> shift;
        let high = words[comptime!(word + 1)] << comptime!(32 - shift);
        integer(low | high, 0u32, bits, middle)
    }
}

/// A number of one sign bit, `exponent` and `mantissa` bits, in the lowest bits of a word whose others are zero.
#[cube]
pub(crate) fn float(word: u32, #[comptime] exponent: u32, #[comptime] mantissa: u32) -> f32 {
    if comptime!(exponent == 8) {
        f32::reinterpret(word << comptime!(23 - mantissa))
    } else {
        let magnitude = word & comptime!((1u32 << (exponent + mantissa)) - 1);
        let wide = magnitude << comptime!(23 - mantissa);
        // The same number with the exponent of f32; subnormal ones one exponent up, less what that adds.
        let bias = comptime!((128u32 - (1 << (exponent - 1))) << 23);
        let one = comptime!((129u32 - (1 << (exponent - 1))) << 23);
        let normal = f32::reinterpret(wide + bias);
        let subnormal = f32::reinterpret(wide + one) - f32::reinterpret(one.runtime());
        let value = select(magnitude < comptime!(1u32 << mantissa), subnormal, normal);
        let sign = (word >> comptime!(exponent + mantissa)) << 31u32;
        f32::reinterpret(u32::reinterpret(value) | sign)
    }
}

/// Ternary codes as one more than their level: 0, 1, 2 for −1, 0, +1.
#[cube]
fn raised(word: u32, #[comptime] ones: u32) -> u32 {
    ((word & ones) << 1u32) | (!(word | (word >> 1u32)) & ones)
}

/// Five trits of each byte, two bytes at a time in the halves of a word.
#[cube]
fn trits(
    word: u32,
    levels: &mut Array<f32>,
    others: &mut Array<f32>,
    #[comptime] from: usize,
    #[comptime] coding: Coding,
) {
    #[unroll]
    for odd in 0..2usize {
        // Bytes 0 and 2, then 1 and 3.
        let mut rest = (word >> comptime!(8 * odd as u32)) & 0x00ff_00ffu32;
        #[unroll]
        for trit in 0..5usize {
            // A third, rounded down, for all of 0..=255: 171 / 512.
            let third = ((rest * 171u32) >> 9u32) & 0x007f_007fu32;
            let code = rest - third * 3u32;
            rest = third;
            let low = comptime!(from + 5 * odd + trit);
            let high = comptime!(from + 5 * odd + 10 + trit);
            if comptime!(coding.two_sided()) {
                levels[low] = integer(code, 0u32, 1u32, 0u32);
                levels[high] = integer(code, 16u32, 1u32, 0u32);
                others[low] = integer(code, 1u32, 1u32, 0u32);
                others[high] = integer(code, 17u32, 1u32, 0u32);
            } else {
                let code = raised(code, HALVES);
                levels[low] = integer(code, 0u32, 2u32, 1u32);
                levels[high] = integer(code, 16u32, 2u32, 1u32);
            }
        }
    }
}

/// Unpacks chunk number `chunk`, counted from the beginning of the buffer, into `levels[from..from + coding.chunk()]`;
/// of two-sided codes those that stand for the offset go to `others`.
#[cube]
pub(crate) fn unpack<W: Size>(
    words: &[Vector<u32, W>],
    chunk: usize,
    levels: &mut Array<f32>,
    others: &mut Array<f32>,
    #[comptime] from: usize,
    #[comptime] coding: Coding,
) {
    let mut own = Array::<u32>::new(comptime!(coding.words()));
    let (loads, width) = comptime!((coding.words() / coding.width(), coding.width()));
    #[unroll]
    for load in 0..loads {
        let vector = words[chunk * loads + load];
        #[unroll]
        for lane in 0..width {
            own[comptime!(load * width + lane)] = vector.extract(lane);
        }
    }
    if comptime!(matches!(coding.level, Level::Trits | Level::TwoSidedTrits)) {
        trits(own[0], levels, others, from, coding);
    } else if comptime!(coding.level == Level::Ternary) {
        own[0] = raised(own[0], EVEN);
        #[unroll]
        for at in 0..16usize {
            levels[comptime!(from + at)] = field(&own, at, 2u32, 1u32);
        }
    } else if comptime!(coding.level == Level::TwoSided) {
        let above = own[0] & EVEN;
        let below = (own[0] >> 1u32) & EVEN;
        let mut sides = Array::<u32>::new(2usize);
        sides[0] = above;
        sides[1] = below;
        #[unroll]
        for at in 0..16usize {
            levels[comptime!(from + at)] = field(&sides, at, 2u32, 0u32);
            others[comptime!(from + at)] = field(&sides, comptime!(at + 16), 2u32, 0u32);
        }
    } else {
        #[unroll]
        for at in 0..comptime!(coding.chunk()) {
            levels[comptime!(from + at)] = level(&own, at, coding);
        }
    }
}

/// Code number `at` of a chunk of integers or floating-point numbers.
#[cube]
fn level(own: &Array<u32>, #[comptime] at: usize, #[comptime] coding: Coding) -> f32 {
    let bits = comptime!(coding.bits() as u32);
    let (is_int, middle) = comptime!(match coding.level {
        Level::Int { middle, .. } => (true, middle),
        _ => (false, 0),
    });
    if comptime!(is_int) {
        field(own, at, bits, middle)
    } else {
        let (exponent, mantissa) = comptime!(match coding.level {
            Level::Float { exponent, mantissa } => (exponent, mantissa),
            _ => (8, 23),
        });
        let shift = comptime!(at as u32 * bits % 32);
        let word = own[comptime!(at * bits as usize / 32)] >> shift;
        float(word & comptime!(u32::MAX >> (32 - bits)), exponent, mantissa)
    }
}

/// Scale number `index`.
#[cube]
pub(crate) fn scale(scales: &[u32], index: usize, #[comptime] scaling: Scaling) -> f32 {
    if comptime!(scaling == Scaling::Half) {
        half(scales, index)
    } else {
        let byte = (scales[index / 4] >> (8u32 * (index % 4) as u32)) & 0xffu32;
        if comptime!(scaling == Scaling::Byte) {
            float(byte << 7u32, 5u32, 10u32)
        } else {
            // 2⁻¹²⁷ is no normal number and may read as zero.
            f32::reinterpret(byte << 23u32)
        }
    }
}

/// f16 number `index`.
#[cube]
pub(crate) fn half(numbers: &[u32], index: usize) -> f32 {
    float((numbers[index / 2] >> (16u32 * (index % 2) as u32)) & 0xffffu32, 5u32, 10u32)
}
