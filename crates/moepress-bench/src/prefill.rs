//! Reading a prompt.

use crate::work::work;
use crate::{BenchError, Roofline, median, tokens};
use moepress_runtime::{Model, Precision, Session};
use serde::Serialize;
use std::time::Instant;

/// What prefill came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prefill {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Tokens per second of each round.
    pub rounds: Vec<f64>,
    /// Their median.
    pub tokens_per_second: f64,
    /// Operations on weights per token, two for each.
    pub ops_per_token: f64,
    /// Billions of such operations per second.
    pub gops: f64,
    /// Per cent of the fastest arithmetic.
    pub of_arithmetic: f64,
}

/// Times a prompt of arbitrary tokens, as often as `rounds` says.
///
/// # Errors
/// The context is too short, or the model cannot be run.
pub fn prefill(
    model: &Model,
    count: usize,
    precision: Precision,
    rounds: usize,
    roofline: &Roofline,
) -> Result<Prefill, BenchError> {
    let spec = model.spec();
    if count > spec.context {
        return Err(BenchError::Context { asked: count, context: spec.context });
    }
    let ids = tokens(count, spec.vocab);
    let mut speeds = Vec::with_capacity(rounds);
    // The first round is for caches and threads.
    for round in 0..=rounds {
        let mut session = Session::new(model, precision);
        let started = Instant::now();
        session.prefill(&ids)?;
        if round > 0 {
            speeds.push(count as f64 / started.elapsed().as_secs_f64().max(1e-9));
        }
    }
    let tokens_per_second = median(speeds.clone());
    let ops_per_token = 2.0 * work(spec).products;
    let gops = ops_per_token * tokens_per_second / 1e9;
    let of_arithmetic = roofline.of_arithmetic(gops);
    Ok(Prefill { tokens: count, rounds: speeds, tokens_per_second, ops_per_token, gops, of_arithmetic })
}
