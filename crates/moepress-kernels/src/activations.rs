//! Inputs of products: f32 rows, and for the fast kernels the same as eight-bit integers.

use crate::rows::FEW;
use moepress_quant::{Code, Dtype, Format, Grouped};
use std::sync::OnceLock;

/// Columns of a chunk, what the fast kernels take at a time: sixteen lanes of sixteen.
pub(crate) const CHUNK: usize = 256;
/// Lanes of a chunk.
pub(crate) const LANES: usize = 16;
/// Columns whose activations share a scale.
pub(crate) const BLOCK: usize = 128;

/// How exact products are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32 throughout: for likelihoods.
    #[default]
    Exact,
    /// Activations rounded to eight bits per 128 columns where weights are packed, and to bf16 where sixteen or more
    /// rows meet bf16 weights: for generating text.
    Fast,
}

/// Rows of inputs `[n, cols]` that several matrices are multiplied with.
pub struct Activations<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) n: usize,
    pub(crate) precision: Precision,
    quantized: [OnceLock<Quantized>; 3],
    halves: OnceLock<Vec<u16>>,
}

impl<'a> Activations<'a> {
    /// `values` is `[n, cols]`; whether that is so is checked where cols are known, by the product.
    pub fn new(values: &'a [f32], n: usize, precision: Precision) -> Self {
        let quantized = [const { OnceLock::new() }; 3];
        Self { values, n, precision, quantized, halves: OnceLock::new() }
    }

    /// The rows themselves.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Makes what a product with weights in this format needs, unless it has been made.
    pub(crate) fn prepare(&self, format: Format) {
        match (self.precision, format) {
            (Precision::Fast, Format::Grouped(format)) => {
                if let Some(order) = Order::of(format) {
                    self.quantized(order);
                }
            }
            (Precision::Fast, Format::Plain(Dtype::Bf16)) if self.n >= FEW => {
                self.halves();
            }
            _ => {}
        }
    }

    pub(crate) fn quantized(&self, order: Order) -> &Quantized {
        self.quantized[order as usize].get_or_init(|| Quantized::new(self.values, self.n, order))
    }

    /// The values rounded to bf16, ties to even; NaN stays NaN.
    pub(crate) fn halves(&self) -> &[u16] {
        self.halves.get_or_init(|| self.values.iter().map(|&x| bf16(x)).collect())
    }
}

fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    match x.is_nan() {
        true => (bits >> 16) as u16 | 0x40,
        false => ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16,
    }
}

/// Where the sixteen activations of a lane lie: byte m of phase k is activation `place(k, m)`. Set by how codes
/// of that many bits come out of a packed row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Two bits: phase k is bits 2k and 2k + 1 of each byte.
    Pairs,
    /// Four bits: even phases are the low halves of bytes, odd ones the high halves.
    Nibbles,
    /// Three and eight bits: one after the other.
    Straight,
}

impl Order {
    /// None for codes that are no multiples of their scale: floating-point ones, and ternary ones with two scales.
    pub(crate) fn of(format: Grouped) -> Option<Self> {
        match format.code {
            Code::Ternary => format.symmetric.then_some(Self::Pairs),
            Code::Int(2) => Some(Self::Pairs),
            Code::Int(4) => Some(Self::Nibbles),
            Code::Int(_) => Some(Self::Straight),
            Code::Fp4 | Code::Fp8 => None,
        }
    }

    const fn place(self, phase: usize, byte: usize) -> usize {
        match self {
            Self::Pairs => 4 * byte + phase,
            Self::Nibbles => 8 * (phase / 2) + 2 * byte + phase % 2,
            Self::Straight => 4 * phase + byte,
        }
    }
}

/// A chunk of one row of activations. Lane d is columns 16 d to 16 d + 15; the dot product of a lane is the sum
/// over phases of that of bytes 4 d to 4 d + 3.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Chunk {
    pub(crate) codes: [[i8; 4 * LANES]; 4],
    /// Sums of the codes of a lane.
    pub(crate) sums: [i32; LANES],
    /// What the codes of a lane are multiplied by.
    pub(crate) scales: [f32; LANES],
}

/// Activations as integers, chunk by chunk, each chunk for all rows.
pub(crate) struct Quantized {
    chunks: Vec<Chunk>,
    pub(crate) n: usize,
}

impl Quantized {
    fn new(values: &[f32], n: usize, order: Order) -> Self {
        let cols = values.len().checked_div(n).unwrap_or(0);
        let count = cols.div_ceil(CHUNK);
        let places: [[usize; 4]; 4] = std::array::from_fn(|k| std::array::from_fn(|m| order.place(k, m)));
        let mut chunks = Vec::with_capacity(count * n);
        for chunk in 0..count {
            let columns = chunk * CHUNK..cols.min((chunk + 1) * CHUNK);
            chunks.extend((0..n).map(|row| Chunk::new(&values[row * cols..][columns.clone()], &places)));
        }
        Self { chunks, n }
    }

    /// A chunk of the rows `first..first + count`.
    pub(crate) fn rows(&self, chunk: usize, first: usize, count: usize) -> &[Chunk] {
        &self.chunks[chunk * self.n + first..][..count]
    }
}

impl Chunk {
    /// Of up to 256 values; the rest are zeros.
    fn new(values: &[f32], places: &[[usize; 4]; 4]) -> Self {
        let mut chunk = Self { codes: [[0; 64]; 4], sums: [0; LANES], scales: [0.0; LANES] };
        let mut codes = [0i8; CHUNK];
        for (block, (values, codes)) in values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK)).enumerate() {
            let (scale, inverse) = scale(values);
            values.iter().zip(codes.iter_mut()).for_each(|(x, code)| *code = nearest(x * inverse));
            chunk.scales[block * 8..][..8].fill(scale);
        }
        for (lane, codes) in codes.as_chunks::<LANES>().0.iter().enumerate() {
            chunk.sums[lane] = codes.iter().map(|&code| i32::from(code)).sum();
            for (phase, places) in chunk.codes.iter_mut().zip(places) {
                for (byte, &place) in places.iter().enumerate() {
                    phase[4 * lane + byte] = codes[place];
                }
            }
        }
        chunk
    }
}

/// The step of eight-bit codes and what to multiply by to find them. Magnitudes below 1.5e-36 become zeros;
/// values that are not finite make a step that is NaN.
fn scale(values: &[f32]) -> (f32, f32) {
    let largest = values.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
    let step = f32::from_bits(largest) / 127.0;
    match largest {
        0x7f80_0000.. => (f32::NAN, 0.0),
        _ if step < f32::MIN_POSITIVE => (0.0, 0.0),
        _ => (step, 127.0 / f32::from_bits(largest)),
    }
}

/// The integer nearest to a number in −127.5..127.5, ties to even.
fn nearest(x: f32) -> i8 {
    // From 1.5 · 2^23 on f32 numbers are the integers, so the addition rounds and the low bits are the integer:
    // unlike a call to round, vectorised everywhere.
    (x + 12_582_912.0).to_bits() as u8 as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_every_value_once_in_their_order() {
        let values: Vec<f32> = (0..300).map(|i| (i % 127) as f32).collect();
        for order in [Order::Pairs, Order::Nibbles, Order::Straight] {
            let x = Quantized::new(&values, 1, order);
            for (at, chunk) in [(0, &x.rows(0, 0, 1)[0]), (256, &x.rows(1, 0, 1)[0])] {
                for lane in 0..LANES {
                    let mut found = [0.0; 16];
                    for (phase, byte) in (0..4).flat_map(|k| (0..4).map(move |m| (k, m))) {
                        let code = chunk.codes[phase][4 * lane + byte];
                        found[order.place(phase, byte)] = f32::from(code) * chunk.scales[lane];
                    }
                    for (i, found) in found.iter().enumerate() {
                        let wanted = values.get(at + 16 * lane + i).copied().unwrap_or(0.0);
                        assert!((found - wanted).abs() <= 0.5, "{order:?}: {found} for {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn steps_and_extremes() {
        assert_eq!([-127.4, -0.5, 0.5, 1.5, 127.0].map(nearest), [-127, 0, 0, 2, 127]);
        assert!(scale(&[1.0, f32::NAN]).0.is_nan() && scale(&[f32::NEG_INFINITY]).0.is_nan());
        assert_eq!((scale(&[]), scale(&[1e-37])), ((0.0, 0.0), (0.0, 0.0)));
        assert_eq!(scale(&[-254.0, 3.0]), (2.0, 0.5));
        assert_eq!(scale(&[f32::MAX]).1, 127.0 / f32::MAX);
        let ties = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
        assert_eq!(ties.map(bf16), [0x3f80, 0x3f82]);
        assert_eq!([1.0, -3.0, f32::INFINITY].map(bf16), [0x3f80, 0xc040, 0x7f80]);
        assert!(bf16(f32::NAN) & 0x7fff > 0x7f80);
    }
}
