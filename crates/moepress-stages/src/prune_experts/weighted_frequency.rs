//! Weighted frequency: the gates each expert gets, a baseline of REAP (arXiv 2510.13999).

use crate::evidence::Evidence;
use crate::stage::StageError;
use moepress_stats::{Of, Quantity};

/// Σ pₑ(x) over routed tokens.
pub(super) fn score(evidence: &Evidence<'_>, layer: usize) -> Result<Vec<f64>, StageError> {
    Ok(evidence.stats.get(Of::Layer(layer), Quantity::GateSum)?.to_vec())
}
