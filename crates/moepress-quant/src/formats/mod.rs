//! Grouped formats: what a group's grid is, how a weight meets it, and the row functions all of them share.
//!
//! Fitting a grid, rounding a weight and reading a code are separate, so that a solver which changes the
//! weights between columns (GPTQ) uses the same formats as plain rounding ([`encode_nearest`]).

mod byte_scale;
mod cost;
mod decode;
mod encode;
mod float;
mod grid;
mod int;
mod ladder;
pub(crate) mod pack;
mod refine;
mod sorted;
mod support;
mod ternary;

pub use cost::rounding_cost;
pub use decode::{decode_codes, decode_row};
pub use encode::{EncodeError, encode_nearest, encode_on, encode_stored, pack_codes};
pub(crate) use encode::{check_area, find};
pub(crate) use grid::check_finite;
pub use grid::{Grid, GridError};
pub use ladder::{Rung, half_power, ladder};

use crate::{Code, Grouped, Scale};
use byte_scale::ByteScale;
use pulp::{Arch, NullaryFnOnce};
use serde::{Deserialize, Serialize};
use sorted::LANES;

/// The longest group but for [`Grouped::ROW`].
pub(crate) const MAX_GROUP: usize = 128;

/// How the weights of one group become codes and back.
pub trait GroupFormat: Sync {
    /// The grid for weights `w`, already rounded to what is stored.
    ///
    /// `weights` (same length, ≥ 0) say how much the squared error of each weight matters. Formats whose
    /// grid only spans the range ignore them; where all are zero every grid is as good as another, and the
    /// unweighted one is taken.
    ///
    /// # Errors
    /// A weight that is NaN or infinite, or a grid beyond f16.
    fn fit(&self, w: &[f32], weights: Option<&[f64]>) -> Result<Grid, GridError>;

    /// [`fit`](Self::fit) for groups of that length that follow each other; the last one may be shorter.
    ///
    /// # Errors
    /// The first weight of the first group without a grid, and why it has none.
    #[inline(always)]
    fn fit_each(
        &self,
        w: &[f32],
        length: usize,
        weights: Option<&[f64]>,
        grids: &mut [Grid],
    ) -> Result<(), (usize, GridError)> {
        one_by_one(self, w, length, weights, grids)
    }

    /// The code whose value on `grid` is nearest to the finite number `w`.
    fn round(&self, w: f32, grid: Grid) -> u8;

    /// What `code` stands for on `grid`.
    fn value(&self, code: u8, grid: Grid) -> f32;

    /// The grid nearest to that of least Σ h (target − value)² for codes that stay as they are, of terms (target, code,
    /// h), with a scale of that type; `None` where there is none.
    fn least_squares(&self, scale: Scale, terms: &mut dyn Iterator<Item = (f64, u8, f64)>) -> Option<Grid> {
        let unit = Grid { scale: 1.0, offset: 0.0 };
        let level = |(target, code, h)| (target, f64::from(self.value(code, unit)), h);
        refine::line(scale, false, terms.map(level))
    }

    /// [`round`](Self::round) for every weight of a group.
    #[inline(always)]
    fn round_group(&self, w: &[f32], grid: Grid, codes: &mut [u8]) {
        w.iter().zip(codes).for_each(|(&w, code)| *code = self.round(w, grid));
    }

    /// [`fit`](Self::fit) and [`round`](Self::round) for the groups of a row, and its codes in bit fields of `format`,
    /// in the widest vectors of the processor.
    ///
    /// # Errors
    /// The first column of the first group without a grid, and why it has none.
    fn encode_row(
        &self,
        format: Grouped,
        w: &[f32],
        weights: Option<&[f64]>,
        row: Row<'_>,
    ) -> Result<(), (usize, GridError)> {
        Arch::new().dispatch(EncodeRow { of: self, format, w, weights, row })
    }

    /// [`round`](Self::round) and [`value`](Self::value) for weights that have a grid each.
    fn round_each(&self, w: &[f32], grids: &[Grid], codes: &mut [u8], values: &mut [f32]) {
        for (((&w, &grid), code), value) in w.iter().zip(grids).zip(codes).zip(values) {
            *code = self.round(w, grid);
            *value = self.value(*code, grid);
        }
    }

    /// [`value`](Self::value) for every code of a group.
    fn group_values(&self, codes: &[u8], grid: Grid, out: &mut [f32]) {
        codes.iter().zip(out).for_each(|(&code, out)| *out = self.value(code, grid));
    }
}

/// [`GroupFormat::fit_each`], group by group.
#[inline(always)]
fn one_by_one<F: GroupFormat + ?Sized>(
    format: &F,
    w: &[f32],
    length: usize,
    weights: Option<&[f64]>,
    grids: &mut [Grid],
) -> Result<(), (usize, GridError)> {
    for (at, (w, grid)) in w.chunks(length).zip(grids).enumerate() {
        let first = at * length;
        let weights = weights.map(|weights| &weights[first..first + w.len()]);
        *grid = format.fit(w, weights).map_err(|source| (first, source))?;
    }
    Ok(())
}

/// Where a row goes when it is encoded.
pub struct Row<'a> {
    /// Codes, one a byte.
    pub codes: &'a mut [u8],
    /// Codes in bit fields.
    pub bytes: &'a mut [u8],
    /// Grids of the groups.
    pub grids: &'a mut [Grid],
}

struct EncodeRow<'a, F: ?Sized> {
    of: &'a F,
    format: Grouped,
    w: &'a [f32],
    weights: Option<&'a [f64]>,
    row: Row<'a>,
}

impl<F: GroupFormat + ?Sized> NullaryFnOnce for EncodeRow<'_, F> {
    type Output = Result<(), (usize, GridError)>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        let Self { of, format, w, weights, row: Row { codes, bytes, grids } } = self;
        // As many groups at a time as ternary codes fit side by side.
        let span = format.group.saturating_mul(LANES);
        let spans = w.chunks(span).zip(codes.chunks_mut(span)).zip(grids.chunks_mut(LANES));
        for (at, ((w, codes), grids)) in spans.enumerate() {
            let first = at * span;
            let weights = weights.map(|weights| &weights[first..first + w.len()]);
            of.fit_each(w, format.group, weights, grids).map_err(|(at, source)| (first + at, source))?;
            let groups = w.chunks(format.group).zip(codes.chunks_mut(format.group)).zip(grids);
            groups.for_each(|((w, codes), grid)| of.round_group(w, *grid, codes));
        }
        pack::pack(format.bits(), codes, bytes);
        Ok(())
    }
}

/// How the grid of a group is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GridRule {
    /// Of least (weighted) squared error, or near it: what ternary codes and integers of two and three bits have unless told.
    Optimal,
    /// The levels reach from the smallest weight to the largest, for ternary codes as in QMoE (arXiv 2310.16795): what
    /// all other codes have unless told.
    MinMax,
    /// Ternary, symmetric: the scale is the mean magnitude, as in BitNet b1.58 (arXiv 2402.17764).
    AbsMean,
}

impl GridRule {
    /// Its name in recipes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Optimal => "optimal",
            Self::MinMax => "min_max",
            Self::AbsMean => "absmean",
        }
    }

    /// All rules.
    pub const ALL: [Self; 3] = [Self::Optimal, Self::MinMax, Self::AbsMean];

    /// What a format has unless told.
    pub const fn usual(format: Grouped) -> Self {
        match format.code {
            // With few levels it pays to leave out the ends of the range.
            Code::Ternary | Code::Int(2 | 3) => Self::Optimal,
            _ => Self::MinMax,
        }
    }
}

/// The implementation of a format with the usual rule for its grids, or `None` where there is no such format.
///
/// A call through it costs one indirection: work on groups rather than on single weights.
pub fn implementation(format: Grouped) -> Option<&'static dyn GroupFormat> {
    implementation_of(format, GridRule::usual(format))
}

/// As [`implementation`] with another rule; `None` as well where the format cannot have it.
pub fn implementation_of(format: Grouped, rule: GridRule) -> Option<&'static dyn GroupFormat> {
    macro_rules! scaled {
        ($of:expr) => {
            match format.scale {
                Scale::Ue5m3 => &ByteScale($of),
                _ => &$of,
            }
        };
    }
    macro_rules! int {
        ($of:ident, $bits:expr) => {
            match rule {
                GridRule::MinMax => scaled!(int::$of { bits: $bits, optimal: false }),
                GridRule::Optimal => scaled!(int::$of { bits: $bits, optimal: true }),
                GridRule::AbsMean => return None,
            }
        };
    }
    if !format.exists() {
        return None;
    }
    Some(match (format.code, format.symmetric) {
        (Code::Ternary, true) => match rule {
            GridRule::Optimal => scaled!(ternary::Symmetric::Optimal),
            GridRule::MinMax => scaled!(ternary::Symmetric::MinMax),
            GridRule::AbsMean => scaled!(ternary::Symmetric::AbsMean),
        },
        (Code::Ternary, false) => match rule {
            GridRule::Optimal => scaled!(ternary::Asymmetric::Optimal),
            GridRule::MinMax => scaled!(ternary::Asymmetric::MinMax),
            GridRule::AbsMean => return None,
        },
        (Code::Int(2), false) => int!(Asymmetric, 2),
        (Code::Int(3), false) => int!(Asymmetric, 3),
        (Code::Int(4), false) => int!(Asymmetric, 4),
        (Code::Int(8), false) => int!(Asymmetric, 8),
        (Code::Int(2), true) => int!(Symmetric, 2),
        (Code::Int(3), true) => int!(Symmetric, 3),
        (Code::Int(4), true) => int!(Symmetric, 4),
        (Code::Int(8), true) => int!(Symmetric, 8),
        (Code::Fp4, true) if rule == GridRule::MinMax => &float::Fp4,
        (Code::Fp8, true) if rule == GridRule::MinMax => scaled!(float::Fp8),
        _ => return None,
    })
}
