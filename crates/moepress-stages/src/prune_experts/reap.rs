//! REAP (arXiv 2510.13999): gate times output norm, the mean over routed tokens.
//!
//! `over_tokens: mean` is the paper's; `sum` lets an expert count by how often it is used.

use super::Criterion;
use crate::evidence::Evidence;
use crate::stage::StageError;
use moepress_recipe::{Params, RecipeError};
use moepress_stats::{Need, Of, Quantity};

pub(super) const KEYS: &[&str] = &["over_tokens"];

pub(super) fn build(params: &Params) -> Result<Criterion, RecipeError> {
    Ok(match params.word("over_tokens", Some("mean"), &["mean", "sum"])?.as_str() {
        "sum" => Criterion::new("reap sum", Need::Routing, sum),
        _ => Criterion::new("reap", Need::Routing, score),
    })
}

/// Σ pₑ(x) ‖Eₑ(x)‖₂ over routed tokens.
fn sum(evidence: &Evidence<'_>, layer: usize) -> Result<Vec<f64>, StageError> {
    Ok(evidence.stats.get(Of::Layer(layer), Quantity::GateNormSum)?.to_vec())
}

/// Sₑ = (1/Nₑ) Σ pₑ(x) ‖Eₑ(x)‖₂; zero for an expert that no token reached.
pub(super) fn score(evidence: &Evidence<'_>, layer: usize) -> Result<Vec<f64>, StageError> {
    let (sums, tokens) = (sum(evidence, layer)?, evidence.tokens(layer)?);
    Ok(sums.iter().zip(tokens).map(|(sum, &n)| if n > 0.0 { sum / n } else { 0.0 }).collect())
}
