//! One sequence, token by token; and several, a token of each at a time.

use crate::decoder::Span;
use crate::model::Cache;
use crate::{Model, RuntimeError, check};
use moepress_kernels::{Precision, assembled};

/// Tokens of a prompt that run at once: enough for efficient products, few enough that attention scores
/// over a long prompt stay small.
const PREFILL: usize = 512;

/// Tokens below which a pass is many rounds of short products.
const FEW: usize = 32;

/// A sequence that grows, with the keys and values of what it has seen.
pub struct Session<'a> {
    model: &'a Model,
    cache: Cache,
    ids: Vec<u32>,
    precision: Precision,
}

impl<'a> Session<'a> {
    /// An empty sequence.
    pub fn new(model: &'a Model, precision: Precision) -> Self {
        Self { model, cache: model.cache(), ids: vec![], precision }
    }

    /// Tokens seen so far.
    pub fn seen(&self) -> usize {
        self.ids.len()
    }

    /// Appends tokens; returns the logits `[vocab]` after the last. Where they make the sequence so long that its
    /// positions turn otherwise (LongRoPE), all of it runs again.
    ///
    /// # Errors
    /// No tokens, one outside the vocabulary, more than the context holds, an expert that cannot be read, or logits
    /// that are not finite. After an error the session is not to be continued.
    pub fn prefill(&mut self, ids: &[u32]) -> Result<Vec<f32>, RuntimeError> {
        match ids.len() < FEW {
            true => assembled(|| self.run(ids)),
            false => self.run(ids),
        }
    }

    fn run(&mut self, ids: &[u32]) -> Result<Vec<f32>, RuntimeError> {
        let length = self.seen() + ids.len();
        check(self.model.spec(), ids, length)?;
        let mut start = self.append(ids, length);
        let mut last = None;
        for ids in self.ids[start..].chunks(PREFILL) {
            let span = Span { tokens: ids.len(), start, length };
            last = Some(self.model.forward(ids, &[span], Some(&mut [&mut self.cache]), self.precision)?);
            start += ids.len();
        }
        let hidden = last.ok_or(RuntimeError::Empty)?;
        let width = self.model.spec().hidden;
        finite(self.model.logits(&hidden[hidden.len() - width..], self.precision)?)
    }

    /// Appends one token; returns the logits `[vocab]` after it.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn step(&mut self, id: u32) -> Result<Vec<f32>, RuntimeError> {
        self.prefill(&[id])
    }

    /// Appends tokens that are yet to run; returns the position of the first that is.
    fn append(&mut self, ids: &[u32], length: usize) -> usize {
        let mut start = self.seen();
        if self.model.spec().attention.rope.scaling.changes(start, length) {
            start = 0;
            self.cache = self.model.cache();
        }
        self.ids.extend_from_slice(ids);
        start
    }
}

/// Appends one token to each of several sequences of one model, in one pass; returns the logits `[vocab]` after each.
///
/// # Errors
/// As [`Session::prefill`]. Sequences of different models, or of different precision, are
/// [`RuntimeError::Batch`].
pub fn step_together(sessions: &mut [&mut Session<'_>], ids: &[u32]) -> Result<Vec<Vec<f32>>, RuntimeError> {
    let Some(first) = sessions.first() else { return Err(RuntimeError::Empty) };
    let (model, precision) = (first.model, first.precision);
    let alike = |s: &&mut Session<'_>| std::ptr::eq(s.model, model) && s.precision == precision;
    if sessions.len() != ids.len() || !sessions.iter().all(alike) {
        return Err(RuntimeError::Batch { tokens: ids.len(), batch: sessions.len() });
    }
    let (mut batch, mut spans) = (Vec::new(), Vec::new());
    for (session, &id) in sessions.iter_mut().zip(ids) {
        let length = session.seen() + 1;
        check(model.spec(), &[id], length)?;
        let start = session.append(&[id], length);
        batch.extend_from_slice(&session.ids[start..]);
        spans.push(Span { tokens: length - start, start, length });
    }
    let mut caches: Vec<&mut Cache> = sessions.iter_mut().map(|session| &mut session.cache).collect();
    let mut step = || logits_after(model, &batch, &spans, &mut caches, precision);
    if batch.len() < FEW { assembled(step) } else { step() }
}

/// The logits after the last token of every span.
fn logits_after(
    model: &Model,
    batch: &[u32],
    spans: &[Span],
    caches: &mut [&mut Cache],
    precision: Precision,
) -> Result<Vec<Vec<f32>>, RuntimeError> {
    let hidden = model.forward(batch, spans, Some(caches), precision)?;
    let (width, mut end) = (model.spec().hidden, 0);
    let mut last = Vec::with_capacity(spans.len() * width);
    for span in spans {
        end += span.tokens * width;
        last.extend_from_slice(&hidden[end - width..end]);
    }
    let logits = finite(model.logits(&last, precision)?)?;
    Ok(logits.chunks_exact(model.spec().vocab).map(<[f32]>::to_vec).collect())
}

fn finite(logits: Vec<f32>) -> Result<Vec<f32>, RuntimeError> {
    if logits.iter().all(|logit| logit.is_finite()) { Ok(logits) } else { Err(RuntimeError::NotFinite) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{Toy, close};

    #[test]
    fn step_by_step_is_one_pass() {
        let model = Model::load(&Toy::new()).unwrap();
        let ids = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5];
        let all = model.logits(&model.hidden(&ids, 1).unwrap(), Precision::Exact).unwrap();
        let mut session = Session::new(&model, Precision::Exact);
        for (i, (&id, expected)) in ids.iter().zip(all.chunks(32)).enumerate() {
            close(&session.step(id).unwrap(), expected, 1e-5);
            assert_eq!(session.seen(), i + 1);
        }
        let mut session = Session::new(&model, Precision::Exact);
        session.prefill(&ids[..4]).unwrap();
        close(&session.prefill(&ids[4..]).unwrap(), &all[320..], 1e-5);
    }

    #[test]
    fn a_session_ends_at_the_context() {
        let model = Model::load(&Toy::new()).unwrap();
        let mut session = Session::new(&model, Precision::Exact);
        session.prefill(&[0; 24]).unwrap();
        assert!(matches!(session.step(0), Err(RuntimeError::Context { tokens: 25, context: 24 })));
        assert!(matches!(Session::new(&model, Precision::Exact).prefill(&[]), Err(RuntimeError::Empty)));
    }

    #[test]
    fn sequences_that_step_together_step_as_alone() {
        let model = Model::load(&Toy::new()).unwrap();
        for precision in [Precision::Exact, Precision::Fast] {
            let prompts: [&[u32]; 3] = [&[3, 1, 4], &[1], &[5, 9, 2, 6, 5, 3]];
            let started = || {
                prompts.map(|prompt| {
                    let mut session = Session::new(&model, precision);
                    session.prefill(prompt).unwrap();
                    session
                })
            };
            let (mut alone, mut together) = (started(), started());
            for ids in [[7, 8, 9], [1, 1, 30]] {
                let mut all: Vec<_> = together.iter_mut().collect();
                let found = step_together(&mut all, &ids).unwrap();
                for ((session, id), found) in alone.iter_mut().zip(ids).zip(found) {
                    close(&found, &session.step(id).unwrap(), 1e-5);
                }
            }
        }
        let (mut a, mut b) = (Session::new(&model, Precision::Exact), Session::new(&model, Precision::Fast));
        let mixed = step_together(&mut [&mut a, &mut b], &[1, 2]);
        assert!(matches!(mixed, Err(RuntimeError::Batch { tokens: 2, batch: 2 })));
        assert!(matches!(step_together(&mut [], &[]), Err(RuntimeError::Empty)));
    }
}
