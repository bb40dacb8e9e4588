//! Fewer experts for a whole batch (Gupta et al., Lynx, arXiv 2411.08982): when several texts advance together, most of a
//! layer's experts are read for a token or two each. Only those with the most gate mass over all tokens of the pass are
//! used; a token that chose none of them keeps its first.

use super::{Chosen, Rule, ranked};
use std::collections::BTreeMap;

/// Router rows that a pass may use in each layer, above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch(pub usize);

impl Rule for Batch {
    fn thin(&self, tokens: &mut [Chosen]) {
        let mut masses: BTreeMap<usize, f32> = BTreeMap::new();
        tokens.iter().flatten().for_each(|&(row, gate)| *masses.entry(row).or_default() += gate);
        if masses.len() <= self.0 {
            return;
        }
        let used = ranked(&masses.into_iter().collect());
        let used = &used[..self.0];
        for chosen in tokens {
            let first = ranked(chosen).first().copied();
            chosen.retain(|(row, _)| used.iter().any(|(used, _)| used == row));
            if chosen.is_empty() {
                chosen.extend(first);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_rows_serve_all_tokens() {
        let tokens = [vec![(0, 0.5), (1, 0.5)], vec![(1, 0.7), (2, 0.3)], vec![(3, 0.4), (4, 0.2)]];
        let mut thinned = tokens.clone();
        Batch(2).thin(&mut thinned);
        assert_eq!(thinned, [vec![(0, 0.5), (1, 0.5)], vec![(1, 0.7)], vec![(3, 0.4)]]);
        let mut all = tokens.clone();
        Batch(5).thin(&mut all);
        assert_eq!(all, tokens);
    }
}
