//! Frequency: the tokens routed to each expert. The baseline of every expert-pruning paper.

use crate::evidence::Evidence;
use moepress_stats::StatisticsError;

/// Nₑ.
pub(super) fn score(evidence: &Evidence<'_>, layer: usize) -> Result<Vec<f64>, StatisticsError> {
    evidence.tokens(layer).map(<[f64]>::to_vec)
}
