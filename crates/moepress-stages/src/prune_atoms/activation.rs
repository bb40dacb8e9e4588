//! Activation energy: h² of atoms, a baseline that asks for no gradient.
//!
//! CAMERA (arXiv 2508.02322) scores the same unit by the energy of its activation and weights, E[h²] ‖wₖ‖², which
//! is HEAPr with the identity for the covariance of output gradients. A decision sees no weights, so the norm of
//! the column wₖ of `down_proj` is left out here: atoms count by the energy of h alone. Energy is measured together
//! with gradients, so it costs a backward sweep all the same.

use super::Saliency;
use crate::evidence::Evidence;
use moepress_recipe::{Params, RecipeError};
use moepress_stats::{Need, Needs, Of, Quantity, StatisticsError};

pub(super) const KEYS: &[&str] = &["over_tokens"];

struct Activation {
    sum: bool,
}

pub(super) fn build(params: &Params) -> Result<Box<dyn Saliency>, RecipeError> {
    let sum = params.word("over_tokens", Some("sum"), &["mean", "sum"])? == "sum";
    Ok(Box::new(Activation { sum }))
}

impl Saliency for Activation {
    fn describe(&self) -> String {
        format!("activation energy {}", if self.sum { "sum" } else { "mean" })
    }

    fn needs(&self) -> Needs {
        Needs::of([Need::Atoms])
    }

    /// Σ h² over the tokens routed to the expert, or its mean.
    fn score(
        &self,
        evidence: &Evidence<'_>,
        layer: usize,
        expert: usize,
    ) -> Result<Vec<f64>, StatisticsError> {
        let energy = evidence.stats.get(Of::Expert(layer, expert), Quantity::AtomEnergy)?;
        let tokens = if self.sum { 1.0 } else { evidence.tokens(layer)?[expert] };
        Ok(energy.iter().map(|energy| energy / tokens).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::toy::{toy, with_params};
    use moepress_stats::{Of, Quantity, Statistics};

    #[test]
    fn energy_is_summed_or_averaged() {
        let mut stats = Statistics::default();
        stats.add(Of::Layer(0), Quantity::Tokens, vec![2.0]).unwrap();
        stats.add(Of::Expert(0, 0), Quantity::AtomEnergy, vec![10.0, 5.0]).unwrap();
        let spec = toy();
        let evidence = crate::Evidence::new(&spec, &stats);
        let score = |yaml: &str| {
            with_params(yaml, |params| super::build(params).unwrap().score(&evidence, 0, 0).unwrap())
        };
        assert_eq!(score("{}"), [10.0, 5.0]);
        assert_eq!(score("{over_tokens: mean}"), [5.0, 2.5]);
    }
}
