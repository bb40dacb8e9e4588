//! GPTQ without any factorisation, in f64.

use crate::common::identity;
use moepress_quant::Grouped;
use moepress_quant::formats::{Grid, implementation};
use moepress_quant::solve::Options;

/// GPTQ as published, in f64: the inverse loses a row and a column at every step, nothing is factored.
pub(crate) fn reference(gram: &[f64], options: Options, format: Grouped, w: &[f32]) -> Vec<f32> {
    let n = gram.len().isqrt();
    let diagonal: Vec<f64> = (0..n).map(|i| gram[i * n + i]).collect();
    let damp = options.damp * diagonal.iter().sum::<f64>() / n as f64;
    let mut order: Vec<usize> = (0..n).collect();
    if options.act_order {
        order.sort_by(|&a, &b| diagonal[b].total_cmp(&diagonal[a]));
    }
    let h = |i: usize, j: usize| gram[order[i] * n + order[j]] + if i == j { damp } else { 0.0 };
    let mut inverse = inverse((0..n * n).map(|at| h(at / n, at % n)).collect(), n);
    // Row i of the inverse for the columns from i on.
    let mut shares = Vec::new();
    for i in 0..n {
        let row = inverse[i * n..(i + 1) * n].to_vec();
        for j in i + 1..n {
            let factor = row[j] / row[i];
            inverse[j * n..(j + 1) * n].iter_mut().zip(&row).for_each(|(v, r)| *v -= factor * r);
        }
        shares.push(row);
    }
    let implementation = implementation(format).unwrap();
    let mut out = Vec::new();
    for w in w.chunks(n) {
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
            if !options.act_order && col.is_multiple_of(format.group) {
                grids[group] = fit(&current, ends(group).0, ends(group).1);
            }
            let code = implementation.round(current[col] as f32, grids[group]);
            q[col] = implementation.value(code, grids[group]);
            let error = (current[col] - f64::from(q[col])) / shares[i][i];
            for j in i + 1..n {
                current[order[j]] -= error * shares[i][j];
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
