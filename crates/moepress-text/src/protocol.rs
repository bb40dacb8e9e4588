//! How text is cut for evaluation, and what of it is scored. Figures of different protocols are not comparable.

use crate::{Bos, Sampling, TextError};
use std::ops::Range;

/// A way to evaluate on text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Windows without overlap, the tail dropped; every token but the first of a window is scored. GPTQ
    /// (arXiv 2210.17323) and most papers after it, with windows of 2048.
    Paper,
    /// Windows without overlap, the tail dropped; of `n` tokens those after the first `n / 2 + 1` are scored.
    /// Where a document has a beginning-of-sequence token, every window has it in place of its first token.
    /// `llama-perplexity` of llama.cpp, with windows of 512.
    LlamaCpp,
    /// A window starts that many tokens after the last one; of every window but the first only the tokens that
    /// no window before it held are scored, so every token but the first of the text is scored once. The last
    /// window may be shorter. As the documentation of transformers has it for models of fixed length.
    Strided(usize),
}

impl Protocol {
    /// Tokens of a text of which `count` windows of `window` tokens are taken.
    pub(crate) fn tokens(self, window: usize, count: usize) -> usize {
        self.step(window).saturating_mul(count.saturating_sub(1)).saturating_add(window)
    }

    fn step(self, window: usize) -> usize {
        match self {
            Self::Paper | Self::LlamaCpp => window,
            Self::Strided(stride) => stride,
        }
    }

    /// Whether a beginning-of-sequence token takes the place of the first token of every window.
    pub(crate) fn replaces_first(self) -> bool {
        self == Self::LlamaCpp
    }

    /// The first token that is scored of the window of that index, which has `tokens`.
    pub(crate) fn first(self, index: usize, tokens: usize, window: usize) -> usize {
        match self {
            Self::LlamaCpp => tokens / 2 + 1,
            Self::Strided(stride) if index > 0 => window - stride,
            Self::Paper | Self::Strided(_) => 1,
        }
    }

    /// Refuses what is not to be combined.
    pub(crate) fn check(self, sampling: &Sampling) -> Result<(), TextError> {
        let Sampling { window, seed, bos, .. } = *sampling;
        let refuse = |reason: &'static str| Err(TextError::Protocol(reason));
        match self {
            _ if window < 2 => Err(TextError::Window(window)),
            Self::LlamaCpp if window < 4 => {
                refuse("llama.cpp scores half of a window, which needs 4 tokens at least")
            }
            Self::Strided(stride) if stride == 0 || stride >= window => {
                refuse("a stride is at least 1 and less than the window")
            }
            Self::Strided(_) if seed.is_some() => {
                refuse("strided windows follow each other and cannot be drawn with a seed")
            }
            Self::LlamaCpp | Self::Strided(_) if bos == Bos::Window => {
                refuse("only the protocol `paper` puts a beginning-of-sequence token before every window")
            }
            _ => Ok(()),
        }
    }

    /// The tokens of every window, one short where `bos` is to go before them.
    pub(crate) fn spans(self, ids: &[u32], window: usize, bos: Option<u32>) -> Vec<Range<usize>> {
        let mut spans = Vec::with_capacity(ids.len() / self.step(window) + 1);
        let mut start = 0;
        while start < ids.len() {
            let length = window - usize::from(bos.is_some_and(|bos| ids[start] != bos));
            let end = start + length;
            if end >= ids.len() && matches!(self, Self::Strided(_)) {
                // The tail is text like any other, unless there is nothing to predict.
                spans.extend((ids.len() - start > 1).then_some(start..ids.len()));
                break;
            }
            if end > ids.len() {
                break;
            }
            spans.push(start..end);
            start += self.step(length);
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_windows_score_every_token_once() {
        for (tokens, window, stride) in
            [(23, 8, 3), (24, 8, 4), (8, 8, 1), (9, 8, 7), (100, 10, 5), (17, 8, 3)]
        {
            let protocol = Protocol::Strided(stride);
            let ids: Vec<u32> = (0..tokens).collect();
            let mut scored = vec![0; tokens as usize];
            let spans = protocol.spans(&ids, window, None);
            for (index, span) in spans.iter().enumerate() {
                assert!(span.len() <= window && span.start == index * stride);
                let first = protocol.first(index, span.len(), window);
                scored[span.clone()][first..].iter_mut().for_each(|count| *count += 1);
            }
            assert_eq!(scored[0], 0);
            assert!(scored[1..].iter().all(|&count| count == 1), "{tokens} {window} {stride}: {scored:?}");
            assert!(protocol.tokens(window, spans.len()) >= ids.len());
        }
        let short = |ids: &[u32]| Protocol::Strided(2).spans(ids, 4, None);
        assert_eq!((short(&[1, 2, 3]).pop(), short(&[1]).pop()), (Some(0..3), None));
    }

    #[test]
    fn llama_cpp_scores_the_second_half() {
        // n_ctx 512 scores 255 predictions of a chunk: tokens 257 to 511.
        assert_eq!(Protocol::LlamaCpp.first(3, 512, 512), 257);
        assert_eq!(Protocol::LlamaCpp.spans(&[0; 11], 4, None), [0..4, 4..8]);
    }

    #[test]
    fn contradictions_are_refused() {
        let check =
            |protocol: Protocol, window, seed, bos| protocol.check(&Sampling { window, seed, bos, protocol });
        assert!(check(Protocol::Strided(8), 8, None, Bos::None).is_err());
        assert!(check(Protocol::Strided(0), 8, None, Bos::None).is_err());
        assert!(check(Protocol::Strided(2), 8, Some(1), Bos::None).is_err());
        assert!(check(Protocol::Strided(2), 8, None, Bos::Window).is_err());
        assert!(check(Protocol::LlamaCpp, 8, None, Bos::Window).is_err());
        assert!(check(Protocol::LlamaCpp, 3, None, Bos::None).is_err());
        assert!(check(Protocol::LlamaCpp, 4, Some(1), Bos::Auto).is_ok());
        assert!(check(Protocol::Paper, 2, Some(1), Bos::Window).is_ok());
    }
}
