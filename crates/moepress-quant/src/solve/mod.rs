//! Solvers: from weights to codes that cost less than rounding to nearest.
//!
//! [`Factor`] is GPTQ (arXiv 2210.17323): what is known of the inputs lets later columns make up for the
//! errors of earlier ones. [`search_scales`] needs no inputs: it moves the grids (HQQ).

mod factor;
mod gptq;
mod ldl;
mod scale_search;
mod stretch;
mod strip;
mod tile;

pub use factor::{Curvature, Factor, Options};
pub use gptq::{Report, Run};
pub use scale_search::{SearchReport, search_scales};

use crate::Format;
use crate::formats::EncodeError;

/// Why a solver has no result.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SolveError {
    /// The weights or the format.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The gram is not square.
    #[error("a gram of {cols} columns has {found} elements instead of {cols} squared")]
    GramLength {
        /// Columns.
        cols: usize,
        /// Elements.
        found: usize,
    },
    /// The matrix is no gram.
    #[error("element ({row}, {col}) of the gram {fault}; measure it again")]
    Gram {
        /// Row of the first such element.
        row: usize,
        /// Its column.
        col: usize,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A grid that a run of columns cannot have.
    #[error(
        "{format} with steps of {step} is no grid of a run: symmetric formats in groups of whole rows, steps that are f16 numbers above 0"
    )]
    Step {
        /// The format.
        format: Format,
        /// Distance of levels.
        step: f32,
    },
    /// Damping that is not positive.
    #[error("damp is {0}; it must be positive and finite (0.01 is usual)")]
    Damp(f64),
}
