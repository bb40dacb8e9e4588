//! Decisions and edits. A stage turns statistics into a list of edits; one place applies them to weights.
//!
//! Stages know neither files nor burn, and none asks which family it has. To add a method, write
//! `<stage>/<method>.rs` and one line in the stage's list; to add a stage, one line in [`STAGES`].

#![warn(missing_docs)]

mod apply;
mod assign_bits;
mod compensate;
mod compress;
mod coverage;
mod evidence;
#[cfg(test)]
mod invariants;
mod merge_experts;
mod prune_atoms;
mod prune_experts;
mod quantize;
mod stage;
mod targets;
#[cfg(test)]
mod toy;

pub use apply::{
    ApplyError, Decided, Inputs, Refitted, Rounding, Solved, Sums, Waiting, apply, apply_outside, awaited,
    round, sources,
};
pub use coverage::{CoverageError, UnderMeasured, check_coverage};
pub use evidence::{Assumed, Evidence, assumed};
pub use stage::{Decision, STAGES, Stage, StageError, from_recipe};
