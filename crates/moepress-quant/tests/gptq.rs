//! GPTQ against its definition: a dense reference, brute force, rounding to nearest, and grams that are none.

#![cfg(test)]

use moepress_quant::formats::{EncodeError, Grid, GridError, encode_nearest, implementation};
use moepress_quant::solve::{Curvature, Factor, Options, Report, SolveError};
use moepress_quant::{Code, Format, Grouped, Packed};
use proptest::prelude::*;
use rayon::prelude::*;

const FORMATS: [&str; 10] = [
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
];

fn grouped(name: &str) -> Grouped {
    match name.parse() {
        Ok(Format::Grouped(grouped)) => grouped,
        other => panic!("{name}: {other:?}"),
    }
}

/// Numbers in −1..1 from a seed.
fn noise(seed: u64, n: usize) -> Vec<f32> {
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
fn gram(seed: u64, cols: usize, tokens: usize) -> Vec<f64> {
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

fn identity(cols: usize) -> Vec<f64> {
    (0..cols * cols).map(|at| f64::from(u8::from(at / cols == at % cols))).collect()
}

/// tr((W − Q) G (W − Q)ᵀ).
fn objective(gram: &[f64], w: &[f32], q: &[f32]) -> f64 {
    let cols = gram.len().isqrt();
    let row = |(w, q): (&[f32], &[f32])| -> f64 {
        let e: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(w - q)).collect();
        let product = gram.chunks(cols).map(|g| g.iter().zip(&e).map(|(g, e)| g * e).sum::<f64>());
        product.zip(&e).map(|(p, e)| p * e).sum()
    };
    w.chunks(cols).zip(q.chunks(cols)).map(row).sum()
}

fn solve(gram: &[f64], options: Options, format: Grouped, rows: usize, w: &[f32]) -> (Packed, Report) {
    let factor = Factor::new(gram, gram.len().isqrt(), options).unwrap();
    factor.solve(format, rows, w).unwrap()
}

/// GPTQ as published, in f64: Hinv is updated after every column, nothing is factored.
fn reference(gram: &[f64], options: Options, format: Grouped, w: &[f32]) -> Vec<f32> {
    let n = gram.len().isqrt();
    let diagonal: Vec<f64> = (0..n).map(|i| gram[i * n + i]).collect();
    let damp = options.damp * diagonal.iter().sum::<f64>() / n as f64;
    let mut order: Vec<usize> = (0..n).collect();
    if options.act_order {
        order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
    }
    let h = |i: usize, j: usize| gram[order[i] * n + order[j]] + if i == j { damp } else { 0.0 };
    let inverse = inverse((0..n * n).map(|at| h(at / n, at % n)).collect(), n);
    let implementation = implementation(format).unwrap();
    let mut out = Vec::new();
    for w in w.chunks(n) {
        let mut inverse = inverse.clone();
        let fit = |w: &[f64], from: usize, to: usize| {
            let w: Vec<f32> = w[from..to].iter().map(|&w| w as f32).collect();
            implementation.fit(&w, options.weighted.then_some(&diagonal[from..to])).unwrap()
        };
        let mut current: Vec<f64> = w.iter().map(|&w| f64::from(w)).collect();
        let ends = |group: usize| (group * format.group, n.min((group + 1) * format.group));
        let mut grids: Vec<Grid> =
            (0..n.div_ceil(format.group)).map(|g| fit(&current, ends(g).0, ends(g).1)).collect();
        let mut q = vec![0.0; n];
        for i in 0..n {
            let col = order[i];
            let group = col / format.group;
            if !options.act_order && col % format.group == 0 {
                grids[group] = fit(&current, ends(group).0, ends(group).1);
            }
            let code = implementation.round(current[col] as f32, grids[group]);
            q[col] = implementation.value(code, grids[group]);
            let error = (current[col] - f64::from(q[col])) / inverse[i * n + i];
            for j in i + 1..n {
                current[order[j]] -= error * inverse[i * n + j];
            }
            let (row, pivot) = (inverse[i * n..(i + 1) * n].to_vec(), inverse[i * n + i]);
            for j in i + 1..n {
                for k in i + 1..n {
                    inverse[j * n + k] -= row[j] * row[k] / pivot;
                }
            }
        }
        out.extend(q);
    }
    out
}

/// Gauss–Jordan.
fn inverse(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    let mut out = identity(n);
    for i in 0..n {
        let pivot = a[i * n + i];
        for j in 0..n {
            a[i * n + j] /= pivot;
            out[i * n + j] /= pivot;
        }
        for k in (0..n).filter(|&k| k != i) {
            let factor = a[k * n + i];
            for j in 0..n {
                a[k * n + j] -= factor * a[i * n + j];
                out[k * n + j] -= factor * out[i * n + j];
            }
        }
    }
    out
}

#[test]
fn agrees_with_the_published_loop() {
    // Several blocks, ragged groups, odd rows.
    for (seed, (rows, cols)) in [(3, 5), (19, 40), (2, 130), (21, 300)].into_iter().enumerate() {
        let (gram, w) = (gram(seed as u64 * 7, cols, 2 * cols), noise(seed as u64, rows * cols));
        for name in FORMATS {
            for (act_order, weighted) in [(false, false), (true, false), (false, true)] {
                let (format, options) = (grouped(name), Options { damp: 0.01, act_order, weighted });
                let (packed, report) = solve(&gram, options, format, rows, &w);
                let (ours, theirs) = (packed.to_f32(), reference(&gram, options, format, &w));
                // Rounding decides ties; one different code changes the rest of its row.
                let equal = ours.chunks(cols).zip(theirs.chunks(cols)).filter(|(a, b)| a == b).count();
                assert!(
                    equal + report.rows_nearest + 3 + rows / 4 >= rows,
                    "{name} {options:?}: {equal} of {rows}"
                );
                let (ours, theirs) = (objective(&gram, &w, &ours), objective(&gram, &w, &theirs));
                assert!(ours <= theirs * 1.03, "{name} {rows}×{cols} {options:?}: {ours} {theirs}");
                assert!((report.objective - ours).abs() <= 1e-4 * ours, "{report:?} {ours}");
            }
        }
    }
}
