//! From logits to log-probabilities.

use crate::likeliest;

/// log softmax of one row of logits, in f64.
pub struct LogProbabilities<'a> {
    logits: &'a [f32],
    /// ln Σ exp(logit).
    normaliser: f64,
    likeliest: u32,
}

impl<'a> LogProbabilities<'a> {
    /// Of a row that is not empty.
    pub fn new(logits: &'a [f32]) -> Self {
        let likeliest = likeliest(logits);
        let largest = f64::from(logits[likeliest as usize]);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        Self { logits, normaliser: largest + sum.ln(), likeliest }
    }

    /// ln p of a token.
    pub fn of(&self, id: usize) -> f64 {
        f64::from(self.logits[id]) - self.normaliser
    }

    /// The likeliest token, the lower id of equals.
    pub fn likeliest(&self) -> u32 {
        self.likeliest
    }

    /// What it was made of.
    pub fn logits(&self) -> &'a [f32] {
        self.logits
    }

    /// The `count` likeliest tokens, the likeliest first, the lower id of equals before the other.
    pub fn top(&self, count: usize) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..self.logits.len() as u32).collect();
        let logit = |id: &u32| self.logits[*id as usize];
        let order = |a: &u32, b: &u32| logit(b).total_cmp(&logit(a)).then(a.cmp(b));
        let count = count.min(ids.len());
        if (1..ids.len()).contains(&count) {
            ids.select_nth_unstable_by(count - 1, order);
        }
        ids.truncate(count);
        ids.sort_unstable_by(order);
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_by_their_probability() {
        let p = [0.1f64, 0.2, 0.3, 0.2, 0.2];
        let logits = p.map(|p| (p.ln() + 4.0) as f32);
        let found = LogProbabilities::new(&logits);
        assert_eq!((found.likeliest(), found.logits().len()), (2, 5));
        assert!(p.iter().enumerate().all(|(id, p)| (found.of(id) - p.ln()).abs() < 1e-6));
        assert_eq!([found.top(3), found.top(0), found.top(9)], [vec![2, 1, 3], vec![], vec![2, 1, 3, 4, 0]]);
    }
}
