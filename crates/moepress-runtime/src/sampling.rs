//! How the next token is chosen.

use crate::RuntimeError;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A rule for choosing tokens. Applied in this order, each to what the one before has left: temperature, `top_k`,
/// `top_p`, `min_p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits before softmax; 0 takes the likeliest token, the lower id of equals.
    pub temperature: f64,
    /// Keeps that many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the likeliest tokens whose probabilities add up to this, and the one that reaches it; 1 keeps all.
    pub top_p: f64,
    /// Keeps tokens at least this likely relative to the likeliest; 0 keeps all.
    pub min_p: f64,
    /// Of the random numbers; equal seeds give equal texts.
    pub seed: u64,
}

impl Default for Sampling {
    /// The likeliest token every time.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl Sampling {
    pub(crate) fn check(&self) -> Result<(), RuntimeError> {
        let fail = |what: String| Err(RuntimeError::Sampling(what));
        match *self {
            Self { temperature, .. } if !(temperature.is_finite() && temperature >= 0.0) => fail(format!(
                "temperature {temperature} must be 0 (always the likeliest token) or a number above"
            )),
            Self { top_p, .. } if !(top_p > 0.0 && top_p <= 1.0) => {
                fail(format!("top_p {top_p} must be above 0 and at most 1"))
            }
            Self { min_p, .. } if !(0.0..=1.0).contains(&min_p) => {
                fail(format!("min_p {min_p} must be from 0 to 1"))
            }
            _ => Ok(()),
        }
    }

    /// A sampler that draws from the seed plus `stream`.
    pub fn sampler(self, stream: u64) -> Sampler {
        Sampler { sampling: self, random: ChaCha8Rng::seed_from_u64(self.seed.wrapping_add(stream)) }
    }
}

/// A rule with its random numbers.
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
}

impl Sampler {
    /// The next token.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        match self.sampling.temperature {
            0.0 => likeliest(logits),
            _ => sample(logits, &self.sampling, self.random.random()),
        }
    }
}

/// Index of the largest logit, the first of equals.
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// The token where the cumulative probability of what is kept first exceeds `draw`, in 0..1.
fn sample(logits: &[f32], sampling: &Sampling, draw: f64) -> u32 {
    let best = likeliest(logits);
    let largest = f64::from(logits[best as usize]);
    let weight = |id: usize| ((f64::from(logits[id]) - largest) / sampling.temperature).exp();
    let mut kept: Vec<(usize, f64)> = (0..logits.len()).map(|id| (id, weight(id))).collect();
    if sampling.top_k > 0 || sampling.top_p < 1.0 {
        // Likeliest first, ties to the lower id.
        let order =
            |a: &(usize, f64), b: &(usize, f64)| logits[b.0].total_cmp(&logits[a.0]).then(a.0.cmp(&b.0));
        if sampling.top_k > 0 && sampling.top_k < kept.len() {
            kept.select_nth_unstable_by(sampling.top_k - 1, order);
            kept.truncate(sampling.top_k);
        }
        kept.sort_unstable_by(order);
    }
    if sampling.top_p < 1.0 {
        let mut left = sampling.top_p * kept.iter().map(|(_, weight)| weight).sum::<f64>();
        let enough = kept.iter().position(|(_, weight)| {
            left -= weight;
            left <= 0.0
        });
        kept.truncate(enough.map_or(kept.len(), |at| at + 1));
    }
    // The likeliest weighs 1.
    kept.retain(|(_, weight)| *weight >= sampling.min_p);
    let mut left = draw * kept.iter().map(|(_, weight)| weight).sum::<f64>();
    for (id, weight) in kept {
        left -= weight;
        if left < 0.0 {
            return id as u32;
        }
    }
    // Rounding used up the whole sum.
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 8000 even draws go to each token.
    fn counts(logits: &[f32], sampling: Sampling) -> Vec<usize> {
        let mut counts = vec![0; logits.len()];
        for i in 0..8000 {
            counts[sample(logits, &sampling, (f64::from(i) + 0.5) / 8000.0) as usize] += 1;
        }
        counts
    }

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        let logits = [0.0, 2f32.ln(), f32::MIN, 5f32.ln()];
        let all = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(counts(&logits, all), [1000, 2000, 0, 5000]);
        assert_eq!(counts(&logits, Sampling { top_k: 2, ..all })[0], 0);
        assert_eq!(counts(&logits, Sampling { top_k: 1, ..all }), [0, 0, 0, 8000]);
        assert_eq!(counts(&logits, Sampling { top_k: 9, ..all })[0], 1000);
        // 5/8 is not enough, 7/8 is.
        let two = counts(&logits, Sampling { top_p: 0.63, ..all });
        assert!(two[0] == 0 && two[1].abs_diff(2286) <= 1, "{two:?}");
        assert_eq!(counts(&logits, Sampling { top_p: 0.6, ..all }), [0, 0, 0, 8000]);
        // Two fifths of the likeliest stay, one fifth goes.
        assert_eq!(counts(&logits, Sampling { min_p: 0.39, ..all })[0], 0);
        assert_eq!(counts(&logits, Sampling { min_p: 0.41, ..all }), [0, 0, 0, 8000]);
        assert_eq!(counts(&logits, Sampling { min_p: 1.0, ..all }), [0, 0, 0, 8000]);
        assert_eq!(likeliest(&[1.0, 3.0, 3.0]), 1);
    }

    #[test]
    fn impossible_rules_are_refused() {
        let good = Sampling::default();
        assert!(good.check().is_ok());
        for top_p in [0.0, 1.1, f64::NAN] {
            assert!(matches!(Sampling { top_p, ..good }.check(), Err(RuntimeError::Sampling(_))));
        }
        for min_p in [-0.1, 1.5, f64::NAN] {
            assert!(matches!(Sampling { min_p, ..good }.check(), Err(RuntimeError::Sampling(_))));
        }
    }
}
