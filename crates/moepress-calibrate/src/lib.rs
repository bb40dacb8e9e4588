//! The calibration sweep: walks the layers forward and, when asked, backward, one layer at a time.
//!
//! Boundary activations are kept (on disk where memory is limited), each layer is recomputed with burn's autodiff
//! on the way back, and weight gradients are never formed: weights are constants of the graph. Chunks of windows run
//! in parallel; their sums are added in order, so the result does not depend on the number of threads.
//!
//! A [`Walk`] goes forward only, through a model whose matrices are decided on the way by what reaches them.

#![warn(missing_docs)]

mod activations;
mod backward;
mod chunk;
mod forward;
mod gradients;
mod gram;
mod ladders;
mod layer;
mod layout;
mod locality;
mod loss;
mod measured;
mod mergers;
mod missing;
mod passage;
mod reached;
mod rounded;
mod rounding;
mod routing;
mod sums;
mod sweep;
mod texts;
mod walk;
mod weights;
mod windows;

pub use activations::Spool;
pub use chunk::{Chunk, windows_per_chunk};
pub use gram::Gram;
pub use ladders::ladders;
pub use layout::{Layout, PROGRAM, Work, Writing};
pub use passage::Passage;
pub use reached::{HELD_OUT, Reached, Sums, Wanted};
pub use rounding::rounding_costs;
pub use sweep::{CalibrateError, Means, sweep, sweep_as};
pub use walk::{Matrices, Round, Undecided, Walk};
pub use weights::weight_statistics;
pub use windows::Windows;
