//! How fast a model writes.

use moepress_runtime::{Model, Precision, RuntimeError, Session, likeliest};
use std::time::Instant;

/// Tokens per second of `count` greedy steps after `prompt`, one sequence, as fast as `generate` runs it; the prompt
/// itself is not timed, and end tokens do not end it.
///
/// # Errors
/// The prompt is empty, has unknown tokens, or leaves no room for `count` tokens in the context.
pub fn decode_speed(model: &Model, prompt: &[u32], count: usize) -> Result<f64, RuntimeError> {
    let mut session = Session::new(model, Precision::Fast);
    let mut logits = session.prefill(prompt)?;
    let started = Instant::now();
    for _ in 0..count {
        logits = session.step(likeliest(&logits))?;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64().max(1e-9))
}
