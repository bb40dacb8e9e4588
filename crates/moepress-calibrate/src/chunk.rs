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
    /// Token ids of all windows, one after the other.
    pub ids: Vec<u32>,
    /// Tokens of a window.
    pub window: usize,
    /// The text of every window; none where that does not matter.
    pub texts: Vec<usize>,
}

/// Rows of a chunk that predict, and what they should predict.
pub(crate) struct Predicting {
    pub rows: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Chunk {
    /// The chunks of windows of one length.
    pub(crate) fn cut(windows: &Windows<'_>) -> Vec<Self> {
        let window = windows.ids.first().map_or(0, Vec::len);
        let size = windows_per_chunk(window);
        let chunk =
            |(ids, texts): (&[Vec<u32>], &[usize])| Self { ids: ids.concat(), window, texts: texts.to_vec() };
        windows.ids.chunks(size).zip(windows.of.chunks(size)).map(chunk).collect()
    }

    /// The text that a token is from.
    pub(crate) fn text_of(&self, token: usize) -> usize {
        self.texts.get(token / self.window.max(1)).copied().unwrap_or(0)
    }

    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Number of windows.
    pub(crate) fn batch(&self) -> usize {
        self.ids.len() / self.window.max(1)
    }

    /// Every token but the last of a window predicts the next.
    pub(crate) fn predicting(&self) -> Predicting {
        let rows: Vec<u32> =
            (0..self.ids.len() as u32).filter(|row| !(row + 1).is_multiple_of(self.window as u32)).collect();
        let targets = rows.iter().map(|&row| self.ids[row as usize + 1]).collect();
        Predicting { rows, targets }
    }
}
