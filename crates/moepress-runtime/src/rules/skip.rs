//! Without the experts that hardly count (Lu et al., Not All Experts are Equal, arXiv 2402.14800, section 3.3): those whose
//! gate is below a share of the token's largest.

use super::{Chosen, Rule};

/// The share, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Skip(pub f64);

impl Rule for Skip {
    fn thin(&self, tokens: &mut [Chosen]) {
        for chosen in tokens {
            let most = chosen.iter().fold(f32::NEG_INFINITY, |most, (_, gate)| most.max(*gate));
            // As a negation, so that gates that are no numbers stay and are seen.
            let skipped = |gate: f32| f64::from(gate) < self.0 * f64::from(most);
            chosen.retain(|(_, gate)| !skipped(*gate));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_always_stays() {
        for (share, count) in [(0.0, 3), (0.5, 2), (0.6, 1), (1.0, 1)] {
            let mut tokens = [vec![(0, 0.1), (1, 0.6), (2, 0.3)]];
            Skip(share).thin(&mut tokens);
            assert_eq!(tokens[0].len(), count, "{share}");
            assert!(tokens[0].iter().any(|(row, _)| *row == 1));
        }
        let mut broken = [vec![(0, f32::NAN), (1, f32::NAN)]];
        Skip(0.5).thin(&mut broken);
        assert_eq!(broken[0].len(), 2);
    }
}
