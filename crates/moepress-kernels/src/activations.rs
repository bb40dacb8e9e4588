//! Inputs of products: f32 rows, and for the fast kernels the same as eight-bit integers.

use crate::isa;
use crate::rows::{FEW, in_fives};
use crate::team;
use moepress_quant::{Code, Dtype, Format, Grouped, Stored};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Columns of a chunk, what the fast kernels take at a time: sixteen lanes of sixteen.
pub(crate) const CHUNK: usize = 256;
/// Lanes of a chunk.
pub(crate) const LANES: usize = 16;
/// Columns whose activations share a scale.
pub(crate) const BLOCK: usize = 128;

/// Chunks from which on they are made on all threads.
const MANY: usize = 256;

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
    values: Values<'a>,
    pub(crate) n: usize,
    pub(crate) precision: Precision,
    quantized: [OnceLock<Quantized>; 3],
    /// For groups of 32, of 64, and longer ones.
    fives: [OnceLock<Vec<Five>>; 3],
    halves: OnceLock<Vec<u16>>,
}

/// Where the rows are.
enum Values<'a> {
    /// All of these.
    All(&'a [f32]),
    /// Some of the rows of others, copied only where a product needs them side by side.
    Some { of: &'a Activations<'a>, rows: &'a [usize], copied: OnceLock<Vec<f32>> },
}

impl<'a> Activations<'a> {
    /// `values` is `[n, cols]`; whether that is so is checked where cols are known, by the product.
    pub fn new(values: &'a [f32], n: usize, precision: Precision) -> Self {
        Self::of(Values::All(values), n, precision)
    }

    /// Some rows of other inputs, in any order: they share what is made of those.
    ///
    /// # Panics
    /// A row that the others do not have.
    pub fn some(of: &'a Activations<'a>, rows: &'a [usize]) -> Self {
        assert!(rows.iter().all(|&row| row < of.n), "rows {rows:?} of {}", of.n);
        Self::of(Values::Some { of, rows, copied: OnceLock::new() }, rows.len(), of.precision)
    }

    fn of(values: Values<'a>, n: usize, precision: Precision) -> Self {
        let quantized = [const { OnceLock::new() }; 3];
        let fives = [const { OnceLock::new() }; 3];
        Self { values, n, precision, quantized, fives, halves: OnceLock::new() }
    }

    /// The rows themselves.
    pub fn values(&self) -> &[f32] {
        match &self.values {
            Values::All(values) => values,
            Values::Some { of, rows, copied } => copied.get_or_init(|| {
                let (values, cols) = (of.values(), of.elements() / of.n.max(1));
                let mut copy = Vec::with_capacity(rows.len() * cols);
                rows.iter().for_each(|&row| copy.extend_from_slice(&values[row * cols..(row + 1) * cols]));
                copy
            }),
        }
    }

    /// How many numbers they are.
    pub(crate) fn elements(&self) -> usize {
        match &self.values {
            Values::All(values) => values.len(),
            Values::Some { of, rows, .. } => of.elements().checked_div(of.n).unwrap_or(0) * rows.len(),
        }
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Makes what products need of their inputs, so that no thread waits for another in the middle of a product.
    pub(crate) fn prepare(products: &[(&Self, &Stored)]) {
        let mut made: Vec<(&Self, Format)> = Vec::with_capacity(products.len());
        for (x, w) in products {
            let packed = matches!(w.format(), Format::Grouped(format) if Order::of(format).is_some());
            let needed =
                (if packed && x.precision == Precision::Fast { x.whole().0 } else { *x }, w.format());
            // Products with the same inputs follow each other.
            if made.last().is_none_or(|last| !std::ptr::eq(last.0, needed.0) || last.1 != needed.1) {
                made.push(needed);
            }
        }
        match team::stands_by() {
            true => made.iter().for_each(|(x, format)| x.make(*format)),
            false => made.par_iter().for_each(|(x, format)| x.make(*format)),
        }
        for (x, w) in products {
            if let Some(packed) = in_fives(x, w) {
                x.fives(packed.format.group);
            }
        }
    }

    /// Makes what products with weights in this format need, unless it has been made.
    fn make(&self, format: Format) {
        match (self.precision, format) {
            (Precision::Fast, Format::Grouped(format)) if let Some(order) = Order::of(format) => {
                let made = &self.quantized[order as usize];
                if made.get().is_none() {
                    // Not within the lock: a thread that waits for others takes up their work, which may need the lock.
                    let _ = made.set(Quantized::new(self.values(), self.n, order));
                }
            }
            (Precision::Fast, Format::Plain(Dtype::Bf16)) if self.n >= FEW => {
                self.halves();
            }
            _ => {
                self.values();
            }
        }
    }

    /// The rows that integers are made of, and which of them these are where they are not all.
    fn whole(&self) -> (&Self, Option<&[usize]>) {
        match &self.values {
            // Rows of rows are copied.
            Values::Some { of, rows, .. } if matches!(of.values, Values::All(_)) => (of, Some(rows)),
            _ => (self, None),
        }
    }

    pub(crate) fn quantized(&self, order: Order) -> Integers<'_> {
        let (of, rows) = self.whole();
        let made = || Quantized::new(of.values(), of.n, order);
        Integers { of: of.quantized[order as usize].get_or_init(made), rows, n: self.n }
    }

    /// The integers in chunks for codes in five-trit bytes, row after row, where that many weights share a scale.
    pub(crate) fn fives(&self, group: usize) -> &[Five] {
        let (of, length) = match group {
            32 => (&self.fives[0], 32),
            64 => (&self.fives[1], 64),
            _ => (&self.fives[2], BLOCK),
        };
        of.get_or_init(|| {
            let (x, cols) = (self.quantized(Order::Pairs), self.elements() / self.n.max(1));
            let chunks = cols.div_ceil(Five::COLUMNS);
            (0..self.n * chunks).map(|at| Five::new(x, at / chunks, at % chunks, [cols, length])).collect()
        })
    }

    /// The values rounded to bf16, ties to even; NaN stays NaN.
    pub(crate) fn halves(&self) -> &[u16] {
        self.halves.get_or_init(|| self.values().iter().map(|&x| bf16(x)).collect())
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

    pub(crate) const fn place(self, phase: usize, byte: usize) -> usize {
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

/// 320 activations in lanes of twenty, for codes in five-trit bytes: byte i of phase k is activation 5 i + k. A lane may
/// reach into a second group; its activations there are apart.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Five {
    /// Zero where the activation is in the other part.
    pub(crate) codes: [[[i8; 4 * LANES]; 5]; 2],
    /// Sums of the codes of a lane.
    pub(crate) sums: [[i32; LANES]; 2],
    /// What the codes of a lane are multiplied by.
    pub(crate) scales: [[f32; LANES]; 2],
}

impl Five {
    pub(crate) const COLUMNS: usize = 20 * LANES;

    /// Chunk number `chunk` of a row of `cols` columns, of which `group` share a scale, at most a block.
    fn new(x: Integers<'_>, input: usize, chunk: usize, [cols, group]: [usize; 2]) -> Self {
        let mut five =
            Self { codes: [[[0; 4 * LANES]; 5]; 2], sums: [[0; LANES]; 2], scales: [[0.0; LANES]; 2] };
        let first = chunk * Self::COLUMNS;
        for at in 0..Self::COLUMNS.min(cols - first) {
            let (column, lane) = (first + at, at / 20);
            let from = x.chunk(column / CHUNK, input);
            let (of, place) = (column % CHUNK / LANES, column % LANES);
            // As `Order::Pairs` has it.
            let code = from.codes[place % 4][4 * of + place / 4];
            let part = usize::from(column / group != (first + 20 * lane) / group);
            five.codes[part][at % 5][at / 5] = code;
            five.sums[part][lane] += i32::from(code);
            five.scales[part][lane] = from.scales[of];
        }
        five
    }
}

/// Activations as integers, chunk by chunk, each chunk for all rows.
pub(crate) struct Quantized {
    chunks: Vec<Chunk>,
    /// What the codes of each block of a row are multiplied by.
    steps: Vec<Vec<f32>>,
    n: usize,
}

/// Some rows of activations as integers, or all.
#[derive(Clone, Copy)]
pub(crate) struct Integers<'a> {
    of: &'a Quantized,
    rows: Option<&'a [usize]>,
    pub(crate) n: usize,
}

impl<'a> Integers<'a> {
    /// A chunk of one row.
    #[inline(always)]
    pub(crate) fn chunk(&self, chunk: usize, input: usize) -> &'a Chunk {
        &self.of.chunks[chunk * self.of.n + self.row(input)]
    }

    /// What the codes of each block of a row are multiplied by, from a chunk on.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))] // `isa::few` alone takes them so
    #[inline(always)]
    pub(crate) fn steps(&self, input: usize, chunk: usize) -> &'a [f32] {
        &self.of.steps[self.row(input)][CHUNK / BLOCK * chunk..]
    }

    #[inline(always)]
    fn row(&self, input: usize) -> usize {
        match self.rows {
            Some(rows) => rows[input],
            None => input,
        }
    }
}

impl Quantized {
    fn new(values: &[f32], n: usize, order: Order) -> Self {
        let cols = values.len().checked_div(n).unwrap_or(0);
        let count = cols.div_ceil(CHUNK);
        let make = isa::chunks().unwrap_or(Chunk::new);
        let chunk = |at: usize| {
            let (chunk, row) = (at / n, at % n);
            make(&values[row * cols..][chunk * CHUNK..cols.min((chunk + 1) * CHUNK)], order)
        };
        let chunks: Vec<Chunk> = match count * n < MANY || team::stands_by() {
            true => (0..count * n).map(chunk).collect(),
            false => (0..count * n).into_par_iter().map(chunk).collect(),
        };
        let of_chunk = |chunk: &Chunk| chunk.scales.into_iter().step_by(LANES * BLOCK / CHUNK);
        let steps =
            (0..n).map(|row| chunks.iter().skip(row).step_by(n).flat_map(of_chunk).collect()).collect();
        Self { chunks, steps, n }
    }
}

impl Chunk {
    pub(crate) const ZERO: Self = Self { codes: [[0; 64]; 4], sums: [0; LANES], scales: [0.0; LANES] };

    /// Of up to 256 values; the rest are zeros.
    pub(crate) fn new(values: &[f32], order: Order) -> Self {
        let mut chunk = Self::ZERO;
        let mut codes = [0i8; CHUNK];
        for (block, (values, codes)) in values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK)).enumerate() {
            let largest = values.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
            let (scale, inverse) = scale(largest);
            values.iter().zip(codes.iter_mut()).for_each(|(x, code)| *code = nearest(x * inverse));
            chunk.scales[block * 8..][..8].fill(scale);
        }
        for (lane, codes) in codes.as_chunks::<LANES>().0.iter().enumerate() {
            chunk.sums[lane] = codes.iter().map(|&code| i32::from(code)).sum();
            for (k, phase) in chunk.codes.iter_mut().enumerate() {
                for byte in 0..4 {
                    phase[4 * lane + byte] = codes[order.place(k, byte)];
                }
            }
        }
        chunk
    }
}

/// The step of eight-bit codes and what to multiply by to find them, of values whose largest magnitude has these bits. Magnitudes
/// below 1.5e-36 become zeros; values that are not finite make a step that is NaN.
pub(crate) fn scale(largest: u32) -> (f32, f32) {
    let step = f32::from_bits(largest) / 127.0;
    match largest {
        0x7f80_0000.. => (f32::NAN, 0.0),
        _ if step < f32::MIN_POSITIVE => (0.0, 0.0),
        _ => (step, 127.0 / f32::from_bits(largest)),
    }
}

/// 1.5 · 2²³: from 2²³ on f32 numbers are the integers, so its addition rounds, ties to even, and the low bits are the integer:
/// unlike a call to round, vectorised everywhere.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// The integer nearest to a number in −127.5..127.5.
fn nearest(x: f32) -> i8 {
    (x + ROUND).to_bits() as u8 as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_every_value_once_in_their_order() {
        let values: Vec<f32> = (0..300).map(|i| (i % 127) as f32).collect();
        for order in [Order::Pairs, Order::Nibbles, Order::Straight] {
            let x = Quantized::new(&values, 1, order);
            for (at, chunk) in [(0, &x.chunks[0]), (256, &x.chunks[1])] {
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
        let scale = |largest: f32| scale(largest.to_bits());
        assert!(scale(f32::NAN).0.is_nan() && scale(f32::INFINITY).0.is_nan());
        assert_eq!((scale(0.0), scale(1e-37)), ((0.0, 0.0), (0.0, 0.0)));
        assert_eq!(scale(254.0), (2.0, 0.5));
        assert_eq!(scale(f32::MAX).1, 127.0 / f32::MAX);
        let ties = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0];
        assert_eq!(ties.map(bf16), [0x3f80, 0x3f82]);
        assert_eq!([1.0, -3.0, f32::INFINITY].map(bf16), [0x3f80, 0xc040, 0x7f80]);
        assert!(bf16(f32::NAN) & 0x7fff > 0x7f80);
    }
}
