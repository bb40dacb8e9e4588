//! Grouped formats: what a group's grid is, how a weight meets it, and the row functions all of them share.
//!
//! Fitting a grid, rounding a weight and reading a code are separate, so that a solver which changes the
//! weights between columns (GPTQ) uses the same formats as plain rounding ([`encode_nearest`]).

mod cost;
mod decode;
mod encode;
mod grid;
mod int;
mod ladder;
pub(crate) mod pack;
mod ternary;

pub use cost::rounding_cost;
pub use decode::{decode_codes, decode_row};
pub use encode::{EncodeError, encode_nearest, encode_ternary, pack_codes};
pub(crate) use encode::{check_area, find};
pub(crate) use grid::check_finite;
pub use grid::{Grid, GridError};
pub use ladder::{Rung, half_power, ladder};
pub use ternary::TernaryGrid;

use crate::{Code, Grouped};

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

    /// The code whose value on `grid` is nearest to the finite number `w`.
    fn round(&self, w: f32, grid: Grid) -> u8;

    /// What `code` stands for on `grid`.
    fn value(&self, code: u8, grid: Grid) -> f32;

    /// [`round`](Self::round) for every weight of a group.
    fn round_group(&self, w: &[f32], grid: Grid, codes: &mut [u8]) {
        w.iter().zip(codes).for_each(|(&w, code)| *code = self.round(w, grid));
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

/// The implementation of a format, or `None` where there is no such format.
///
/// A call through it costs one indirection: work on groups rather than on single weights.
pub fn implementation(format: Grouped) -> Option<&'static dyn GroupFormat> {
    if !Grouped::GROUPS.contains(&format.group) {
        return None;
    }
    Some(match (format.code, format.symmetric) {
        (Code::Ternary, true) => &TernaryGrid::Optimal,
        (Code::Int(2), false) => &int::Asymmetric { bits: 2 },
        (Code::Int(3), false) => &int::Asymmetric { bits: 3 },
        (Code::Int(4), false) => &int::Asymmetric { bits: 4 },
        (Code::Int(8), false) => &int::Asymmetric { bits: 8 },
        (Code::Int(2), true) => &int::Symmetric { bits: 2 },
        (Code::Int(3), true) => &int::Symmetric { bits: 3 },
        (Code::Int(4), true) => &int::Symmetric { bits: 4 },
        (Code::Int(8), true) => &int::Symmetric { bits: 8 },
        _ => return None,
    })
}
