//! How far a model is from the one it was made from.

use crate::likelihood::mean;
use serde::Serialize;

/// Kullback–Leibler divergence from the original's distribution of the next token to the model's, over the
/// whole vocabulary, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Mean over tokens.
    pub mean: f64,
    /// Standard error of `mean`, taking tokens as independent.
    pub stderr: f64,
    /// Half of the tokens are not above.
    pub median: f64,
    /// 90 % of the tokens are not above.
    pub p90: f64,
    /// 99 % of the tokens are not above.
    pub p99: f64,
    /// The worst token.
    pub max: f64,
    /// Fraction of tokens where both find the same next token likeliest.
    pub top1_agreement: f64,
}

impl Divergence {
    /// Of the divergences of single tokens, at least one, of which `agreed` had the same likeliest token.
    pub(crate) fn new(mut tokens: Vec<f64>, agreed: usize) -> Self {
        let (mean, stderr) = mean(&tokens);
        tokens.sort_unstable_by(f64::total_cmp);
        // Nearest rank: the smallest value that at least this fraction of the tokens does not exceed.
        let rank = |percent: usize| tokens[(tokens.len() * percent).div_ceil(100).max(1) - 1];
        Self {
            mean,
            stderr,
            median: rank(50),
            p90: rank(90),
            p99: rank(99),
            max: rank(100),
            top1_agreement: agreed as f64 / tokens.len() as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let d = Divergence::new((1..=200).rev().map(f64::from).collect(), 50);
        assert_eq!(
            (d.mean, d.median, d.p90, d.p99, d.max, d.top1_agreement),
            (100.5, 100.0, 180.0, 198.0, 200.0, 0.25)
        );
        let one = Divergence::new(vec![0.5], 1);
        assert_eq!((one.median, one.p99, one.max, one.stderr), (0.5, 0.5, 0.5, 0.0));
    }
}
