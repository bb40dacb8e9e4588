//! Log-probabilities of the tokens of a prompt, as exactly as the runtime computes.

use crate::engine::TokenScore;
use moepress_runtime::{Model, Precision, RuntimeError};

/// Logits that are held at a time, in elements: 16 MiB.
const LOGITS: usize = 4 << 20;

/// What a prompt comes to.
pub(crate) struct Scored {
    /// Every token with its log-probability after those before it; the first has none.
    pub(crate) tokens: Vec<TokenScore>,
    /// Logits `[vocab]` after the last.
    pub(crate) last: Vec<f32>,
}

/// Scores prompts of one length, each with that many alternatives.
pub(crate) fn score(model: &Model, prompts: &[&[u32]], top: usize) -> Result<Vec<Scored>, RuntimeError> {
    let (length, width, vocab) =
        (prompts.first().map_or(0, |prompt| prompt.len()), model.spec().hidden, model.spec().vocab);
    let hidden = model.hidden(&prompts.concat(), prompts.len())?;
    let mut scored = Vec::with_capacity(prompts.len());
    for (prompt, hidden) in prompts.iter().zip(hidden.chunks(length * width)) {
        let mut tokens = vec![TokenScore { id: prompt[0], logprob: None, top: vec![] }];
        let mut last = vec![];
        let rows = (LOGITS / vocab).max(1);
        for (chunk, hidden) in hidden.chunks(rows * width).enumerate() {
            let logits = model.logits(hidden, Precision::Exact)?;
            for (row, logits) in logits.chunks_exact(vocab).enumerate() {
                if logits.iter().any(|logit| !logit.is_finite()) {
                    return Err(RuntimeError::NotFinite);
                }
                match prompt.get(chunk * rows + row + 1) {
                    Some(&id) => tokens.push(TokenScore::new(id, logits, Some(top))),
                    None => last = logits.to_vec(),
                }
            }
        }
        scored.push(Scored { tokens, last });
    }
    Ok(scored)
}
