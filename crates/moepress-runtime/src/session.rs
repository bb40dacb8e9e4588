//! One sequence, token by token.

use crate::{Model, RuntimeError, check};
use moepress_nn::{KeyValues, to_rows};

/// Tokens of a prompt that run at once: enough for efficient products, few enough that attention scores
/// over a long prompt stay small.
const PREFILL: usize = 256;

/// A sequence that grows, with the keys and values of what it has seen.
pub struct Session<'a> {
    model: &'a Model,
    caches: Vec<KeyValues>,
    ids: Vec<u32>,
}

impl<'a> Session<'a> {
    /// An empty sequence.
    pub fn new(model: &'a Model) -> Self {
        Self { model, caches: empty(model), ids: vec![] }
    }

    /// Tokens seen so far.
    pub fn seen(&self) -> usize {
        self.ids.len()
    }

    /// Appends tokens; returns the logits `[vocab]` after the last. Where they make the sequence so long that its
    /// positions turn otherwise (LongRoPE), all of it runs again.
    ///
    /// # Errors
    /// No tokens, one outside the vocabulary, more than the context holds, or logits that are not finite.
    /// After an error the session is not to be continued.
    pub fn prefill(&mut self, ids: &[u32]) -> Result<Vec<f32>, RuntimeError> {
        let length = self.seen() + ids.len();
        check(self.model.spec(), ids, length)?;
        let mut start = self.seen();
        if self.model.spec().attention.rope.scaling.changes(start, length) {
            start = 0;
            self.caches = empty(self.model);
        }
        self.ids.extend_from_slice(ids);
        let mut last = None;
        for ids in self.ids[start..].chunks(PREFILL) {
            last = Some(self.model.forward(ids, 1, start..length, Some(&mut self.caches))?);
            start += ids.len();
        }
        let hidden = last.ok_or(RuntimeError::Empty)?;
        let [tokens, width] = hidden.dims();
        let logits = to_rows(self.model.logits(hidden.slice([tokens - 1..tokens, 0..width])));
        if logits.iter().all(|logit| logit.is_finite()) { Ok(logits) } else { Err(RuntimeError::NotFinite) }
    }

    /// Appends one token; returns the logits `[vocab]` after it.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn step(&mut self, id: u32) -> Result<Vec<f32>, RuntimeError> {
        self.prefill(&[id])
    }
}

fn empty(model: &Model) -> Vec<KeyValues> {
    vec![KeyValues::default(); model.spec().layers.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{Toy, close};

    #[test]
    fn step_by_step_is_one_pass() {
        let model = Model::load(&Toy::new()).unwrap();
        let ids = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5];
        let all = to_rows(model.logits(model.hidden(&ids, 1).unwrap()));
        let mut session = Session::new(&model);
        for (i, (&id, expected)) in ids.iter().zip(all.chunks(32)).enumerate() {
            close(&session.step(id).unwrap(), expected, 1e-5);
            assert_eq!(session.seen(), i + 1);
        }
        let mut session = Session::new(&model);
        session.prefill(&ids[..4]).unwrap();
        close(&session.prefill(&ids[4..]).unwrap(), &all[320..], 1e-5);
    }

    #[test]
    fn a_session_ends_at_the_context() {
        let model = Model::load(&Toy::new()).unwrap();
        let mut session = Session::new(&model);
        session.prefill(&[0; 24]).unwrap();
        assert!(matches!(session.step(0), Err(RuntimeError::Context { tokens: 25, context: 24 })));
        assert!(matches!(Session::new(&model).prefill(&[]), Err(RuntimeError::Empty)));
    }
}
