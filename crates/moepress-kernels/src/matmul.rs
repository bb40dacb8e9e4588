//! Products of whole matrices, several at a time, over all threads.

use crate::activations::Activations;
use crate::rows::{TILE, rows};
use crate::{MatmulError, shape, team};
use moepress_quant::Stored;
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Products of weights and inputs below which threads cost more than they save.
const SMALL: usize = 1 << 17;
/// The same where threads stand by.
const TINY: usize = 1 << 14;
/// Runs of tiles per thread: enough to even out, few enough to hand out.
const RUNS: usize = 4;

/// y = x · Wᵀ, `[n, rows]`, with x `[n, cols]` and W in any format.
///
/// `w` must have passed [`Stored::validate`].
///
/// # Errors
/// `x` is not `[n, cols]`.
pub fn matmul(x: &Activations<'_>, w: &Stored) -> Result<Vec<f32>, MatmulError> {
    Ok(matmuls(&[(x, w)])?.pop().unwrap_or_default())
}

/// [`matmul`] of each pair. One call for several products keeps all threads at work on all of them.
///
/// # Errors
/// As [`matmul`].
pub fn matmuls(products: &[(&Activations<'_>, &Stored)]) -> Result<Vec<Vec<f32>>, MatmulError> {
    let mut work = 0;
    let mut results = Vec::with_capacity(products.len());
    for (x, w) in products {
        let (rows, cols) = shape(x, w)?;
        work += x.n * rows * cols;
        results.push(vec![0.0; x.n * rows]);
    }
    // Pieces of 64 rows, as the kernels take them: whoever computes a piece, it comes out the same.
    let pieces =
        products.iter().zip(&mut results).filter(|((_, w), y)| !y.is_empty() && w.matrix_shape().1 > 0);
    let mut pieces: Vec<_> = pieces
        .flat_map(|((x, w), y)| {
            let pieces = y.chunks_mut(TILE * x.n).enumerate();
            pieces.map(move |(piece, y)| (*x, *w, piece * TILE, y))
        })
        .collect();
    let compute = |run: &mut [(&Activations<'_>, &Stored, usize, &mut [f32])]| {
        for (x, w, first, y) in run {
            rows(x, w, *first..*first + y.len() / x.n, y);
        }
    };
    let ordered = |((x, w), y): (&(&Activations<'_>, &Stored), &mut Vec<f32>)| {
        if x.n > 1 {
            *y = transposed(y, w.matrix_shape().0, x.n);
        }
    };
    if team::stands_by() && work >= TINY {
        products.iter().for_each(|(x, w)| x.prepare(w.format()));
        let count = (RUNS * rayon::current_num_threads()).min(pieces.len());
        let run = pieces.len().div_ceil(count.max(1));
        let runs: Vec<_> = pieces.chunks_mut(run.max(1)).map(Mutex::new).collect();
        // Nobody else has the lock of a run; a thread that panicked has spoilt the whole product anyway.
        team::each(runs.len(), |i| compute(&mut runs[i].lock().unwrap_or_else(PoisonError::into_inner)));
        products.iter().zip(&mut results).for_each(ordered);
    } else if work < SMALL || rayon::current_num_threads() == 1 {
        compute(&mut pieces);
        products.iter().zip(&mut results).for_each(ordered);
    } else {
        // By one thread each, so that none waits for another in the middle of a product.
        products.par_iter().for_each(|(x, w)| x.prepare(w.format()));
        let run = pieces.len().div_ceil(RUNS * rayon::current_num_threads());
        pieces.par_chunks_mut(run).for_each(compute);
        products.par_iter().zip(&mut results).for_each(ordered);
    }
    Ok(results)
}

/// `[rows, cols]` → `[cols, rows]`, in squares that the first-level cache holds.
fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    const SIDE: usize = 16;
    let mut out = vec![0.0; values.len()];
    for row in (0..rows).step_by(SIDE) {
        for col in (0..cols).step_by(SIDE) {
            for c in col..cols.min(col + SIDE) {
                for r in row..rows.min(row + SIDE) {
                    out[c * rows + r] = values[r * cols + c];
                }
            }
        }
    }
    out
}
