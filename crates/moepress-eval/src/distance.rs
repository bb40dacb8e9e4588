//! How far a model is from the one it was made from.

use crate::likelihood::mean;
use serde::Serialize;

/// What single predictions came to under the original and under the model: lists of one length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    /// Negative log-likelihoods under the model, nats.
    pub(crate) losses: Vec<f64>,
    /// The same under the original.
    pub(crate) original_losses: Vec<f64>,
    /// Kullback–Leibler divergences, nats.
    pub(crate) divergences: Vec<f64>,
    /// Predictions whose likeliest token is that of the original.
    pub(crate) agreed: usize,
}

impl Pairs {
    pub(crate) fn append(&mut self, mut other: Self) {
        self.losses.append(&mut other.losses);
        self.original_losses.append(&mut other.original_losses);
        self.divergences.append(&mut other.divergences);
        self.agreed += other.agreed;
    }
}

/// The distance of a model's predictions from the original's on the same tokens. Standard errors take tokens as
/// independent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Mean over tokens of the Kullback–Leibler divergence from the original's distribution of the next token to
    /// the model's, over the whole vocabulary, in nats.
    pub mean: f64,
    /// Standard error of `mean`.
    pub stderr: f64,
    /// Half of the tokens are not above.
    pub median: f64,
    /// 90 % of the tokens are not above.
    pub p90: f64,
    /// 95 % of the tokens are not above.
    pub p95: f64,
    /// 99 % of the tokens are not above.
    pub p99: f64,
    /// 99.9 % of the tokens are not above.
    pub p999: f64,
    /// The worst token.
    pub max: f64,
    /// Fraction of tokens where both find the same next token likeliest.
    pub top1_agreement: f64,
    /// Standard error of `top1_agreement`, √(p (1 − p) / (n − 1)).
    pub top1_stderr: f64,
    /// Mean over tokens of the model's probability of the token that comes less the original's.
    pub delta_p_mean: f64,
    /// Standard error of `delta_p_mean`.
    pub delta_p_stderr: f64,
    /// Root of the mean square of the same difference.
    pub delta_p_rms: f64,
    /// Mean over tokens of the model's negative log-likelihood less the original's: ln of `ppl_ratio`.
    pub nll_increase: f64,
    /// Standard error of `nll_increase`, from the differences of single tokens.
    pub nll_increase_stderr: f64,
    /// Perplexity over the original's, every token counting the same.
    pub ppl_ratio: f64,
    /// Standard error of `ppl_ratio`, to first order.
    pub ppl_ratio_stderr: f64,
}

impl Divergence {
    /// Of at least one prediction.
    pub(crate) fn new(pairs: &Pairs) -> Self {
        let mut sorted = pairs.divergences.clone();
        let (mean_divergence, stderr) = mean(&sorted);
        sorted.sort_unstable_by(f64::total_cmp);
        // Nearest rank: the smallest value that at least this fraction of the tokens does not exceed.
        let rank = |permille: usize| sorted[(sorted.len() * permille).div_ceil(1000).max(1) - 1];
        let count = sorted.len() as f64;
        let agreement = pairs.agreed as f64 / count;
        let both = || pairs.losses.iter().zip(&pairs.original_losses);
        let (nll_increase, nll_increase_stderr) = mean(&both().map(|(q, p)| q - p).collect::<Vec<_>>());
        let delta_p: Vec<f64> = both().map(|(q, p)| (-q).exp() - (-p).exp()).collect();
        let (delta_p_mean, delta_p_stderr) = mean(&delta_p);
        Self {
            mean: mean_divergence,
            stderr,
            median: rank(500),
            p90: rank(900),
            p95: rank(950),
            p99: rank(990),
            p999: rank(999),
            max: rank(1000),
            top1_agreement: agreement,
            top1_stderr: (agreement * (1.0 - agreement) / (count - 1.0).max(1.0)).sqrt(),
            delta_p_mean,
            delta_p_stderr,
            delta_p_rms: (delta_p.iter().map(|delta| delta * delta).sum::<f64>() / count).sqrt(),
            nll_increase,
            nll_increase_stderr,
            ppl_ratio: nll_increase.exp(),
            ppl_ratio_stderr: nll_increase.exp() * nll_increase_stderr,
        }
    }
}

/// By how much the plain mean over texts, which all count the same, is above the original's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Increase {
    /// Mean over texts of `nll_increase`.
    pub nll_increase: f64,
    /// Its standard error.
    pub nll_increase_stderr: f64,
    /// exp(nll_increase): the geometric mean over texts of `ppl_ratio`.
    pub ppl_ratio: f64,
    /// Its standard error, to first order.
    pub ppl_ratio_stderr: f64,
}

impl Increase {
    /// Of at least one text.
    pub(crate) fn mean_of(texts: &[Divergence]) -> Self {
        let count = texts.len() as f64;
        let nll_increase = texts.iter().map(|text| text.nll_increase).sum::<f64>() / count;
        let squares: f64 = texts.iter().map(|text| text.nll_increase_stderr.powi(2)).sum();
        let nll_increase_stderr = squares.sqrt() / count;
        let ppl_ratio = nll_increase.exp();
        Self {
            nll_increase,
            nll_increase_stderr,
            ppl_ratio,
            ppl_ratio_stderr: ppl_ratio * nll_increase_stderr,
        }
    }
}

/// How many tokens have a divergence in which range.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Histogram {
    /// Upper bounds of all ranges but the last, in nats, ascending: four to a decade.
    pub bounds: Vec<f64>,
    /// Tokens in every range, one more than there are bounds.
    pub counts: Vec<usize>,
}

impl Histogram {
    /// Of the divergences of single tokens.
    pub(crate) fn new(divergences: &[f64]) -> Self {
        let bounds: Vec<f64> = (-24..=4).map(|quarter| 10f64.powf(f64::from(quarter) / 4.0)).collect();
        let mut counts = vec![0; bounds.len() + 1];
        for divergence in divergences {
            counts[bounds.partition_point(|bound| bound <= divergence)] += 1;
        }
        Self { bounds, counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(divergences: Vec<f64>, agreed: usize) -> Pairs {
        let losses = vec![1.0; divergences.len()];
        Pairs { original_losses: losses.clone(), losses, divergences, agreed }
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let d = Divergence::new(&pairs((1..=200).rev().map(f64::from).collect(), 50));
        assert_eq!(
            (d.mean, d.median, d.p90, d.p95, d.p99, d.max),
            (100.5, 100.0, 180.0, 190.0, 198.0, 200.0)
        );
        assert_eq!((d.p999, d.top1_agreement), (200.0, 0.25));
        assert!((d.top1_stderr - (0.25f64 * 0.75 / 199.0).sqrt()).abs() < 1e-15);
        let thousands = Divergence::new(&pairs((1..=2000).map(f64::from).collect(), 2000));
        assert_eq!((thousands.p999, thousands.top1_stderr), (1998.0, 0.0));
        let one = Divergence::new(&pairs(vec![0.5], 1));
        assert_eq!((one.median, one.p999, one.max, one.stderr, one.top1_stderr), (0.5, 0.5, 0.5, 0.0, 0.0));
    }

    #[test]
    fn ratios_are_paired() {
        // Probabilities of the correct token: ½ → ¼, ¼ → ½, ½ → ½.
        let losses = |p: [f64; 3]| p.map(|p: f64| -p.ln()).to_vec();
        let d = Divergence::new(&Pairs {
            losses: losses([0.25, 0.5, 0.5]),
            original_losses: losses([0.5, 0.25, 0.5]),
            divergences: vec![0.0; 3],
            agreed: 1,
        });
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        near(d.nll_increase, 0.0);
        near(d.ppl_ratio, 1.0);
        // Differences ln 2, −ln 2, 0: variance ln²2 over n − 1.
        near(d.nll_increase_stderr, 2f64.ln() / 3f64.sqrt());
        near(d.ppl_ratio_stderr, 2f64.ln() / 3f64.sqrt());
        let twice = Increase::mean_of(&[d, Divergence { nll_increase: 2f64.ln(), ..d }]);
        near(twice.ppl_ratio, 2f64.sqrt());
        near(twice.ppl_ratio_stderr, 2f64.sqrt() * 2f64.ln() / 6f64.sqrt());
        near(d.delta_p_mean, 0.0);
        near(d.delta_p_rms, (0.125f64 / 3.0).sqrt());
        near(d.delta_p_stderr, 0.25 / 3f64.sqrt());
    }

    #[test]
    fn every_token_is_in_one_range() {
        let h = Histogram::new(&[0.0, 1e-7, 1e-6, 0.1, 0.5, 9.0, 10.0, 1e9]);
        assert_eq!((h.bounds.len(), h.counts.len(), h.counts.iter().sum::<usize>()), (29, 30, 8));
        assert_eq!((h.counts[0], h.counts[29], h.bounds[0], h.bounds[28]), (2, 2, 1e-6, 10.0));
        let at = h.bounds.iter().position(|&bound| bound == 0.1).unwrap();
        assert_eq!((h.counts[at], h.counts[at + 1]), (0, 1));
    }
}
