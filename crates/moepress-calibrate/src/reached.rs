//! What reaches matrices that share their inputs, and what should come out of them.

use crate::gram::Gram;
use moepress_model::{Part, Projection};
use moepress_nn::{Side, Site, Tensor, Watch, to_rows};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Sums over tokens. Inputs and outputs of routed experts are multiplied by the gate, as the error that a matrix
/// makes is.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// Σ x xᵀ over the inputs x; those of an expert's `down_proj` are the atoms of all its segments.
    pub gram: Gram,
    /// What the outputs should be, where the matrix is to be fitted anew.
    pub wanted: Option<Wanted>,
}

/// Outputs y that are wanted for the inputs x.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Length of y.
    pub rows: usize,
    /// Σ y xᵀ, `[rows, cols]`.
    pub cross: Vec<f64>,
    /// Σ ‖y‖².
    pub power: f64,
}

/// The sums over all tokens, and over those that a fit may be judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Reached {
    /// All tokens.
    pub all: Sums,
    /// One in [`HELD_OUT`] chunks of windows, where outputs are wanted.
    pub held_out: Option<Sums>,
}

/// Chunks of which one is held out.
pub const HELD_OUT: usize = 4;

/// Inputs of one chunk, `[tokens, cols]`, and the outputs wanted, `[tokens, rows]`.
pub(crate) struct Pair {
    pub x: Tensor<2>,
    pub y: Option<Tensor<2>>,
}

impl Sums {
    /// Zeros for inputs of length `cols` and, where outputs are wanted, their length.
    pub(crate) fn new(cols: usize, rows: Option<usize>) -> Self {
        let wanted = rows.map(|rows| Wanted { rows, cross: vec![0.0; rows * cols], power: 0.0 });
        Self { gram: Gram::new(cols), wanted }
    }

    /// Adds chunks in order; every element is summed on one thread.
    fn add(&mut self, pairs: &[&Pair]) {
        self.gram.add(&pairs.iter().map(|pair| &pair.x).collect::<Vec<_>>());
        let Some(wanted) = &mut self.wanted else { return };
        for pair in pairs {
            let Some(y) = &pair.y else { continue };
            let products = to_rows(y.clone().transpose().matmul(pair.x.clone()));
            wanted.cross.iter_mut().zip(products).for_each(|(sum, product)| *sum += f64::from(product));
            wanted.power += to_rows(y.clone()).into_iter().map(|y| f64::from(y).powi(2)).sum::<f64>();
        }
    }
}

impl Reached {
    pub(crate) fn new(cols: usize, rows: Option<usize>) -> Self {
        Self { all: Sums::new(cols, rows), held_out: rows.map(|rows| Sums::new(cols, Some(rows))) }
    }

    /// Adds chunks, each with its index, in order.
    pub(crate) fn add(&mut self, pairs: &[(usize, &Pair)]) {
        let held: Vec<&Pair> = pairs
            .iter()
            .filter(|(chunk, _)| chunk % HELD_OUT == HELD_OUT - 1)
            .map(|(_, pair)| *pair)
            .collect();
        let all: Vec<&Pair> = pairs.iter().map(|(_, pair)| *pair).collect();
        let sums = [Some((&mut self.all, all)), self.held_out.as_mut().map(|sums| (sums, held))];
        sums.into_par_iter().flatten().for_each(|(sums, pairs)| sums.add(&pairs));
    }

    pub(crate) fn finish(&mut self) {
        self.all.gram.mirror();
        self.held_out.iter_mut().for_each(|held| held.gram.mirror());
    }
}

/// Keeps the inputs of the `down_proj` of all segments of an expert side by side, and the sum of their outputs.
#[derive(Default)]
pub(crate) struct Down {
    pub atoms: Vec<Tensor<2>>,
    pub output: Option<Tensor<2>>,
}

impl Watch for Down {
    fn tensor(&mut self, site: Site, x: Tensor<2>) -> Tensor<2> {
        if matches!(site.part, Part::Expert { projection: Projection::Down, .. }) {
            match site.side {
                Side::Input => self.atoms.push(x.clone()),
                Side::Output => {
                    self.output = Some(match self.output.take() {
                        Some(sum) => sum + x.clone(),
                        None => x.clone(),
                    });
                }
            }
        }
        x
    }
}

/// What one chunk shows, by the place where the inputs are seen.
pub(crate) type Seen = BTreeMap<Part, Pair>;
