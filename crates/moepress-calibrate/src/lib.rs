//! The calibration sweep: walks the layers forward and, when asked, backward, one layer at a time.
//!
//! Boundary activations are kept, each layer is recomputed with burn's autodiff on the way back, and weight
//! gradients are never formed: weights are constants of the graph. Chunks of windows run in parallel; their
//! sums are added in order, so the result does not depend on the number of threads.

#![warn(missing_docs)]

mod backward;
mod chunk;
mod forward;
mod gradients;
mod rounding;
mod routing;
mod sums;
mod sweep;

pub use chunk::windows_per_chunk;
pub use rounding::rounding_costs;
pub use sweep::{CalibrateError, sweep};
