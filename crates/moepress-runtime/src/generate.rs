//! Continuing texts.

use crate::sampling::{Sampler, Sampling};
use crate::session::step_together;
use crate::{Model, Precision, RuntimeError, Session};
use std::ops::ControlFlow;

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

/// What texts are continued with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Tokens to add at most.
    pub most: usize,
    /// How the next token is chosen; text number i draws from the seed plus i.
    pub sampling: Sampling,
    /// How exact products are.
    pub precision: Precision,
}

/// A text in the making.
struct Text<'a> {
    session: Session<'a>,
    sampler: Sampler,
    logits: Vec<f32>,
    ids: Vec<u32>,
    stop: Option<Stop>,
}

/// Continues every prompt; all of them advance a token at a time, in one pass of the model. Each token goes to
/// `on_token` with the index of its text as soon as it is chosen; a break ends that text.
///
/// # Errors
/// The sampling is impossible, a prompt is empty, holds a token outside the vocabulary or is longer than the context,
/// or the model computes logits that are not finite.
pub fn generate(
    model: &Model,
    prompts: &[&[u32]],
    request: Request,
    on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Generated>, RuntimeError> {
    request.sampling.check()?;
    let start = |(index, prompt): (usize, &&[u32])| {
        let mut session = Session::new(model, request.precision);
        let logits = session.prefill(prompt)?;
        let sampler = request.sampling.sampler(index as u64);
        let stop = (request.most == 0).then_some(Stop::Length);
        Ok(Text { session, sampler, logits, ids: Vec::new(), stop })
    };
    let mut texts = prompts.iter().enumerate().map(start).collect::<Result<Vec<_>, RuntimeError>>()?;
    loop {
        for (index, text) in texts.iter_mut().enumerate().filter(|(_, text)| text.stop.is_none()) {
            let id = text.sampler.choose(&text.logits);
            text.stop = if model.spec().end_tokens.contains(&id) {
                Some(Stop::EndToken)
            } else {
                text.ids.push(id);
                if on_token(index, id).is_break() {
                    Some(Stop::Caller)
                } else if text.ids.len() == request.most {
                    Some(Stop::Length)
                } else if text.session.seen() == model.spec().context {
                    Some(Stop::Context)
                } else {
                    None
                }
            };
        }
        let mut going: Vec<&mut Text<'_>> = texts.iter_mut().filter(|text| text.stop.is_none()).collect();
        if going.is_empty() {
            break;
        }
        let ids: Vec<u32> = going.iter().filter_map(|text| text.ids.last().copied()).collect();
        let mut sessions: Vec<_> = going.iter_mut().map(|text| &mut text.session).collect();
        let logits = step_together(&mut sessions, &ids)?;
        going.into_iter().zip(logits).for_each(|(text, logits)| text.logits = logits);
    }
    let end = |text: Text<'_>| Generated { ids: text.ids, stop: text.stop.unwrap_or(Stop::Length) };
    Ok(texts.into_iter().map(end).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::Toy;

    fn run(model: &Model, temperature: f64, seed: u64, most: usize) -> Generated {
        let mut seen = Vec::new();
        let on_token = &mut |index, id| {
            assert_eq!(index, 0);
            seen.push(id);
            ControlFlow::Continue(())
        };
        let generated = generate(model, &[&[1, 2, 3]], request(temperature, seed, most), on_token).unwrap();
        assert_eq!(seen, generated[0].ids);
        generated[0].clone()
    }

    fn request(temperature: f64, seed: u64, most: usize) -> Request {
        let sampling = Sampling { temperature, seed, ..Sampling::default() };
        Request { most, sampling, precision: Precision::Exact }
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

        let stop = &mut |_, _| ControlFlow::Break(());
        let stopped = generate(&model, &[&[1, 2, 3]], request(0.0, 0, 9), stop).unwrap();
        assert_eq!(stopped, [Generated { ids: whole.ids[..1].to_vec(), stop: Stop::Caller }]);
    }

    #[test]
    fn texts_advance_together_as_they_do_alone() {
        let model = endless();
        let prompts: [&[u32]; 3] = [&[1, 2, 3], &[9], &[4, 4, 4, 4, 4, 4, 4, 4]];
        let go = &mut |_, _| ControlFlow::Continue(());
        let together = generate(&model, &prompts, request(0.0, 0, 20), go).unwrap();
        assert_eq!(
            together.iter().map(|text| text.stop).collect::<Vec<_>>(),
            [Stop::Length, Stop::Length, Stop::Context]
        );
        for (prompt, text) in prompts.iter().zip(&together) {
            assert_eq!(&generate(&model, &[prompt], request(0.0, 0, 20), go).unwrap()[0], text);
        }
        assert_eq!(generate(&model, &[], request(0.0, 0, 1), go).unwrap(), []);
        // One of them is stopped, the others go on.
        let some =
            &mut |index, _| if index == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let some = generate(&model, &prompts[..2], request(0.0, 0, 5), some).unwrap();
        assert_eq!((some[0].ids.len(), some[1].ids.len(), some[1].stop), (5, 1, Stop::Caller));
    }

    #[test]
    fn impossible_requests_are_refused() {
        let model = endless();
        for temperature in [-1.0, f64::NAN, f64::INFINITY] {
            let go = &mut |_, _| ControlFlow::Continue(());
            let result = generate(&model, &[&[1]], request(temperature, 0, 1), go);
            assert!(matches!(result, Err(RuntimeError::Sampling(_))));
        }
    }
}
