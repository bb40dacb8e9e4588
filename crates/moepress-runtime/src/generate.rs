//! Continuing a text.

use crate::{Model, RuntimeError, Session};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::ControlFlow;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits before softmax; 0 takes the likeliest token, the lower id of equals.
    pub temperature: f64,
    /// Of the random numbers; equal seeds give equal texts.
    pub seed: u64,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model chose an end token, which is not part of the text.
    EndToken,
    /// As many tokens as asked for.
    Length,
    /// The context is full.
    Context,
    /// The caller wanted no more.
    Caller,
}

/// A continuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Its tokens, without the prompt.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub stop: Stop,
}

/// Continues `prompt` by at most `most` tokens; each goes to `on_token` as soon as it is chosen.
///
/// # Errors
/// The temperature is negative or not finite, the prompt is empty, holds a token outside the vocabulary or
/// is longer than the context, or the model computes logits that are not finite.
pub fn generate(
    model: &Model,
    prompt: &[u32],
    most: usize,
    sampling: Sampling,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated, RuntimeError> {
    let Sampling { temperature, seed } = sampling;
    if !(temperature.is_finite() && temperature >= 0.0) {
        return Err(RuntimeError::Temperature(temperature));
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut session = Session::new(model);
    let mut logits = session.prefill(prompt)?;
    let mut ids = Vec::new();
    let stop = loop {
        if ids.len() == most {
            break Stop::Length;
        }
        let id = match temperature {
            0.0 => likeliest(&logits),
            _ => sample(&logits, temperature, random.random()),
        };
        if model.spec().end_tokens.contains(&id) {
            break Stop::EndToken;
        }
        ids.push(id);
        if on_token(id).is_break() {
            break Stop::Caller;
        }
        if session.seen() == model.spec().context {
            break Stop::Context;
        }
        if ids.len() < most {
            logits = session.step(id)?;
        }
    };
    Ok(Generated { ids, stop })
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

/// The token where the cumulative softmax of logits / temperature first exceeds `draw`, in 0..1.
fn sample(logits: &[f32], temperature: f64, draw: f64) -> u32 {
    let largest = f64::from(logits[likeliest(logits) as usize]);
    let weights: Vec<f64> = logits.iter().map(|&l| ((f64::from(l) - largest) / temperature).exp()).collect();
    let mut left = draw * weights.iter().sum::<f64>();
    for (id, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return id as u32;
        }
    }
    // Rounding used up the whole sum.
    likeliest(logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::Toy;

    fn run(model: &Model, temperature: f64, seed: u64, most: usize) -> Generated {
        let mut seen = Vec::new();
        let on_token = &mut |id| {
            seen.push(id);
            ControlFlow::Continue(())
        };
        let generated = generate(model, &[1, 2, 3], most, Sampling { temperature, seed }, on_token).unwrap();
        assert_eq!(seen, generated.ids);
        generated
    }

    fn endless() -> Model {
        let mut toy = Toy::new();
        toy.spec.end_tokens.clear();
        Model::load(&toy).unwrap()
    }

    #[test]
    fn a_seed_sets_the_text() {
        let model = endless();
        assert_eq!(run(&model, 1.0, 5, 12), run(&model, 1.0, 5, 12));
        assert_ne!(run(&model, 1.0, 5, 12), run(&model, 1.0, 6, 12));
        assert_eq!(run(&model, 0.0, 5, 12), run(&model, 0.0, 6, 12));
        assert_eq!(run(&model, 1e-6, 5, 12), run(&model, 0.0, 6, 12));
    }

    #[test]
    fn texts_end() {
        let model = endless();
        let whole = run(&model, 0.0, 0, 100);
        // Three of the 24 positions are the prompt, and the last token needs none.
        assert_eq!((whole.ids.len(), whole.stop), (22, Stop::Context));
        assert_eq!(run(&model, 0.0, 0, 4), Generated { ids: whole.ids[..4].to_vec(), stop: Stop::Length });
        assert_eq!(run(&model, 0.0, 0, 0), Generated { ids: vec![], stop: Stop::Length });

        let end = whole.ids[2];
        let before = whole.ids.iter().position(|&id| id == end).unwrap();
        let mut toy = Toy::new();
        toy.spec.end_tokens = vec![end];
        let ended = run(&Model::load(&toy).unwrap(), 0.0, 0, 100);
        assert_eq!(ended, Generated { ids: whole.ids[..before].to_vec(), stop: Stop::EndToken });

        let sampling = Sampling { temperature: 0.0, seed: 0 };
        let stopped = generate(&model, &[1, 2, 3], 9, sampling, &mut |_| ControlFlow::Break(())).unwrap();
        assert_eq!(stopped, Generated { ids: whole.ids[..1].to_vec(), stop: Stop::Caller });
    }

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        let logits = [0.0, 2f32.ln(), f32::MIN, 5f32.ln()];
        let mut counts = [0; 4];
        for i in 0..8000 {
            counts[sample(&logits, 1.0, (f64::from(i) + 0.5) / 8000.0) as usize] += 1;
        }
        assert_eq!(counts, [1000, 2000, 0, 5000]);
        assert_eq!(likeliest(&[1.0, 3.0, 3.0]), 1);
    }

    #[test]
    fn impossible_requests_are_refused() {
        let model = endless();
        for temperature in [-1.0, f64::NAN, f64::INFINITY] {
            let sampling = Sampling { temperature, seed: 0 };
            let result = generate(&model, &[1], 1, sampling, &mut |_| ControlFlow::Continue(()));
            assert!(matches!(result, Err(RuntimeError::Temperature(_))));
        }
    }
}
