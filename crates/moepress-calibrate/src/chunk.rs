//! How windows are cut into the chunks that a sweep works on.

use crate::windows::Windows;

/// Tokens of a chunk, at least: enough for matrix products to be efficient with 16 experts.
const TOKENS: usize = 1024;

/// Windows of `window` tokens that run as one batch. Whoever deals windows out to several sweeps keeps these
/// together, so that every chunk comes to the same numbers in whichever sweep it runs.
pub fn windows_per_chunk(window: usize) -> usize {
    (TOKENS / window.max(1)).max(1)
}

/// Windows of equal length that run as one batch.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub(crate) ids: Vec<u32>,
    pub(crate) batch: usize,
    window: usize,
    /// The text of every window.
    texts: Vec<usize>,
}

/// Rows of a chunk that predict, and what they should predict.
pub(crate) struct Predicting {
    pub rows: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Chunk {
    /// A chunk of windows of `window` tokens, one after the other.
    pub fn new(ids: Vec<u32>, window: usize) -> Self {
        let batch = ids.len() / window.max(1);
        Self { ids, batch, window, texts: vec![0; batch] }
    }

    /// The chunks of windows of one length.
    pub(crate) fn cut(windows: &Windows<'_>) -> Vec<Self> {
        let window = windows.ids.first().map_or(0, Vec::len);
        let size = windows_per_chunk(window);
        let chunk = |(ids, texts): (&[Vec<u32>], &[usize])| Self {
            ids: ids.concat(),
            batch: ids.len(),
            window,
            texts: texts.to_vec(),
        };
        windows.ids.chunks(size).zip(windows.of.chunks(size)).map(chunk).collect()
    }

    /// Tokens of a window.
    pub(crate) fn window(&self) -> usize {
        self.window
    }

    /// The text that a token is from.
    pub(crate) fn text_of(&self, token: usize) -> usize {
        self.texts[token / self.window]
    }

    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Every token but the last of a window predicts the next.
    pub(crate) fn predicting(&self) -> Predicting {
        let rows: Vec<u32> =
            (0..self.ids.len() as u32).filter(|row| !(row + 1).is_multiple_of(self.window as u32)).collect();
        let targets = rows.iter().map(|&row| self.ids[row as usize + 1]).collect();
        Predicting { rows, targets }
    }
}
