//! Products of whole matrices, several at a time, over all threads.

use crate::activations::Activations;
use crate::isa::Room;
use crate::part::Part;
use crate::rows::{FEW, TILE, rows};
use crate::{MatmulError, factored, shape, team};
use moepress_quant::Stored;
use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Products of weights and inputs below which threads cost more than they save.
const SMALL: usize = 1 << 17;
/// The same where threads stand by.
const TINY: usize = 1 << 14;
/// Runs of tiles per thread: enough to even out, few enough to hand out.
const RUNS: usize = 4;

/// Some columns of one of the results, those of rows from that number on.
type Piece<'a> = (&'a Activations<'a>, &'a Stored, usize, Part<'a>);

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
    if products.iter().any(|(_, w)| matches!(w, Stored::Factored(_))) {
        return factored::matmuls(products);
    }
    let mut work = 0;
    let mut results = Vec::with_capacity(products.len());
    for (x, w) in products {
        let (rows, cols) = shape(x, w)?;
        work += x.n * rows * cols;
        results.push(vec![0.0; x.n * rows]);
    }
    let (team, threads) = (team::stands_by(), rayon::current_num_threads());
    let alone = if team { work < TINY } else { work < SMALL || threads == 1 };
    let runs = if alone { 1 } else { RUNS * threads };
    // Pieces of 64 rows, as the kernels take them; where few inputs meet weights straight from memory, which likes long runs,
    // of as many as a thread takes at a time. Whoever computes a piece, it comes out the same.
    let tiles: usize = products.iter().map(|(_, w)| w.matrix_shape().0.div_ceil(TILE)).sum();
    let long = tiles.div_ceil(runs).max(1) * TILE;
    let pieces =
        products.iter().zip(&mut results).filter(|((_, w), y)| !y.is_empty() && w.matrix_shape().1 > 0);
    let mut pieces: Vec<_> = pieces
        .flat_map(|((x, w), y)| {
            let step = if x.n < FEW { long } else { TILE };
            let parts = Part::split(y, w.matrix_shape().0, step).enumerate();
            parts.map(move |(piece, part)| (*x, *w, piece * step, part))
        })
        .collect();
    let compute = |room: &mut Room, (x, w, first, part): &mut Piece<'_>| rows(x, w, *first, part, room);
    if alone {
        let room = &mut Room::default();
        pieces.iter_mut().for_each(|piece| compute(room, piece));
        return Ok(results);
    }
    Activations::prepare(products);
    if team {
        let run = (pieces.len() / runs).max(1);
        let runs: Vec<_> = pieces.chunks_mut(run).map(Mutex::new).collect();
        // Nobody else has the lock of a run; a thread that panicked has spoilt the whole product anyway.
        team::each(runs.len(), |i| {
            let mut run = runs[i].lock().unwrap_or_else(PoisonError::into_inner);
            let room = &mut Room::default();
            run.iter_mut().for_each(|piece| compute(room, piece));
        });
    } else {
        pieces.par_iter_mut().for_each_init(Room::default, compute);
    }
    Ok(results)
}
