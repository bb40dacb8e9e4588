//! Writing, token by token.

use crate::work::work;
use crate::{BenchError, Roofline, median, tokens};
use moepress_runtime::{Model, Precision, Session, likeliest, step_together};
use serde::Serialize;
use std::time::Instant;

/// What decoding came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decode {
    /// Sequences that advance together.
    pub sequences: usize,
    /// Tokens that every sequence begins with.
    pub prompt_tokens: usize,
    /// Tokens timed per sequence and round.
    pub tokens: usize,
    /// Tokens per second of each round, all sequences together.
    pub rounds: Vec<f64>,
    /// Their median.
    pub tokens_per_second: f64,
    /// Bytes of weights that a token reads when it runs alone.
    pub bytes_per_token: f64,
    /// Bytes of weights per second; for one sequence only, since several share what they read.
    pub gb_per_s: Option<f64>,
    /// Per cent of what memory gives.
    pub of_read: Option<f64>,
}

/// Times `count` greedy steps after a prompt of arbitrary tokens, as often as `rounds` says. End tokens end nothing.
///
/// # Errors
/// The context is too short, or the model cannot be run.
pub fn decode(
    model: &Model,
    [sequences, prompt, count]: [usize; 3],
    precision: Precision,
    rounds: usize,
    roofline: &Roofline,
) -> Result<Decode, BenchError> {
    let spec = model.spec();
    if prompt + count > spec.context {
        return Err(BenchError::Context { asked: prompt + count, context: spec.context });
    }
    let ids = tokens(prompt * sequences, spec.vocab);
    let mut speeds = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let mut sessions: Vec<Session<'_>> = (0..sequences).map(|_| Session::new(model, precision)).collect();
        let mut next = Vec::with_capacity(sequences);
        for (session, ids) in sessions.iter_mut().zip(ids.chunks(prompt)) {
            next.push(likeliest(&session.prefill(ids)?));
        }
        let started = Instant::now();
        for _ in 0..count {
            let logits = step_together(&mut sessions.iter_mut().collect::<Vec<_>>(), &next)?;
            next = logits.iter().map(|logits| likeliest(logits)).collect();
        }
        speeds.push((sequences * count) as f64 / started.elapsed().as_secs_f64().max(1e-9));
    }
    let tokens_per_second = median(speeds.clone());
    let bytes = work(spec).bytes;
    let gb_per_s = (sequences == 1).then_some(bytes * tokens_per_second / 1e9);
    Ok(Decode {
        sequences,
        prompt_tokens: prompt,
        tokens: count,
        rounds: speeds,
        tokens_per_second,
        bytes_per_token: bytes,
        gb_per_s,
        of_read: gb_per_s.map(|rate| roofline.of_read(rate)),
    })
}
