//! What rules of routing cost in quality, and gain in speed.

use crate::{BenchError, median};
use moepress_runtime::rules::Rule;
use moepress_runtime::{Model, Precision, Session, step_together};
use serde::Serialize;
use std::time::Instant;

/// Rules under the name that they are shown by.
pub type Named = (String, Vec<Box<dyn Rule>>);

/// What routing by some rules came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ruled {
    /// The rules.
    pub rule: String,
    /// Tokens per second, all sequences together: the median over steps.
    pub tokens_per_second: f64,
    /// Experts that are read per step and layer with experts.
    pub experts_per_step: f64,
    /// Mean negative log-likelihood of the tokens, in nats.
    pub nll: f64,
    /// Of that, more than with the first of the rules.
    pub nll_increase: f64,
    /// Where experts are within a budget of memory, their bytes read per step.
    pub bytes_per_step: Option<f64>,
    /// And the share of their uses that made do with high bits.
    pub by_high_bits: Option<f64>,
}

/// Has sequences of equal length advance together a token at a time, under each of the rules, and scores every next token.
///
/// # Errors
/// The sequences are longer than the context, or the model cannot be run.
pub fn rules(
    model: &mut Model,
    sequences: &[Vec<u32>],
    all: Vec<Named>,
    precision: Precision,
) -> Result<Vec<Ruled>, BenchError> {
    let length = sequences.iter().map(Vec::len).min().unwrap_or(0);
    let context = model.spec().context;
    if length > context {
        return Err(BenchError::Context { asked: length, context });
    }
    let mut results: Vec<Ruled> = Vec::with_capacity(all.len());
    for (rule, rules) in all {
        model.route_by(rules);
        model.record();
        let before = model.cache_report().unwrap_or_default();
        let (mut seconds, mut loss) = (Vec::with_capacity(length), 0.0);
        let mut sessions: Vec<Session<'_>> =
            sequences.iter().map(|_| Session::new(model, precision)).collect();
        for at in 0..length.saturating_sub(1) {
            let now: Vec<u32> = sequences.iter().map(|ids| ids[at]).collect();
            let started = Instant::now();
            let logits = step_together(&mut sessions.iter_mut().collect::<Vec<_>>(), &now)?;
            seconds.push(started.elapsed().as_secs_f64());
            let next = sequences.iter().map(|ids| ids[at + 1]);
            loss += logits.iter().zip(next).map(|(logits, next)| nll(logits, next)).sum::<f64>();
        }
        drop(sessions);
        let steps = seconds.len().max(1) as f64;
        let layers = model.spec().moe_layers().count().max(1) as f64;
        let uses = model.recorded().map_or(0, |trace| trace.uses());
        let nll = loss / (steps * sequences.len().max(1) as f64);
        let first = results.first().map_or(nll, |first| first.nll);
        let since = model.cache_report().map(|after| {
            let [bytes, low, uses] = [
                after.bytes_read - before.bytes_read,
                after.low_plane - before.low_plane,
                after.uses - before.uses,
            ];
            (bytes as f64 / steps, low as f64 / uses.max(1) as f64)
        });
        results.push(Ruled {
            rule,
            bytes_per_step: since.map(|(bytes, _)| bytes),
            by_high_bits: since.map(|(_, share)| share),
            tokens_per_second: sequences.len() as f64 / median(seconds).max(1e-9),
            experts_per_step: uses as f64 / steps / layers,
            nll,
            nll_increase: nll - first,
        });
    }
    model.route_by(vec![]);
    Ok(results)
}

/// −log softmax of one logit, in f64.
fn nll(logits: &[f32], id: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    sum.ln() - f64::from(logits[id as usize] - most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_by_hand() {
        assert!((nll(&[0.0, 3f32.ln()], 0) - 4f64.ln()).abs() < 1e-7);
        assert!((nll(&[1000.0, 1000.0], 1) - 2f64.ln()).abs() < 1e-12);
    }
}
