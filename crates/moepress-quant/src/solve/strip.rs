//! Sixteen rows at a time: rows do not depend on each other, so they are the lanes of vectors.

use super::Factor;
use super::gptq::{Group, Layout};
use super::ldl::{BLOCK, Block};
use super::tile::{HEIGHT, tile};
use crate::formats::{Grid, GroupFormat, MAX_GROUP};
use pulp::{Arch, Simd, WithSimd};

/// Rows of a strip.
pub(super) const LANES: usize = 16;

/// Columns whose errors are passed on at a time.
const CHUNK: usize = 256;

/// One number of every row.
type Lanes = [f32; LANES];

/// Rows under solution; everything is by position in the solution's order unless it says otherwise.
pub(super) struct Strip {
    /// Weights.
    w: Vec<Lanes>,
    /// Weight minus value of the codes chosen so far.
    error: Vec<Lanes>,
    /// Weight minus value when rounded to nearest.
    nearest: Vec<Lanes>,
    /// The compensated weights of the block under solution.
    current: Vec<Lanes>,
    /// The errors of rounding to nearest, with what those of earlier blocks add to them.
    carried: Vec<Lanes>,
    /// Codes chosen.
    pub(super) codes: Vec<[u8; LANES]>,
    /// Grids by group of the matrix; those of rounding to nearest until the solver has fitted its own.
    pub(super) grids: Vec<[Grid; LANES]>,
    /// tr(E G Eᵀ) of each row in the factor's unit, E the error, G the gram without damping.
    pub(super) cost: [f64; LANES],
    /// The same when rounded to nearest.
    pub(super) cost_nearest: [f64; LANES],
}

impl Strip {
    /// Space for rows of the factor's width in `groups` groups.
    pub(super) fn new(factor: &Factor, groups: usize) -> Self {
        let positions = factor.blocks.last().map_or(0, |block| block.start + block.width);
        let zeros = |n| vec![[0.0; LANES]; n];
        Self {
            w: zeros(positions),
            error: zeros(positions),
            nearest: zeros(positions),
            current: zeros(BLOCK),
            carried: zeros(BLOCK),
            codes: vec![[0; LANES]; positions],
            grids: vec![[Grid::default(); LANES]; groups],
            cost: [0.0; LANES],
            cost_nearest: [0.0; LANES],
        }
    }

    /// Loads up to `LANES` rows: weights, errors when rounded to nearest, and the grids of that.
    pub(super) fn load(&mut self, factor: &Factor, w: &[f32], nearest: &[f32], grids: &[Grid]) {
        let groups = self.grids.len();
        self.grids.fill([Grid::default(); LANES]);
        for (lane, grids) in grids.chunks(groups).enumerate() {
            self.grids.iter_mut().zip(grids).for_each(|(to, &grid)| to[lane] = grid);
        }
        for (to, from) in [(&mut self.w, w), (&mut self.nearest, nearest)] {
            for (position, to) in to.iter_mut().enumerate().take(factor.cols) {
                *to = [0.0; LANES];
                let column = from[factor.column(position)..].iter().step_by(factor.cols);
                to.iter_mut().zip(column).for_each(|(to, &from)| *to = from);
            }
        }
        (self.cost, self.cost_nearest) = ([0.0; LANES], [0.0; LANES]);
    }

    /// Rounds the columns of one block in turn, each making up for the errors of those before it.
    #[inline(always)]
    fn round_block<S: Simd>(&mut self, simd: S, block: &Block, work: &Shared) {
        let Shared { factor, layout } = *work;
        let real = block.width.min(factor.cols - block.start);
        for j in 0..real {
            let position = block.start + j;
            let at = layout.column_group[factor.column(position)];
            let Group { columns, format, fixed } = &layout.groups[at];
            // At the first column weights, and so the grid, are those of rounding to nearest.
            if factor.order.is_empty() && fixed.is_none() && position > 0 && position == columns.start {
                let end = real.min(j + columns.len());
                let weights = &factor.diagonal[position..block.start + end];
                let weights = factor.options.weighted.then_some(weights);
                fit(*format, &self.current[j..end], weights, &mut self.grids[at]);
            }
            let now = self.current[j];
            let (mut values, mut step, mut error) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
            format.round_each(&now, &self.grids[at], &mut self.codes[position], &mut values);
            for lane in 0..LANES {
                step[lane] = now[lane] - values[lane];
                error[lane] = self.w[position][lane] - values[lane];
            }
            self.error[position] = error;
            add_cost(&mut self.cost, &step, block.pivots[j]);
            add_cost(&mut self.cost, &error, -factor.excess[position]);
            let shares = &block.compensation[j * block.width + j + 1..j * block.width + real];
            for (later, &share) in self.current[j + 1..real].iter_mut().zip(shares) {
                subtract(simd, later, share, &step);
            }
        }
    }

    /// Adds what one block costs when rounded to nearest.
    #[inline(always)]
    fn score_block(&mut self, factor: &Factor, block: &Block) {
        for (p, root) in block.root.chunks(block.width).enumerate() {
            // R is upper triangular.
            let end = (p + 1) * HEIGHT;
            for sums in tile(&root[..end], &self.carried[..end]) {
                add_cost(&mut self.cost_nearest, &sums, 1.0);
            }
        }
        for (error, excess) in
            self.nearest[block.start..].iter().zip(&factor.excess[block.start..]).take(BLOCK)
        {
            add_cost(&mut self.cost_nearest, error, -excess);
        }
    }
}

/// What all strips have in common.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) factor: &'a Factor,
    pub(super) layout: &'a Layout<'a>,
}

impl Shared<'_> {
    /// Solves the loaded rows of all strips.
    pub(super) fn solve(self, strips: &mut [Strip]) {
        Arch::new().dispatch(Work { shared: self, strips });
    }
}

struct Work<'a, 'b> {
    shared: Shared<'a>,
    strips: &'b mut [Strip],
}

impl WithSimd for Work<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        solve(simd, self.strips, &self.shared);
    }
}

#[inline(always)]
fn solve<S: Simd>(simd: S, strips: &mut [Strip], shared: &Shared) {
    let factor = shared.factor;
    for block in &factor.blocks {
        let range = block.start..block.start + block.width;
        for strip in &mut *strips {
            strip.current[..block.width].copy_from_slice(&strip.w[range.clone()]);
            strip.carried[..block.width].copy_from_slice(&strip.nearest[range.clone()]);
        }
        // The errors of a chunk stay in the first-level cache for all columns of the block, the chunk of the
        // factor in the second for all strips.
        for chunk in (0..block.start).step_by(CHUNK) {
            let rows = chunk..block.start.min(chunk + CHUNK);
            for strip in &mut *strips {
                let Strip { current, carried, error, nearest, .. } = strip;
                for (to, errors) in [(current, error), (carried, nearest)] {
                    let columns = to.as_chunks_mut::<HEIGHT>().0;
                    for (to, coupling) in columns.iter_mut().zip(block.coupling.chunks(block.start)) {
                        let sums = tile(&coupling[rows.clone()], &errors[rows.clone()]);
                        for (to, sums) in to.iter_mut().zip(&sums) {
                            for lane in 0..LANES {
                                to[lane] += sums[lane];
                            }
                        }
                    }
                }
            }
        }
        for strip in &mut *strips {
            strip.round_block(simd, block, shared);
            strip.score_block(factor, block);
        }
    }
}

/// Fits the grid of each row's group to its current weights, `group`.
///
/// Where these have none, the grid of rounding to nearest stays: its cost decides.
fn fit(format: &dyn GroupFormat, group: &[Lanes], weights: Option<&[f64]>, grids: &mut [Grid; LANES]) {
    let mut row = [0.0; MAX_GROUP];
    for (lane, grid) in grids.iter_mut().enumerate() {
        row.iter_mut().zip(group).for_each(|(to, from)| *to = from[lane]);
        if let Ok(fitted) = format.fit(&row[..group.len()], weights) {
            *grid = fitted;
        }
    }
}

/// By hand: left to itself the compiler makes vectors of the same row of many columns.
#[inline(always)]
fn subtract<S: Simd>(simd: S, to: &mut Lanes, factor: f32, from: &Lanes) {
    let (to, from) = (S::as_mut_simd_f32s(to).0, S::as_simd_f32s(from).0);
    let factor = simd.splat_f32s(factor);
    for (to, &from) in to.iter_mut().zip(from) {
        *to = simd.sub_f32s(*to, simd.mul_f32s(factor, from));
    }
}

#[inline(always)]
fn add_cost(cost: &mut [f64; LANES], value: &Lanes, factor: f64) {
    for lane in 0..LANES {
        cost[lane] += f64::from(value[lane]) * f64::from(value[lane]) * factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::implementation;
    use crate::solve::Options;
    use crate::{Code, Grouped};

    #[test]
    fn vectors_of_any_width_give_the_same_bits() {
        let (cols, group) = (300, 64);
        let noise = |at: usize| ((at * at * 7919 + at * 31) % 1009) as f32 / 1009.0 - 0.5;
        let gram: Vec<f32> = (0..cols * cols)
            .map(|at| noise(at / cols) * noise(at % cols) + if at / cols == at % cols { 0.3 } else { 0.0 })
            .collect();
        let factor = Factor::new(&gram, cols, Options::default()).unwrap();
        let w: Vec<f32> = (0..3 * LANES * cols).map(noise).collect();
        let format = implementation(Grouped::new(Code::Ternary, group, true)).unwrap();
        let layout = Layout::of_groups(format, group, cols);
        let shared = Shared { factor: &factor, layout: &layout };
        let strips = || -> Vec<Strip> {
            let load = |w: &[f32]| {
                let mut strip = Strip::new(&factor, cols.div_ceil(group));
                strip.load(&factor, w, w, &[Grid::default(); LANES * 5]);
                strip
            };
            w.chunks(LANES * cols).map(load).collect()
        };
        let (mut wide, mut narrow) = (strips(), strips());
        shared.solve(&mut wide);
        solve(pulp::Scalar::new(), &mut narrow, &shared);
        for (wide, narrow) in wide.iter().zip(&narrow) {
            assert!(wide.codes == narrow.codes && wide.grids == narrow.grids);
            assert!(wide.cost == narrow.cost && wide.cost_nearest == narrow.cost_nearest);
            assert!(wide.cost.iter().zip(&wide.cost_nearest).all(|(a, b)| 0.0 < *a && a < b));
        }
    }
}
