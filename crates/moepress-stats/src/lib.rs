//! What a sweep measures: sums over calibration tokens, in f64.
//!
//! Everything is a sum, so the statistics of two calibration shards add up to those of one run. A new
//! statistic is a [`Quantity`] here and the line in a probe that adds to it.

#![warn(missing_docs)]

mod costs;
mod fit;
mod follow;
mod ladders;
mod names;
mod needs;
mod statistics;

pub use costs::RoundingCosts;
pub use ladders::{LadderNeed, Ladders, RunLadder, salient_runs};
pub use needs::{Need, Needs};
pub use statistics::{Key, Of, Quantity, Statistics, StatisticsError};
