//! The numbers of single tokens.

use moepress_runtime::{Model, Precision, RuntimeError, likeliest};
use rayon::prelude::*;
use std::time::Instant;

/// Logits of one model that are held at a time, in elements: 16 MiB.
const LOGITS: usize = 4 << 20;

/// Windows of one length that run as one batch.
pub(crate) struct Chunk {
    /// Index of their text.
    pub(crate) text: usize,
    pub(crate) ids: Vec<u32>,
    pub(crate) window: usize,
}

/// What the predictions of a chunk came to, in order.
#[derive(Default)]
pub(crate) struct Scores {
    /// Negative log-likelihoods.
    pub(crate) losses: Vec<f64>,
    /// The same of the original, when there is one.
    pub(crate) original_losses: Vec<f64>,
    /// Divergences from the original, when there is one.
    pub(crate) divergences: Vec<f64>,
    /// Predictions whose likeliest token is that of the original.
    pub(crate) agreed: usize,
    /// Seconds spent in the model, and in the original.
    pub(crate) seconds: [f64; 2],
}

impl Scores {
    pub(crate) fn append(&mut self, mut other: Self) {
        self.losses.append(&mut other.losses);
        self.original_losses.append(&mut other.original_losses);
        self.divergences.append(&mut other.divergences);
        self.agreed += other.agreed;
        self.seconds = [0, 1].map(|index| self.seconds[index] + other.seconds[index]);
    }

    pub(crate) fn is_finite(&self) -> bool {
        self.losses
            .iter()
            .chain(&self.original_losses)
            .chain(&self.divergences)
            .all(|value| value.is_finite())
    }
}

/// Runs a chunk through the model, and through the original if it is compared with it.
pub(crate) fn score(model: &Model, against: Option<&Model>, chunk: &Chunk) -> Result<Scores, RuntimeError> {
    let batch = chunk.ids.len() / chunk.window;
    let mut scores = Scores::default();
    let hidden = timed(&mut scores.seconds[0], || model.hidden(&chunk.ids, batch))?;
    let original = match against {
        Some(original) => {
            let hidden = timed(&mut scores.seconds[1], || original.hidden(&chunk.ids, batch))?;
            Some((original, hidden))
        }
        None => None,
    };
    let vocab = model.spec().vocab;
    for start in (0..chunk.ids.len()).step_by((LOGITS / vocab).max(1)) {
        let end = chunk.ids.len().min(start + (LOGITS / vocab).max(1));
        let logits = timed(&mut scores.seconds[0], || logits(model, &hidden, start, end))?;
        let seconds = &mut scores.seconds[1];
        let expected = original
            .as_ref()
            .map(|(original, hidden)| timed(seconds, || self::logits(original, hidden, start, end)))
            .transpose()?;
        let predictions = (start..end).into_par_iter().filter(|row| !(row + 1).is_multiple_of(chunk.window));
        let predict = |row: usize| {
            let at = (row - start) * vocab..(row - start + 1) * vocab;
            let target = chunk.ids[row + 1] as usize;
            let q = LogProbabilities::new(&logits[at.clone()]);
            let beside = expected.as_ref().map(|expected| {
                let p = LogProbabilities::new(&expected[at]);
                (-p.of(target), divergence(&p, &q), p.likeliest == q.likeliest)
            });
            (-q.of(target), beside)
        };
        for (loss, beside) in predictions.map(predict).collect::<Vec<_>>() {
            scores.losses.push(loss);
            if let Some((loss, divergence, agreed)) = beside {
                scores.original_losses.push(loss);
                scores.divergences.push(divergence);
                scores.agreed += usize::from(agreed);
            }
        }
    }
    Ok(scores)
}

/// What `work` returns, its wall time added to `seconds`.
fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let value = work();
    *seconds += started.elapsed().as_secs_f64();
    value
}

/// Logits of the rows `start..end` of hidden states, row-major.
fn logits(model: &Model, hidden: &[f32], start: usize, end: usize) -> Result<Vec<f32>, RuntimeError> {
    let width = model.spec().hidden;
    model.logits(&hidden[start * width..end * width], Precision::Exact)
}

/// log softmax of one row of logits, in f64.
struct LogProbabilities<'a> {
    logits: &'a [f32],
    /// ln Σ exp(logit).
    normaliser: f64,
    likeliest: usize,
}

impl<'a> LogProbabilities<'a> {
    fn new(logits: &'a [f32]) -> Self {
        let likeliest = likeliest(logits) as usize;
        let largest = f64::from(logits[likeliest]);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
        Self { logits, normaliser: largest + sum.ln(), likeliest }
    }

    fn of(&self, id: usize) -> f64 {
        f64::from(self.logits[id]) - self.normaliser
    }
}

/// Σ p (ln p − ln q); rounding cannot make it negative.
fn divergence(p: &LogProbabilities<'_>, q: &LogProbabilities<'_>) -> f64 {
    let sum: f64 = (0..p.logits.len()).map(|id| p.of(id).exp() * (p.of(id) - q.of(id))).sum();
    // Not `max`, which would turn NaN into 0.
    if sum < 0.0 { 0.0 } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_distributions() {
        let logits = |p: [f64; 3], shift: f64| p.map(|p| (p.ln() + shift) as f32);
        let (p, q): ([f64; 3], [f64; 3]) = ([0.5, 0.25, 0.25], [0.2, 0.3, 0.5]);
        let expected: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        let (p, q) = (logits(p, 3.0), logits(q, -2.0));
        let (p, q) = (LogProbabilities::new(&p), LogProbabilities::new(&q));
        assert!((divergence(&p, &q) - expected).abs() < 1e-6);
        assert_eq!((divergence(&p, &p), p.likeliest, q.likeliest), (0.0, 0, 2));
        assert!((q.of(1) - 0.3f64.ln()).abs() < 1e-6);
        let damaged = [f32::NAN; 3];
        assert!(divergence(&p, &LogProbabilities::new(&damaged)).is_nan());
    }
}
