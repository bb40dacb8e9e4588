//! Formats, numbers, grams and objectives.

use moepress_quant::solve::{Factor, Options, Report};
use moepress_quant::{Format, Grouped, Packed};

pub(crate) const FORMATS: [&str; 17] = [
    "ternary-g32",
    "ternary-g128",
    "int2-g64",
    "int3-g128",
    "int4-g32",
    "int8-g64",
    "int2-sym-g32",
    "int3-sym-g64",
    "int4-sym-g128",
    "int8-sym-g32",
    "ternary-row",
    "int4-row",
    "int3-sym-g16",
    "ternary-asym-g32",
    "int4-row-ue5m3",
    "fp8-g64",
    "mxfp4",
];

pub(crate) fn grouped(name: &str) -> Grouped {
    match name.parse() {
        Ok(Format::Grouped(grouped)) => grouped,
        other => panic!("{name}: {other:?}"),
    }
}

/// Numbers in −1..1 from a seed.
pub(crate) fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        // xorshift64*.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The gram of `tokens` inputs whose columns share a few directions.
pub(crate) fn gram(seed: u64, cols: usize, tokens: usize) -> Vec<f64> {
    let (x, shared) = (noise(seed, tokens * cols), noise(seed + 1, tokens));
    let x: Vec<f64> =
        x.iter().enumerate().map(|(at, &x)| f64::from(x) + 0.7 * f64::from(shared[at / cols])).collect();
    let mut gram = vec![0.0; cols * cols];
    for x in x.chunks(cols.max(1)) {
        for (gram, a) in gram.chunks_mut(cols).zip(x) {
            gram.iter_mut().zip(x).for_each(|(gram, b)| *gram += a * b);
        }
    }
    gram
}

pub(crate) fn diagonal(gram: &[f64]) -> Vec<f64> {
    gram.iter().step_by(gram.len().isqrt() + 1).copied().collect()
}

pub(crate) fn identity(cols: usize) -> Vec<f64> {
    (0..cols * cols).map(|at| f64::from(u8::from(at / cols == at % cols))).collect()
}

/// tr((W − Q) G (W − Q)ᵀ).
pub(crate) fn objective(gram: &[f64], w: &[f32], q: &[f32]) -> f64 {
    let cols = gram.len().isqrt();
    let row = |(w, q): (&[f32], &[f32])| -> f64 {
        let e: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(w - q)).collect();
        let product = gram.chunks(cols).map(|g| g.iter().zip(&e).map(|(g, e)| g * e).sum::<f64>());
        product.zip(&e).map(|(p, e)| p * e).sum()
    };
    w.chunks(cols).zip(q.chunks(cols)).map(row).sum()
}

pub(crate) fn solve(
    gram: &[f64],
    options: Options,
    format: Grouped,
    rows: usize,
    w: &[f32],
) -> (Packed, Report) {
    let factor = Factor::new(gram, gram.len().isqrt(), options).unwrap();
    factor.solve(format, rows, w).unwrap()
}
