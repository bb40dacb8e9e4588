//! What may change where tokens go while a model runs. Off unless asked for: every rule costs quality, and
//! `moepress bench rules` measures how much.
//!
//! A rule is one file behind [`Rule`].

mod batch;
mod profile;
mod skip;
mod top_p;

pub use batch::Batch;
pub use profile::Profile;
pub use skip::Skip;
pub use top_p::TopP;

/// The rows of a router that a token goes to, with their gates.
pub type Chosen = Vec<(usize, f32)>;

/// A rule for the tokens of a pass.
pub trait Rule: Send + Sync {
    /// Whether tokens may go to an expert of a layer at all. At least as many must be left as a token goes to.
    fn allows(&self, _layer: usize, _expert: usize) -> bool {
        true
    }

    /// Takes rows away from what the router chose for the tokens of a pass, but never all of a token's.
    fn thin(&self, _tokens: &mut [Chosen]) {}
}

/// Applies all rules; where `renormalised`, the gates of a token add up to what they did before.
pub(crate) fn apply(rules: &[Box<dyn Rule>], renormalised: bool, tokens: &mut [Chosen]) {
    if rules.is_empty() {
        return;
    }
    let sum = |chosen: &Chosen| chosen.iter().map(|(_, gate)| gate).sum::<f32>();
    let before: Vec<f32> = tokens.iter().map(sum).collect();
    rules.iter().for_each(|rule| rule.thin(tokens));
    for (chosen, before) in tokens.iter_mut().zip(before).filter(|_| renormalised) {
        let after = sum(chosen);
        if after > 0.0 && after != before {
            chosen.iter_mut().for_each(|(_, gate)| *gate *= before / after);
        }
    }
}

/// The gates of a token from the largest on; ties to the lower row.
fn ranked(chosen: &Chosen) -> Chosen {
    let mut ranked = chosen.clone();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_keeps_the_sum_of_gates() {
        let rules: Vec<Box<dyn Rule>> = vec![Box::new(Skip(0.5))];
        let tokens = [vec![(0, 0.6), (3, 0.1), (5, 0.3)], vec![(1, 1.0)]];
        let mut kept = tokens.clone();
        apply(&rules, true, &mut kept);
        let expected = [(0, 0.6 / 0.9), (5, 0.3 / 0.9)];
        assert!(kept[0].iter().zip(expected).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6));
        assert_eq!(kept[1], tokens[1]);
        let mut kept = tokens.clone();
        apply(&rules, false, &mut kept);
        assert_eq!(kept[0], [(0, 0.6), (5, 0.3)]);
        let mut kept = tokens.clone();
        apply(&[], true, &mut kept);
        assert_eq!(kept, tokens);
    }
}
