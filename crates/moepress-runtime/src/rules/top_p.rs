//! As many experts as a token needs (Huang et al., Harder Tasks Need More Experts, arXiv 2403.07652, section 3.2): the
//! likeliest ones until their gates reach a share of those that the router chose.

use super::{Chosen, Rule, ranked};

/// The share, above 0 and up to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopP(pub f64);

impl Rule for TopP {
    fn thin(&self, tokens: &mut [Chosen]) {
        for chosen in tokens {
            let ranked = ranked(chosen);
            let wanted = self.0 * ranked.iter().map(|(_, gate)| f64::from(*gate)).sum::<f64>();
            let mut reached = 0.0;
            let count = ranked.iter().take_while(|(_, gate)| {
                let more = reached < wanted;
                reached += f64::from(*gate);
                more
            });
            let kept: Vec<usize> = count.map(|(row, _)| *row).collect();
            if !kept.is_empty() {
                chosen.retain(|(row, _)| kept.contains(row));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_and_no_more() {
        let token = vec![(1, 0.125), (2, 0.5), (4, 0.25), (7, 0.125)];
        for (share, rows) in [
            (0.01, vec![2]),
            (0.5, vec![2]),
            (0.51, vec![2, 4]),
            (0.75, vec![2, 4]),
            (0.8, vec![1, 2, 4]),
            (1.0, vec![1, 2, 4, 7]),
        ] {
            let mut tokens = [token.clone()];
            TopP(share).thin(&mut tokens);
            assert_eq!(tokens[0].iter().map(|(row, _)| *row).collect::<Vec<_>>(), rows, "{share}");
        }
        let mut zeros = [vec![(0, 0.0), (1, 0.0)]];
        TopP(0.5).thin(&mut zeros);
        assert_eq!(zeros[0].len(), 2);
    }
}
