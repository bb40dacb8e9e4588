//! Second-order saliency of whole experts: the sum over their atoms of HEAPr's coupled score (arXiv 2509.22299),
//! Σₓ Σₖ (hₖ ∂L/∂hₖ)². What one atom does to another of its expert is left out, as between experts.

use crate::evidence::Evidence;
use crate::stage::StageError;
use moepress_stats::{Of, Quantity};

/// Zero for an expert that no token reached.
pub(super) fn score(evidence: &Evidence<'_>, layer: usize) -> Result<Vec<f64>, StageError> {
    let score = |(expert, &tokens): (usize, &f64)| match tokens > 0.0 {
        true => match evidence.stats.get(Of::Expert(layer, expert), Quantity::AtomCoupled) {
            Ok(atoms) => Ok(atoms.iter().sum()),
            // Without atoms it contributes nothing.
            Err(_) if evidence.width(layer, expert) == 0 => Ok(0.0),
            Err(missing) => Err(missing.into()),
        },
        false => Ok(0.0),
    };
    evidence.tokens(layer)?.iter().enumerate().map(score).collect()
}

#[cfg(test)]
mod tests {
    use crate::toy::decide;
    use moepress_model::Edit;
    use moepress_stats::{Of, Quantity, Statistics};

    #[test]
    fn atoms_add_up() {
        let mut stats = Statistics::default();
        for layer in 0..2 {
            stats.add(Of::Layer(layer), Quantity::Tokens, vec![9.0, 9.0, 0.0, 9.0]).unwrap();
            for (expert, atoms) in [(0, [0.0, 1.0]), (1, [3.0, 3.0]), (3, [5.0, 0.0])] {
                stats.add(Of::Expert(layer, expert), Quantity::AtomCoupled, atoms.to_vec()).unwrap();
            }
        }
        let decision = decide("prune_experts: {method: heapr, ratio: 0.5}", &stats);
        assert_eq!(decision.edits[0], Edit::KeepExperts { layer: 0, experts: vec![1, 3] });
    }
}
