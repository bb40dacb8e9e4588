//! What a sweep measures: sums over calibration tokens, in f64.
//!
//! Everything is a sum (or a maximum), so the statistics of two calibration shards add up to those of one run. A new
//! statistic is a [`Quantity`] here and the line in a probe that adds to it.

#![warn(missing_docs)]

mod costs;
mod fit;
mod follow;
mod ladders;
mod locality;
mod names;
mod needs;
mod statistics;
mod usage;
mod weights;

pub use costs::RoundingCosts;
pub use ladders::{LadderNeed, Ladders, Merger, RunLadder, salient_runs};
pub use locality::{RUNS, Segments, cache_hit_rate, run_uses_len, segments};
pub use needs::{Need, Needs};
pub use statistics::{Key, Of, Quantity, Statistics, StatisticsError};
pub use usage::{
    Pair, Utilisation, collaboration, strongest_pairs, strongest_successions, succession, utilisation,
};
pub use weights::{WeightNeed, WeightNeeds, WeightStatistics};
