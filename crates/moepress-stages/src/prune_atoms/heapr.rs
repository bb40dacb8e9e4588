//! HEAPr (arXiv 2509.22299): second-order saliency of atoms in output space.
//!
//! Removing atom k changes the expert's output by −wₖ hₖ, and wₖᵀ g = ∂L/∂hₖ, so the paper's d × d
//! covariance of output gradients never has to exist:
//!
//! - `decoupled` (the paper's): E[h²] · E[(∂L/∂h)²]
//! - `coupled`: E[(h · ∂L/∂h)²], the Fisher information of a mask on the atom
//! - `total`: Σ h² · E[(∂L/∂h)²], what the whole calibration text is expected to lose
//!
//! Expectations are over the tokens routed to the expert; `over_tokens: sum` multiplies by their number.

use super::Saliency;
use crate::evidence::Evidence;
use moepress_recipe::{Params, RecipeError};
use moepress_stats::{Need, Needs, Of, Quantity, StatisticsError};

pub(super) const KEYS: &[&str] = &["score", "over_tokens"];

struct Heapr {
    coupled: bool,
    sum: bool,
    name: String,
}

pub(super) fn build(params: &Params) -> Result<Box<dyn Saliency>, RecipeError> {
    let score = params.word("score", Some("coupled"), &["decoupled", "coupled", "total"])?;
    let default = if score == "decoupled" { "mean" } else { "sum" };
    let over = params.word("over_tokens", Some(default), &["mean", "sum"])?;
    if score == "total" && over == "mean" {
        return Err(params.error("over_tokens", "score total is a sum; its mean is score decoupled"));
    }
    let name = format!("heapr {score} {over}");
    Ok(Box::new(Heapr { coupled: score == "coupled", sum: over == "sum", name }))
}

impl Saliency for Heapr {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn needs(&self) -> Needs {
        Needs::of([Need::Atoms])
    }

    fn score(
        &self,
        evidence: &Evidence<'_>,
        layer: usize,
        expert: usize,
    ) -> Result<Vec<f64>, StatisticsError> {
        let of = Of::Expert(layer, expert);
        let tokens = evidence.tokens(layer)?[expert];
        let scale = if self.sum { tokens } else { 1.0 };
        if self.coupled {
            let coupled = evidence.stats.get(of, Quantity::AtomCoupled)?;
            return Ok(coupled.iter().map(|c| scale * (c / tokens)).collect());
        }
        let energy = evidence.stats.get(of, Quantity::AtomEnergy)?;
        let gradient = evidence.stats.get(of, Quantity::AtomGradient)?;
        Ok(energy.iter().zip(gradient).map(|(h, g)| scale * (h / tokens) * (g / tokens)).collect())
    }

    /// ½ Σ (h · ∂L/∂h)² over the tokens, whatever they are ranked by.
    fn losses(
        &self,
        evidence: &Evidence<'_>,
        layer: usize,
        expert: usize,
    ) -> Result<Option<Vec<f64>>, StatisticsError> {
        let Ok(predictions) = evidence.stats.get(Of::Model, Quantity::Predictions) else { return Ok(None) };
        let coupled = evidence.stats.get(Of::Expert(layer, expert), Quantity::AtomCoupled)?;
        Ok(Some(coupled.iter().map(|sum| 0.5 * sum / predictions[0].max(1.0)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use crate::toy::{toy, with_params};
    use moepress_stats::{Of, Quantity, Statistics};

    #[test]
    fn golden_scores() {
        // methods.md 1.9 with two tokens: Σh² = (10, 5), Σ(∂L/∂h)² = (5, 4), Σ(h ∂L/∂h)² = (37, 16).
        let mut stats = Statistics::default();
        stats.add(Of::Layer(0), Quantity::Tokens, vec![2.0]).unwrap();
        stats.add(Of::Expert(0, 0), Quantity::AtomEnergy, vec![10.0, 5.0]).unwrap();
        stats.add(Of::Expert(0, 0), Quantity::AtomGradient, vec![5.0, 4.0]).unwrap();
        stats.add(Of::Expert(0, 0), Quantity::AtomCoupled, vec![37.0, 16.0]).unwrap();
        let spec = toy();
        let evidence = crate::Evidence::new(&spec, &stats);
        let score = |yaml: &str| {
            with_params(yaml, |params| super::build(params).unwrap().score(&evidence, 0, 0).unwrap())
        };
        assert_eq!(score("{score: decoupled}"), [12.5, 5.0]);
        assert_eq!(score("{score: total}"), [25.0, 10.0]);
        assert_eq!(score("{score: coupled, over_tokens: mean}"), [18.5, 8.0]);
        assert_eq!(score("{}"), [37.0, 16.0]);
    }
    #[test]
    fn the_score_is_twice_the_loss_of_a_quadratic_and_drops_the_cross_term() {
        // L(y) = ½ (y − E)ᵀ A (y − E) with A = Σ aᵢ aᵢᵀ = [[2, 1], [1, 5]]; three tokens of the same h whose output
        // gradients g = √3 aᵢ have the covariance A.
        let (factors, columns, h) =
            ([[1.0, 1.0], [1.0, 0.0], [0.0, 2.0]], [[1.0, 2.0], [-3.0, 0.5], [0.25, -1.0]], [2.0, 1.0, 4.0]);
        let dot = |a: [f64; 2], b: [f64; 2]| a[0] * b[0] + a[1] * b[1];
        let loss = |removed: &[usize]| {
            let delta = [0, 1].map(|d| removed.iter().map(|&k| -columns[k][d] * h[k]).sum::<f64>());
            0.5 * factors.iter().map(|&a| dot(a, delta).powi(2)).sum::<f64>()
        };
        let mut stats = Statistics::default();
        stats.add(Of::Layer(0), Quantity::Tokens, vec![3.0]).unwrap();
        let energy = h.map(|h: f64| 3.0 * h * h).to_vec();
        let gradient =
            columns.map(|w| factors.iter().map(|&a| 3.0 * dot(a, w).powi(2)).sum::<f64>()).to_vec();
        stats.add(Of::Expert(0, 0), Quantity::AtomEnergy, energy).unwrap();
        stats.add(Of::Expert(0, 0), Quantity::AtomGradient, gradient).unwrap();
        let spec = toy();
        let evidence = crate::Evidence::new(&spec, &stats);
        let scores = with_params("{score: decoupled}", |params| {
            super::build(params).unwrap().score(&evidence, 0, 0).unwrap()
        });
        for (atom, score) in scores.iter().enumerate() {
            assert_eq!(0.5 * score, loss(&[atom]));
        }
        let cross =
            factors.iter().map(|&a| dot(a, columns[0]) * dot(a, columns[1])).sum::<f64>() * h[0] * h[1];
        assert_eq!(loss(&[0, 1]), 0.5 * (scores[0] + scores[1]) + cross);
    }
}
