//! GPTQ, arXiv 2210.17323: columns are rounded one after another, and each passes its error on to those that
//! can still make up for it.

use super::strip::{LANES, Shared, Strip};
use super::{Curvature, Factor, SolveError};
use crate::formats::EncodeError;
use crate::formats::{Grid, GridRule, GroupFormat, check_area, find, pack_codes};
use crate::{Grouped, Packed};

/// Strips solved together: their errors fit the second-level cache beside a panel of the factor.
const STRIPS: usize = 4;

/// What [`Factor::solve`] did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// What stood in for the curvature.
    pub curvature: Curvature,
    /// tr((W − Q) G (W − Q)ᵀ) of the result, G the gram without damping, or the identity where that is the
    /// curvature. From f32 products: good to about 1e-4 of the same with damping for 8 bits, 1e-6 for ternary.
    pub objective: f64,
    /// The same of rounding to nearest.
    pub objective_nearest: f64,
    /// Rows that are as rounding to nearest leaves them, because the solver's were the same or no better.
    pub rows_nearest: usize,
}

impl Report {
    /// Whether the whole matrix is as rounding to nearest leaves it.
    pub fn is_nearest(&self, rows: usize) -> bool {
        self.rows_nearest == rows
    }
}

/// Rows rounded to nearest, the solver's where it does better.
struct Solution {
    /// `[rows, cols]`.
    codes: Vec<u8>,
    /// `[rows, groups]`.
    grids: Vec<Grid>,
}

impl Factor {
    /// Rounds `w`, `[rows, cols]`, to `format`.
    ///
    /// Grids are fitted to the weights as they are when their group's first column is reached, those of whole
    /// rows and with `act_order` beforehand, to the original weights. No row is worse than rounding to nearest: one that
    /// would be is rounded to nearest instead. Runs on the calling thread; the same bits every time.
    ///
    /// # Errors
    /// An unknown format, a wrong length, or the first group (by row, then column) that holds NaN or infinity
    /// or needs a scale beyond f16.
    pub fn solve(&self, format: Grouped, rows: usize, w: &[f32]) -> Result<(Packed, Report), SolveError> {
        let rule = self.options.grid.unwrap_or(GridRule::usual(format));
        let implementation = find(format, rule)?;
        check_area("w", rows, self.cols, w.len())?;
        let groups = format.row_groups(self.cols);
        let mut solution = Solution { codes: vec![0; w.len()], grids: vec![Grid::default(); rows * groups] };
        let mut report =
            Report { curvature: self.curvature, objective: 0.0, objective_nearest: 0.0, rows_nearest: rows };
        if w.is_empty() {
            return Ok((pack_codes(format, rows, self.cols, &solution.codes, &solution.grids)?, report));
        }
        let mut errors = vec![0.0; w.len()];
        self.round_to_nearest(implementation, format.group, w, &mut solution, &mut errors)?;
        if self.blocks.is_empty() {
            report.objective = errors.iter().map(|&e| f64::from(e) * f64::from(e)).sum();
            report.objective_nearest = report.objective;
        } else {
            let mut strips: Vec<Strip> = (0..STRIPS).map(|_| Strip::new(self, groups)).collect();
            let shared = Shared { factor: self, format: implementation, group: format.group };
            for first in (0..rows).step_by(STRIPS * LANES) {
                let count = (rows - first).div_ceil(LANES).min(STRIPS);
                for (at, strip) in strips[..count].iter_mut().enumerate() {
                    let row = first + at * LANES;
                    let rows = row..rows.min(row + LANES);
                    let elements = rows.start * self.cols..rows.end * self.cols;
                    let grids = &solution.grids[rows.start * groups..rows.end * groups];
                    strip.load(self, &w[elements.clone()], &errors[elements], grids);
                }
                shared.solve(&mut strips[..count]);
                for (row, at) in (first..rows).zip(0..STRIPS * LANES) {
                    self.choose(&strips[at / LANES], at % LANES, row, &mut solution, &mut report);
                }
            }
            report.objective *= self.unit;
            report.objective_nearest *= self.unit;
        }
        Ok((pack_codes(format, rows, self.cols, &solution.codes, &solution.grids)?, report))
    }

    /// Rounds every row to nearest, and leaves weight minus value in `errors`.
    fn round_to_nearest(
        &self,
        implementation: &dyn GroupFormat,
        group: usize,
        w: &[f32],
        solution: &mut Solution,
        errors: &mut [f32],
    ) -> Result<(), EncodeError> {
        let groups = self.cols.div_ceil(group);
        let mut grids = solution.grids.iter_mut();
        let mut values = vec![0.0; group.min(self.cols)];
        let rows = w.chunks(self.cols).zip(solution.codes.chunks_mut(self.cols));
        for (row, ((w, codes), errors)) in rows.zip(errors.chunks_mut(self.cols)).enumerate() {
            let parts = w.chunks(group).zip(codes.chunks_mut(group)).zip(errors.chunks_mut(group));
            for (at, (((w, codes), errors), grid)) in parts.zip(grids.by_ref().take(groups)).enumerate() {
                let col = at * group;
                let weights = &self.diagonal[col..col + w.len()];
                let weighted = self.options.weighted && !self.blocks.is_empty();
                let fitted = implementation.fit(w, weighted.then_some(weights));
                *grid = fitted.map_err(|source| EncodeError::Grid { row, col, source })?;
                implementation.round_group(w, *grid, codes);
                implementation.group_values(codes, *grid, &mut values);
                errors.iter_mut().zip(w).zip(&values).for_each(|((error, w), value)| *error = w - value);
            }
        }
        Ok(())
    }

    /// Takes a solved row over where it costs less than rounding to nearest, and counts.
    fn choose(&self, strip: &Strip, lane: usize, row: usize, solution: &mut Solution, report: &mut Report) {
        // Below zero only by rounding.
        let (cost, nearest) = (strip.cost[lane].max(0.0), strip.cost_nearest[lane].max(0.0));
        report.objective_nearest += nearest;
        // A cost that is NaN, from weights too large to compensate, is no improvement either.
        if strip.cost[lane].is_nan() || cost >= nearest {
            report.objective += nearest;
            return;
        }
        let codes = &mut solution.codes[row * self.cols..(row + 1) * self.cols];
        let groups = strip.grids.len();
        let grids = &mut solution.grids[row * groups..(row + 1) * groups];
        let solved = || strip.codes.iter().enumerate().map(|(at, from)| (self.column(at), from[lane]));
        let same = solved().take(self.cols).all(|(column, code)| codes[column] == code)
            && grids.iter().zip(&strip.grids).all(|(grid, from)| *grid == from[lane]);
        if same {
            report.objective += nearest;
            return;
        }
        report.objective += cost;
        report.rows_nearest -= 1;
        solved().take(self.cols).for_each(|(column, code)| codes[column] = code);
        grids.iter_mut().zip(&strip.grids).for_each(|(to, from)| *to = from[lane]);
    }
}
