//! How tokens are spread over experts.

/// How evenly the experts of a layer are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Utilisation {
    /// Standard deviation of tokens per expert over their mean; 0 when all get the same.
    pub variation: f64,
    /// Tokens of the most used expert over the mean.
    pub peak: f64,
    /// Entropy of the shares of experts over that of equal shares; 1 when all get the same, 0 when one gets all.
    pub evenness: f64,
}

/// None when no token was routed.
pub fn utilisation(tokens: &[f64]) -> Option<Utilisation> {
    let sum: f64 = tokens.iter().sum();
    if sum <= 0.0 {
        return None;
    }
    let count = tokens.len() as f64;
    let mean = sum / count;
    let variance = tokens.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / count;
    let share = |n: &f64| if *n > 0.0 { n / sum * (n / sum).ln() } else { 0.0 };
    let entropy = -tokens.iter().map(share).sum::<f64>();
    Some(Utilisation {
        variation: variance.sqrt() / mean,
        peak: tokens.iter().copied().fold(0.0, f64::max) / mean,
        evenness: if tokens.len() > 1 { entropy / count.ln() } else { 1.0 },
    })
}

/// Two experts and the tokens that go to both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Index of one; of the layer before where layers are compared.
    pub first: usize,
    /// Index of the other.
    pub second: usize,
    /// Tokens.
    pub tokens: f64,
}

/// The `count` pairs of different experts with the most tokens, from the tokens that go to both, `[n, n]` (C2R,
/// arXiv 2504.01337); pairs without tokens are none. Of equals the lower indices.
pub fn strongest_pairs(coactivation: &[f64], experts: usize, count: usize) -> Vec<Pair> {
    let pairs = (0..experts).flat_map(|first| (first + 1..experts).map(move |second| (first, second)));
    strongest(
        pairs.map(|(first, second)| Pair { first, second, tokens: coactivation[first * experts + second] }),
        count,
    )
}

/// The share of what an expert does with others that it does with the one it meets most, over all experts; None
/// when none meets another.
pub fn collaboration(coactivation: &[f64], experts: usize) -> Option<f64> {
    let row = |expert: usize| {
        let others = (0..experts).filter(|&other| other != expert);
        let tokens = others.map(|other| coactivation[expert * experts + other]);
        tokens.fold((0.0f64, 0.0), |(most, sum), n| (most.max(n), sum + n))
    };
    share((0..experts).map(row))
}

/// The `count` pairs of an expert and one of the next layer with the most tokens, from the tokens that pass both,
/// `[before, experts]` (ExFlow, arXiv 2401.08383). Of equals the lower indices.
pub fn strongest_successions(affinity: &[f64], experts: usize, count: usize) -> Vec<Pair> {
    let pair =
        |(index, &tokens): (usize, &f64)| Pair { first: index / experts, second: index % experts, tokens };
    strongest(affinity.iter().enumerate().map(pair), count)
}

/// How often a token goes on to the expert that most tokens of its expert go on to: the mean over tokens and experts
/// of the layer before of max over j of P(j | i). None when no token was routed.
pub fn succession(affinity: &[f64], experts: usize, tokens_before: &[f64]) -> Option<f64> {
    let most = |row: &[f64]| row.iter().copied().fold(0.0, f64::max);
    share(affinity.chunks_exact(experts.max(1)).map(most).zip(tokens_before.iter().copied()))
}

fn strongest(pairs: impl Iterator<Item = Pair>, count: usize) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = pairs.filter(|pair| pair.tokens > 0.0).collect();
    // Stable: equals keep the order of their indices.
    pairs.sort_by(|a, b| b.tokens.total_cmp(&a.tokens));
    pairs.truncate(count);
    pairs
}

/// Sum of the first over sum of the second.
fn share(parts: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (part, whole) = parts.fold((0.0, 0.0), |sum, (part, whole)| (sum.0 + part, sum.1 + whole));
    (whole > 0.0).then(|| part / whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_and_uneven_use() {
        let even = utilisation(&[5.0; 4]).unwrap();
        assert_eq!((even.variation, even.peak), (0.0, 1.0));
        assert!((even.evenness - 1.0).abs() < 1e-12);
        let one = utilisation(&[0.0, 8.0, 0.0, 0.0]).unwrap();
        assert_eq!((one.peak, one.evenness), (4.0, 0.0));
        assert!((one.variation - 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(utilisation(&[0.0; 4]), None);
        assert_eq!(utilisation(&[3.0]).unwrap().evenness, 1.0);
    }

    #[test]
    fn pairs_by_the_tokens_they_share() {
        // Tokens to {0, 1} three times, {1, 2} twice, {0, 2} once; nobody goes to 3.
        #[rustfmt::skip]
        let together = [
            4.0, 3.0, 1.0, 0.0,
            3.0, 5.0, 2.0, 0.0,
            1.0, 2.0, 3.0, 0.0,
            0.0, 0.0, 0.0, 0.0,
        ];
        let pair = |first, second, tokens| Pair { first, second, tokens };
        assert_eq!(strongest_pairs(&together, 4, 2), [pair(0, 1, 3.0), pair(1, 2, 2.0)]);
        assert_eq!(strongest_pairs(&together, 4, 9).len(), 3);
        assert_eq!(collaboration(&together, 4), Some((3.0 + 3.0 + 2.0) / (4.0 + 5.0 + 3.0)));
        assert_eq!(collaboration(&[7.0], 1), None);
    }

    #[test]
    fn successions_are_conditional_probabilities() {
        // Two experts before, three now: 0 is followed by 2 in 6 of 8 tokens, 1 by 0 in 3 of 4.
        let affinity = [1.0, 1.0, 6.0, 3.0, 1.0, 0.0];
        assert_eq!(succession(&affinity, 3, &[8.0, 4.0]), Some(9.0 / 12.0));
        assert_eq!(strongest_successions(&affinity, 3, 1), [Pair { first: 0, second: 2, tokens: 6.0 }]);
        assert_eq!(succession(&affinity, 3, &[0.0, 0.0]), None);
    }
}
