//! Grams of the inputs of matrices.

use crate::reached::{Pair, Seen};
use crate::walk::Dims;
use moepress_model::Part;
use moepress_nn::{Side, Site, Tensor, Watch, to_rows};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Rows of a gram that are worked on at a time; what lies left of their first column is left out.
pub(crate) const PANEL: usize = 128;

/// Σ x xᵀ over the inputs x of a matrix, or of several that share them.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    /// Length of x.
    pub cols: usize,
    /// Inputs that were added up.
    pub tokens: u64,
    /// `[cols, cols]`, both triangles, activation².
    pub sums: Vec<f64>,
}

impl Gram {
    pub(crate) fn new(cols: usize) -> Self {
        Self { cols, tokens: 0, sums: vec![0.0; cols * cols] }
    }

    /// Adds XᵀX to the upper triangle for each X `[tokens, cols]` in turn: products in f32, sums in f64. The same
    /// bits for any number of threads, because every element is summed on one.
    pub(crate) fn add(&mut self, inputs: &[&Tensor<2>]) {
        let cols = self.cols;
        self.tokens += inputs.iter().map(|x| x.dims()[0] as u64).sum::<u64>();
        self.sums.par_chunks_mut(PANEL * cols.max(1)).enumerate().for_each(|(panel, sums)| {
            let (start, width) = (panel * PANEL, sums.len() / cols);
            for x in inputs {
                let [tokens, _] = x.dims();
                let left = (*x).clone().slice([0..tokens, start..start + width]).transpose();
                let right = (*x).clone().slice([0..tokens, start..cols]);
                let products = to_rows(left.matmul(right));
                let rows = sums.chunks_exact_mut(cols).zip(products.chunks_exact(cols - start));
                for (row, (sums, products)) in rows.enumerate() {
                    let sums = sums[start + row..].iter_mut();
                    sums.zip(&products[row..]).for_each(|(sum, &product)| *sum += f64::from(product));
                }
            }
        });
    }

    /// Copies the upper triangle to the lower one.
    pub(crate) fn mirror(&mut self) {
        for row in 1..self.cols {
            for col in 0..row {
                self.sums[row * self.cols + col] = self.sums[col * self.cols + row];
            }
        }
    }
}

/// Keeps the inputs of some maps.
pub(crate) struct Inputs<'a> {
    /// Where to look.
    sites: &'a BTreeMap<Part, Dims>,
    pub seen: Seen,
}

impl<'a> Inputs<'a> {
    pub fn of(sites: &'a BTreeMap<Part, Dims>) -> Self {
        Self { sites, seen: Seen::new() }
    }
}

impl Watch for Inputs<'_> {
    fn tensor(&mut self, site: Site, x: Tensor<2>) -> Tensor<2> {
        if site.side == Side::Input && self.sites.contains_key(&site.part) {
            self.seen.insert(site.part, Pair { x: x.clone(), y: None });
        }
        x
    }
}
