//! Expert activation norm, EAN (arXiv 2504.05586, and as a baseline of REAP, arXiv 2510.13999): how large an
//! expert's outputs are, whatever its gates.
//!
//! `over_tokens: sum` is the paper's; `mean` leaves the frequency out (mean activation norm, arXiv 2606.15716).

use super::Criterion;
use crate::evidence::Evidence;
use crate::stage::StageError;
use moepress_recipe::{Params, RecipeError};
use moepress_stats::{Need, Of, Quantity};

pub(super) const KEYS: &[&str] = &["over_tokens"];

pub(super) fn build(params: &Params) -> Result<Criterion, RecipeError> {
    Ok(match params.word("over_tokens", Some("sum"), &["sum", "mean"])?.as_str() {
        "mean" => Criterion::new("ean mean", Need::Routing, mean),
        _ => Criterion::new("ean sum", Need::Routing, sum),
    })
}

/// Σ ‖Eₑ(x)‖₂ over routed tokens.
fn sum(evidence: &Evidence<'_>, layer: usize) -> Result<Vec<f64>, StageError> {
    Ok(evidence.stats.get(Of::Layer(layer), Quantity::NormSum)?.to_vec())
}

/// Its mean; zero for an expert that no token reached.
fn mean(evidence: &Evidence<'_>, layer: usize) -> Result<Vec<f64>, StageError> {
    let (sums, tokens) = (sum(evidence, layer)?, evidence.tokens(layer)?);
    Ok(sums.iter().zip(tokens).map(|(sum, &n)| if n > 0.0 { sum / n } else { 0.0 }).collect())
}
