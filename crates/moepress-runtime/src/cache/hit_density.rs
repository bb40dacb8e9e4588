//! Chance of the next use over the time until then (hit density: Beckmann, Chen and Cidon, NSDI 2018), where time is what
//! layers make of it: they take turns, so an expert of the layer that has just been passed is asked for last.

use super::{ExpertId, Policy, Trace, Visit};
use std::collections::HashMap;

/// Tokens after which a use counts half, in the two averages that a chance is made of, and what each weighs.
const AVERAGES: [(f64, f64); 2] = [(85.0, 1.0), (3.0, 0.2)];

#[derive(Default)]
struct HitDensity {
    layers: HashMap<usize, Layer>,
    /// The layer visited last, and how many there are.
    last: usize,
    count: usize,
}

#[derive(Default)]
struct Layer {
    /// Of each average the tokens that went to every expert.
    uses: HashMap<usize, [f64; 2]>,
    /// And all tokens.
    tokens: [f64; 2],
}

pub(super) fn build(before: Option<&Trace>) -> Box<dyn Policy> {
    let mut density = HitDensity::default();
    before.iter().flat_map(|trace| &trace.visits).for_each(|visit| density.visit(visit));
    Box::new(density)
}

impl Policy for HitDensity {
    fn visit(&mut self, visit: &Visit) {
        (self.last, self.count) = (visit.layer, self.count.max(visit.layer + 1));
        let layer = self.layers.entry(visit.layer).or_default();
        for (average, (half_life, _)) in AVERAGES.into_iter().enumerate() {
            // Of several tokens the uses are as if spread evenly over them.
            let (kept, one) = ((-(visit.tokens as f64) / half_life).exp2(), (-1.0 / half_life).exp2());
            let tokens = (1.0 - kept) / (1.0 - one);
            layer.uses.values_mut().for_each(|uses| uses[average] *= kept);
            layer.tokens[average] = layer.tokens[average] * kept + tokens;
            for used in &visit.experts {
                let share = used.tokens as f64 / visit.tokens.max(1) as f64;
                layer.uses.entry(used.expert).or_default()[average] += tokens * share;
            }
        }
    }

    fn worth(&self, id: ExpertId) -> f64 {
        let Some(layer) = self.layers.get(&id.layer) else { return 0.0 };
        let uses = layer.uses.get(&id.expert).copied().unwrap_or_default();
        let chance =
            |(average, (_, weight)): (usize, (f64, f64))| weight * uses[average] / layer.tokens[average];
        let chance: f64 = AVERAGES.into_iter().enumerate().map(chance).sum();
        let away = match (id.layer + self.count - self.last) % self.count {
            0 => self.count,
            away => away,
        };
        // The root, since what is not used then is not lost: it may be used a round later.
        chance / (away as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Used;
    use super::*;

    fn visit(layer: usize, tokens: usize, uses: &[(usize, usize)]) -> Visit {
        let used = |&(expert, tokens): &(usize, usize)| Used { expert, tokens, gates: 1.0 };
        Visit { layer, tokens, experts: uses.iter().map(used).collect(), expected: vec![] }
    }

    #[test]
    fn of_equal_chances_the_one_asked_for_last_goes_first() {
        let mut density = HitDensity::default();
        for layer in [0, 1, 2, 0, 1] {
            density.visit(&visit(layer, 1, &[(4, 1)]));
        }
        let worth = |layer, expert| density.worth(ExpertId { layer, expert });
        // Layer 2 is next, then 0, and the one just passed last; what was never used is worth nothing.
        assert!(worth(2, 4) > worth(0, 4) && worth(0, 4) > worth(1, 4) && worth(1, 4) > 0.0);
        assert_eq!([worth(1, 5), worth(9, 4)], [0.0; 2]);
        // Always used: a chance of one in either average.
        assert!((worth(2, 4) - 1.2).abs() < 1e-12 && (worth(1, 4) - 1.2 / 3f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn a_prompt_counts_by_its_tokens() {
        let mut density = HitDensity::default();
        density.visit(&visit(0, 8, &[(1, 8), (2, 2)]));
        let worth = |expert| density.worth(ExpertId { layer: 0, expert });
        assert!((worth(1) - 1.2).abs() < 1e-12 && (worth(2) - 0.3).abs() < 1e-12);
    }
}
