//! REAP (arXiv 2510.13999): mean over routed tokens of gate times output norm.

use crate::evidence::Evidence;
use moepress_stats::{Of, Quantity, StatisticsError};

/// Sₑ = (1/Nₑ) Σ pₑ(x) ‖Eₑ(x)‖₂; zero for an expert that no token reached.
pub(super) fn score(evidence: &Evidence<'_>, layer: usize) -> Result<Vec<f64>, StatisticsError> {
    let tokens = evidence.tokens(layer)?;
    let sums = evidence.stats.get(Of::Layer(layer), Quantity::GateNormSum)?;
    Ok(sums.iter().zip(tokens).map(|(sum, &n)| if n > 0.0 { sum / n } else { 0.0 }).collect())
}
