//! GPTQ, arXiv 2210.17323: columns are rounded one after another, and each passes its error on to those that
//! can still make up for it.

use super::strip::{LANES, Shared, Strip};
use super::{Curvature, Factor, SolveError};
use crate::formats::EncodeError;
use crate::formats::{Grid, GridRule, GroupFormat, check_area, check_finite, find, pack_codes};
use crate::{Format, Grouped, Packed};
use std::ops::Range;

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

/// Neighbouring columns whose levels have one distance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Symmetric, in groups of whole rows.
    pub format: Grouped,
    /// Columns.
    pub cols: usize,
    /// Distance of levels, an f16 number above 0.
    pub step: f32,
}

impl Run {
    fn grid(&self) -> Grid {
        Grid { scale: self.step, offset: 0.0 }
    }
}

/// Columns that share a grid.
pub(super) struct Group<'a> {
    pub(super) columns: Range<usize>,
    pub(super) format: &'a dyn GroupFormat,
    /// The grid, where it is not fitted to the weights.
    pub(super) fixed: Option<Grid>,
}

/// The groups of a row.
pub(super) struct Layout<'a> {
    pub(super) groups: Vec<Group<'a>>,
    /// Of every column.
    pub(super) column_group: Vec<usize>,
}

impl<'a> Layout<'a> {
    /// Groups of `group` columns, the last one shorter.
    pub(super) fn of_groups(format: &'a dyn GroupFormat, group: usize, cols: usize) -> Self {
        let columns = |first: usize| first..first.saturating_add(group).min(cols);
        let groups =
            (0..cols).step_by(group).map(|first| Group { columns: columns(first), format, fixed: None });
        Self::new(groups.collect())
    }

    fn of_runs(runs: &[Run]) -> Result<Self, SolveError> {
        let mut first = 0;
        let groups = runs.iter().map(|run| {
            let wrong = run.format.has_offsets() || run.format.group != Grouped::ROW;
            let format = find(run.format, GridRule::usual(run.format))?;
            if wrong || run.step <= 0.0 || !run.format.scale.holds(run.step) {
                return Err(SolveError::Step { format: Format::Grouped(run.format), step: run.step });
            }
            first += run.cols;
            Ok(Group { columns: first - run.cols..first, format, fixed: Some(run.grid()) })
        });
        Ok(Self::new(groups.collect::<Result<_, SolveError>>()?))
    }

    fn new(groups: Vec<Group<'a>>) -> Self {
        let of = |(at, group): (usize, &Group<'_>)| std::iter::repeat_n(at, group.columns.len());
        Self { column_group: groups.iter().enumerate().flat_map(of).collect(), groups }
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
        let layout = Layout::of_groups(find(format, rule)?, format.group, self.cols);
        let (solution, report) = self.solve_in(&layout, rows, w)?;
        Ok((pack_codes(format, rows, self.cols, &solution.codes, &solution.grids)?, report))
    }

    /// Rounds `w`, `[rows, cols]`, to levels whose distances are given: those of `runs`, one after the other along
    /// the columns. Errors in one run are made up for in the next. As [`solve`](Self::solve) otherwise; the result is
    /// one matrix `[rows, run.cols]` for each run.
    ///
    /// # Errors
    /// An unknown format or one with offsets, a step that is no positive f16 number, runs that are not as long as the
    /// rows together, or weights that are not finite.
    pub fn solve_runs(
        &self,
        runs: &[Run],
        rows: usize,
        w: &[f32],
    ) -> Result<(Vec<Packed>, Report), SolveError> {
        let layout = Layout::of_runs(runs)?;
        check_area("columns of the runs", 1, layout.column_group.len(), self.cols)?;
        let (solution, report) = self.solve_in(&layout, rows, w)?;
        let mut first = 0;
        let packed = runs.iter().map(|run| {
            let codes: Vec<u8> = match run.cols {
                0 => vec![],
                _ => solution
                    .codes
                    .chunks(self.cols)
                    .flat_map(|row| &row[first..first + run.cols])
                    .copied()
                    .collect(),
            };
            first += run.cols;
            let grids = vec![run.grid(); rows * run.format.row_groups(run.cols)];
            Ok(pack_codes(run.format, rows, run.cols, &codes, &grids)?)
        });
        Ok((packed.collect::<Result<_, SolveError>>()?, report))
    }

    fn solve_in(
        &self,
        layout: &Layout<'_>,
        rows: usize,
        w: &[f32],
    ) -> Result<(Solution, Report), SolveError> {
        check_area("w", rows, self.cols, w.len())?;
        let groups = layout.groups.len();
        let mut solution = Solution { codes: vec![0; w.len()], grids: vec![Grid::default(); rows * groups] };
        let mut report =
            Report { curvature: self.curvature, objective: 0.0, objective_nearest: 0.0, rows_nearest: rows };
        if w.is_empty() {
            return Ok((solution, report));
        }
        let mut errors = vec![0.0; w.len()];
        self.round_to_nearest(layout, w, &mut solution, &mut errors)?;
        if self.blocks.is_empty() {
            report.objective = errors.iter().map(|&e| f64::from(e) * f64::from(e)).sum();
            report.objective_nearest = report.objective;
        } else {
            let mut strips: Vec<Strip> = (0..STRIPS).map(|_| Strip::new(self, groups)).collect();
            let shared = Shared { factor: self, layout };
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
        Ok((solution, report))
    }

    /// Rounds every row to nearest, and leaves weight minus value in `errors`.
    fn round_to_nearest(
        &self,
        layout: &Layout<'_>,
        w: &[f32],
        solution: &mut Solution,
        errors: &mut [f32],
    ) -> Result<(), EncodeError> {
        let weighted = self.options.weighted && !self.blocks.is_empty();
        let mut values = vec![0.0; self.cols];
        let grids = solution.grids.chunks_mut(layout.groups.len());
        let rows = w.chunks(self.cols).zip(solution.codes.chunks_mut(self.cols));
        for (row, (((w, codes), errors), grids)) in
            rows.zip(errors.chunks_mut(self.cols)).zip(grids).enumerate()
        {
            for (group, grid) in layout.groups.iter().zip(grids) {
                let (w, codes) = (&w[group.columns.clone()], &mut codes[group.columns.clone()]);
                let weights = &self.diagonal[group.columns.clone()];
                *grid = (match group.fixed {
                    Some(grid) => check_finite(w).map(|()| grid),
                    None => group.format.fit(w, weighted.then_some(weights)),
                })
                .map_err(|source| EncodeError::Grid {
                    row,
                    col: group.columns.start,
                    source,
                })?;
                let values = &mut values[..w.len()];
                group.format.round_group(w, *grid, codes);
                group.format.group_values(codes, *grid, values);
                let errors = errors[group.columns.clone()].iter_mut();
                errors.zip(w).zip(values).for_each(|((error, w), value)| *error = w - *value);
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
