//! The numbers of single tokens.

use crate::EvalError;
use crate::base::{Records, record};
use crate::distance::Pairs;
use crate::subject::Running;
use moepress_calibrate::windows_per_chunk;
use moepress_nn::{Tensor, select_rows, to_rows};
use moepress_runtime::{LogProbabilities, RuntimeError};
use std::time::Instant;

/// Logits of one model that a thread holds at a time, in elements: 16 MiB.
const LOGITS: usize = 4 << 20;

/// Memory that a thread needs to score windows of `window` tokens, in bytes: logits of both models, and some for what
/// lies between a product and its rows.
pub fn scoring_memory(vocab: usize, window: usize) -> u64 {
    let tokens = windows_per_chunk(window) * window;
    10 * tokens.saturating_mul(vocab).min(LOGITS.max(vocab)) as u64
}

/// Windows of one length that run as one batch.
pub(crate) struct Chunk {
    /// Its place among all chunks.
    pub(crate) index: usize,
    /// The place of its first scored token among all.
    pub(crate) record: usize,
    /// Index of their text.
    pub(crate) text: usize,
    pub(crate) ids: Vec<u32>,
    pub(crate) window: usize,
    /// The first token that is scored of every window.
    pub(crate) first: Vec<usize>,
}

impl Chunk {
    /// The rows whose prediction is scored, ascending.
    pub(crate) fn scored(&self) -> Vec<u32> {
        let window = |(index, &first): (usize, &usize)| {
            let start = index * self.window;
            (start + first - 1..start + self.window - 1).map(|row| row as u32)
        };
        self.first.iter().enumerate().flat_map(window).collect()
    }
}

/// What the predictions of a chunk came to, in order; without an original only their losses.
#[derive(Default)]
pub(crate) struct Scores {
    pub(crate) pairs: Pairs,
    /// Seconds that threads spent in the model, and in the original.
    pub(crate) seconds: [f64; 2],
    /// What is kept of the model's distributions, where that is wanted.
    pub(crate) records: Vec<u8>,
}

/// What a model is compared with on a chunk.
pub(crate) enum Original<'a> {
    None,
    Running(&'a Running<'a>),
    Kept(&'a Records),
}

impl Scores {
    pub(crate) fn append(&mut self, other: Self) {
        self.pairs.append(other.pairs);
        self.seconds = [0, 1].map(|index| self.seconds[index] + other.seconds[index]);
    }

    pub(crate) fn is_finite(&self) -> bool {
        let Pairs { losses, original_losses, divergences, .. } = &self.pairs;
        losses.iter().chain(original_losses).chain(divergences).all(|value| value.is_finite())
    }
}

/// Runs a chunk through the model, and through the original if it is compared with it; with `keep`, that many of the
/// likeliest tokens of every distribution are recorded.
pub(crate) fn score(
    model: &Running<'_>,
    original: Original<'_>,
    chunk: &Chunk,
    keep: Option<usize>,
) -> Result<Scores, EvalError> {
    let mut scores = Scores::default();
    let hidden = timed(&mut scores.seconds[0], || model.hidden(chunk))?;
    let of_original = match original {
        Original::Running(original) => Some(timed(&mut scores.seconds[1], || original.hidden(chunk))?),
        Original::None | Original::Kept(_) => None,
    };
    let vocab = model.vocab();
    for (part, rows) in chunk.scored().chunks((LOGITS / vocab).max(1)).enumerate() {
        let start = part * (LOGITS / vocab).max(1);
        let logits = timed(&mut scores.seconds[0], || logits(model, &hidden, rows))?;
        let expected = match (&original, &of_original) {
            (Original::Running(original), Some(hidden)) => {
                Some(timed(&mut scores.seconds[1], || self::logits(original, hidden, rows))?)
            }
            _ => None,
        };
        for (at, &row) in rows.iter().enumerate() {
            let slice = at * vocab..(at + 1) * vocab;
            let target = chunk.ids[row as usize + 1] as usize;
            let q = LogProbabilities::new(&logits[slice.clone()]);
            scores.pairs.losses.push(-q.of(target));
            if let Some(keep) = keep {
                record(&q, target, keep, &mut scores.records);
            }
            if let Some(expected) = &expected {
                let p = LogProbabilities::new(&expected[slice]);
                scores.pairs.original_losses.push(-p.of(target));
                scores.pairs.divergences.push(divergence(&p, &q));
                scores.pairs.agreed += usize::from(p.likeliest() == q.likeliest());
            } else if let Original::Kept(records) = original {
                let p = records.get(start + at);
                scores.pairs.original_losses.push(-p.target());
                scores.pairs.divergences.push(p.divergence(&q));
                scores.pairs.agreed += usize::from(p.likeliest() == q.likeliest() as usize);
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

/// Logits of some rows of hidden states, row-major.
fn logits(model: &Running<'_>, hidden: &Tensor<2>, rows: &[u32]) -> Result<Vec<f32>, EvalError> {
    let logits = to_rows(model.logits(select_rows(hidden, rows)));
    match logits.len() == rows.len() * model.vocab() {
        true => Ok(logits),
        false => Err(RuntimeError::Device("the device failed".into()).into()),
    }
}

/// Σ p (ln p − ln q); rounding cannot make it negative.
fn divergence(p: &LogProbabilities<'_>, q: &LogProbabilities<'_>) -> f64 {
    let sum: f64 = (0..p.logits().len()).map(|id| p.of(id).exp() * (p.of(id) - q.of(id))).sum();
    // Not `max`, which would turn NaN into 0.
    if sum < 0.0 { 0.0 } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_predict_scored_tokens() {
        let chunk = Chunk { index: 0, record: 0, text: 0, ids: vec![0; 10], window: 5, first: vec![1, 3] };
        assert_eq!(chunk.scored(), [0, 1, 2, 3, 7, 8]);
    }

    #[test]
    fn divergence_is_that_of_the_distributions() {
        let logits = |p: [f64; 3], shift: f64| p.map(|p| (p.ln() + shift) as f32);
        let (p, q): ([f64; 3], [f64; 3]) = ([0.5, 0.25, 0.25], [0.2, 0.3, 0.5]);
        let expected: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        let (p, q) = (logits(p, 3.0), logits(q, -2.0));
        let (p, q) = (LogProbabilities::new(&p), LogProbabilities::new(&q));
        assert!((divergence(&p, &q) - expected).abs() < 1e-6);
        assert_eq!((divergence(&p, &p), p.likeliest(), q.likeliest()), (0.0, 0, 2));
        assert!((q.of(1) - 0.3f64.ln()).abs() < 1e-6);
        let damaged = [f32::NAN; 3];
        assert!(divergence(&p, &LogProbabilities::new(&damaged)).is_nan());
    }
}
