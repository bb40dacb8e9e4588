//! Frequency: the tokens routed to each expert. The baseline of every expert-pruning paper.

use crate::evidence::Evidence;
use crate::stage::StageError;

/// Nₑ.
pub(super) fn score(evidence: &Evidence<'_>, layer: usize) -> Result<Vec<f64>, StageError> {
    Ok(evidence.tokens(layer)?.to_vec())
}
