//! The gram of the inputs, damped and factored once for all matrices that share it.

use super::SolveError;
use super::ldl::{Block, Matrix, WIDTH};
use crate::formats::GridRule;

/// How [`Factor::new`] treats the gram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// What is added to the diagonal, relative to its mean over the columns that were ever active. The paper
    /// uses 0.01; QMoE (arXiv 2310.16795) 0.1 for ternary codes.
    pub damp: f64,
    /// Columns of larger diagonal are rounded first; the grids of all groups are then fitted beforehand, on
    /// the original weights.
    pub act_order: bool,
    /// Grids are fitted with the squared error of each column weighted by its diagonal element.
    pub weighted: bool,
    /// How grids are chosen; `None`: as is usual for the format.
    pub grid: Option<GridRule>,
}

impl Default for Options {
    fn default() -> Self {
        Self { damp: 0.01, act_order: false, weighted: false, grid: None }
    }
}

/// What stands in for the curvature of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Curvature {
    /// The damped gram.
    Gram {
        /// What was added to the diagonal, in the gram's own unit.
        damp: f64,
        /// Factorisations tried, 1 to 4; each adds ten times as much as the one before.
        tries: u32,
    },
    /// The identity, because the gram is zero: no token reached the expert.
    Empty,
    /// The identity, because the gram is not positive definite even with the largest damping.
    Indefinite,
}

/// A gram ready for [`Factor::solve`](Factor::solve).
pub struct Factor {
    pub(super) cols: usize,
    pub(super) options: Options,
    pub(super) curvature: Curvature,
    /// Column of the matrix at each position of the solution's order; empty for the order of storage.
    pub(super) order: Vec<usize>,
    /// Diagonal of the gram, by column of the matrix.
    pub(super) diagonal: Vec<f64>,
    /// Mean of the diagonal over active columns: the factored matrix is divided by it.
    pub(super) unit: f64,
    /// What was added to the diagonal of the factored matrix, by position.
    pub(super) excess: Vec<f64>,
    /// Empty where the curvature is the identity.
    pub(super) blocks: Vec<Block>,
}

impl Factor {
    /// Factors the gram XᵀX of a matrix's inputs, `[cols, cols]`, both triangles given.
    ///
    /// A column that was never active gets 1 on the diagonal: its weights are rounded to nearest. Where the
    /// damped gram cannot be factored, damping grows tenfold up to three times; then the identity takes its
    /// place, as it does for a gram of zeros. [`curvature`](Self::curvature) tells.
    ///
    /// # Errors
    /// A wrong length, a damping that is not positive, or a matrix that is no gram: NaN, infinity, a negative
    /// diagonal, unequal triangles, or a column that is zero only on the diagonal.
    pub fn new<T: Copy + Into<f64>>(gram: &[T], cols: usize, options: Options) -> Result<Self, SolveError> {
        if cols.checked_mul(cols) != Some(gram.len()) {
            return Err(SolveError::GramLength { cols, found: gram.len() });
        }
        if !(options.damp.is_finite() && options.damp > 0.0) {
            return Err(SolveError::Damp(options.damp));
        }
        check(gram, cols)?;
        let diagonal: Vec<f64> = (0..cols).map(|i| gram[i * cols + i].into()).collect();
        let active = diagonal.iter().filter(|&&d| d > 0.0).count();
        let unit = diagonal.iter().map(|d| d / active.max(1) as f64).sum();
        let order = match options.act_order {
            true => descending(&diagonal),
            false => Vec::new(),
        };
        let mut factor = Self {
            cols,
            options,
            curvature: Curvature::Empty,
            order,
            diagonal,
            unit,
            excess: Vec::new(),
            blocks: Vec::new(),
        };
        if active > 0 {
            factor.curvature = Curvature::Indefinite;
            for tries in 1..=4 {
                let damp = options.damp * 10f64.powi(tries - 1);
                if factor.factorise(gram, damp) {
                    factor.curvature = Curvature::Gram { damp: damp * unit, tries: tries as u32 };
                    break;
                }
            }
        }
        Ok(factor)
    }

    /// For matrices of whose inputs nothing is known: they are rounded to nearest.
    pub fn unknown(cols: usize) -> Self {
        Self {
            cols,
            options: Options::default(),
            curvature: Curvature::Empty,
            order: Vec::new(),
            diagonal: vec![0.0; cols],
            unit: 0.0,
            excess: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Columns of the matrices it solves.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What stands in for the curvature.
    pub fn curvature(&self) -> Curvature {
        self.curvature
    }

    /// The matrix column at a position of the solution's order.
    pub(super) fn column(&self, position: usize) -> usize {
        self.order.get(position).copied().unwrap_or(position)
    }

    fn factorise<T: Copy + Into<f64>>(&mut self, gram: &[T], damp: f64) -> bool {
        let n = self.cols.next_multiple_of(WIDTH);
        let mut a = vec![0.0; n * n];
        for (i, a) in a.chunks_mut(n).enumerate() {
            if i >= self.cols {
                a[i] = 1.0;
                continue;
            }
            let row = self.column(i) * self.cols;
            match self.order.get(..=i) {
                Some(order) => a.iter_mut().zip(order).for_each(|(a, &j)| *a = gram[row + j].into()),
                None => a.iter_mut().zip(&gram[row..=row + i]).for_each(|(a, &g)| *a = g.into()),
            }
            a[..=i].iter_mut().for_each(|a| *a /= self.unit);
            a[i] += damp + if a[i] > 0.0 { 0.0 } else { 1.0 };
        }
        let Some(blocks) = (Matrix { a, n }).factor() else { return false };
        let dead = |position: usize| if self.diagonal[self.column(position)] > 0.0 { 0.0 } else { 1.0 };
        self.excess = (0..self.cols).map(|position| damp + dead(position)).collect();
        self.blocks = blocks;
        true
    }
}

/// Positions of the elements from the largest to the smallest, equals by index.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

fn check<T: Copy + Into<f64>>(gram: &[T], cols: usize) -> Result<(), SolveError> {
    /// Triangles summed in different orders differ by rounding.
    const TOLERANCE: f64 = 1e-4;
    /// Columns compared at a time, so that both triangles stay in the cache.
    const SIDE: usize = 32;
    let at = |row: usize, col: usize| -> f64 { gram[row * cols + col].into() };
    let fail = |row, col, fault| Err(SolveError::Gram { row, col, fault });
    if let Some(index) = gram.iter().position(|&g| !g.into().is_finite()) {
        return fail(index / cols, index % cols, "is not finite");
    }
    let roots: Vec<f64> = (0..cols).map(|i| at(i, i).sqrt()).collect();
    if let Some(i) = roots.iter().position(|root| root.is_nan()) {
        return fail(i, i, "is negative");
    }
    for (rows, from) in (0..cols).step_by(SIDE).flat_map(|r| (0..=r).step_by(SIDE).map(move |c| (r, c))) {
        for row in rows..cols.min(rows + SIDE) {
            for col in from..row.min(from + SIDE) {
                let bound = TOLERANCE * roots[row] * roots[col];
                if (at(row, col) - at(col, row)).abs() > bound {
                    return fail(row, col, "differs from the element across the diagonal");
                }
                if bound == 0.0 && at(row, col) != 0.0 && roots[row].min(roots[col]) == 0.0 {
                    return fail(row, col, "is not zero, but one of its diagonal elements is");
                }
            }
        }
    }
    Ok(())
}
