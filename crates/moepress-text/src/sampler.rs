//! From files of text to windows of token ids.

#[cfg(test)]
mod tests;

use crate::chat::ChatTemplate;
use crate::draw::draw;
use crate::lines::Lines;
use crate::plain::read_text;
use crate::{TextError, Tokenizer, special};
use moepress_checkpoint::{Files, available_memory};
use std::ops::Range;
use std::path::Path;

/// Bytes of the documents of a file, all of whose tokens are kept.
const MAX_BYTES: u64 = 1 << 30;
/// What the tokenizer takes at its peak for a byte of a document, as measured on byte-level BPE.
const MEMORY_PER_BYTE: u64 = 140;

/// What a file of text holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// One document: all of the file.
    Plain,
    /// An object of JSON per line, whose field of this name is a document.
    Lines(String),
    /// An object of JSON per line, whose field of this name is a list of messages, which the checkpoint's chat
    /// template makes a document.
    Chats(String),
}

/// Where the beginning-of-sequence token goes; there is never more than one where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bos {
    /// Nowhere.
    None,
    /// Before every window, as one of its tokens.
    Window,
    /// Before every document.
    Document,
}

/// Which windows of a file are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Tokens of a window, 2 or more.
    pub window: usize,
    /// Draws windows from all of the file, without replacement; without it they are the first of the file.
    pub seed: Option<u64>,
    /// Where the beginning-of-sequence token goes.
    pub bos: Bos,
}

/// Windows of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Token ids of every window, all of one length, in the order of the file. There is no padding.
    pub windows: Vec<Vec<u32>>,
    /// Windows asked for; the file may have fewer.
    pub asked: usize,
    /// Documents that were read; without a seed no more than were needed.
    pub documents: usize,
}

/// Cuts files into windows in one way.
pub struct Sampler<'a> {
    files: &'a dyn Files,
    tokenizer: &'a Tokenizer,
    sampling: Sampling,
    bos: Option<u32>,
}

impl<'a> Sampler<'a> {
    /// A sampler for the checkpoint of `tokenizer`.
    ///
    /// # Errors
    /// A window is too short to predict anything, or the checkpoint lacks the beginning-of-sequence token that is
    /// asked for.
    pub fn open(
        files: &'a dyn Files,
        tokenizer: &'a Tokenizer,
        sampling: Sampling,
    ) -> Result<Self, TextError> {
        if sampling.window < 2 {
            return Err(TextError::Window(sampling.window));
        }
        let bos = match sampling.bos {
            Bos::None => None,
            Bos::Window | Bos::Document => Some(special::bos(files, tokenizer)?),
        };
        Ok(Self { files, tokenizer, sampling, bos })
    }

    /// At most `count` windows of a file. Its documents are tokenized one by one and follow each other without
    /// gaps; windows follow each other without overlap, and what is left at the end is no window.
    ///
    /// # Errors
    /// The file is missing, malformed (says in which line) or gives not even one window, or the checkpoint lacks the
    /// chat template that is asked for.
    pub fn sample(&self, path: &Path, form: &Form, count: usize) -> Result<Windows, TextError> {
        let Sampling { window, seed, bos } = self.sampling;
        let needed = if seed.is_some() { usize::MAX } else { window.saturating_mul(count) };
        let (ids, documents) = self.tokens(path, form, needed)?;
        let spans = spans(&ids, window, self.bos.filter(|_| bos == Bos::Window));
        if spans.is_empty() {
            return Err(TextError::TooShort { file: path.to_owned(), found: ids.len(), needed: window });
        }
        let chosen = match seed {
            None => (0..spans.len().min(count)).collect(),
            Some(seed) => draw(spans.len(), count, seed),
        };
        let cut = |index: usize| {
            let span: Range<usize> = spans[index].clone();
            let bos = self.bos.filter(|_| span.len() < window);
            bos.into_iter().chain(ids[span].iter().copied()).collect()
        };
        Ok(Windows { windows: chosen.into_iter().map(cut).collect(), asked: count, documents })
    }

    /// The tokens of a file, at least `needed` unless it has fewer, and the documents that they are of.
    fn tokens(&self, path: &Path, form: &Form, needed: usize) -> Result<(Vec<u32>, usize), TextError> {
        let mut ids = Vec::new();
        let (field, template) = match form {
            Form::Plain => {
                let text = read_text(self.files, path)?;
                enough_memory(path, text.len() as u64)?;
                self.append(&mut ids, &text)?;
                return Ok((ids, 1));
            }
            Form::Lines(field) => (field, None),
            Form::Chats(field) => (field, Some(ChatTemplate::open(self.files, self.tokenizer.dir())?)),
        };
        let mut lines = Lines::open(self.files, path)?;
        let (mut documents, mut bytes) = (0, 0);
        while ids.len() < needed
            && let Some(line) = lines.next()?
        {
            let document = match &template {
                None => line.text(field)?,
                Some(template) => template.render(&line.field(field)?).map_err(|reason| line.bad(reason))?,
            };
            bytes += document.len() as u64;
            if bytes > MAX_BYTES {
                return Err(line.bad(format!("is where the text becomes longer than {MAX_BYTES} bytes")));
            }
            // Lists of documents have empty ones, which are none.
            if !document.is_empty() {
                self.append(&mut ids, &document)?;
                documents += 1;
            }
        }
        Ok((ids, documents))
    }

    /// Appends the tokens of a document.
    fn append(&self, ids: &mut Vec<u32>, document: &str) -> Result<(), TextError> {
        let tokens = self.tokenizer.encode(document)?;
        let bos = self.bos.filter(|_| self.sampling.bos == Bos::Document);
        // Chat templates and some tokenizers write it themselves.
        ids.extend(bos.filter(|bos| tokens.first() != Some(bos)));
        ids.extend(tokens);
        Ok(())
    }
}

/// Refuses a text whose tokenizing would end the process.
fn enough_memory(file: &Path, bytes: u64) -> Result<(), TextError> {
    let needed = bytes.saturating_mul(MEMORY_PER_BYTE);
    match available_memory().filter(|&available| available < needed) {
        Some(available) => Err(TextError::Memory { file: file.to_owned(), needed, available }),
        None => Ok(()),
    }
}

/// The tokens of every window, one short where `bos` is to go before them.
fn spans(ids: &[u32], window: usize, bos: Option<u32>) -> Vec<Range<usize>> {
    let mut spans = Vec::with_capacity(ids.len() / window + 1);
    let mut start = 0;
    while start < ids.len() {
        let end = match bos.is_some_and(|bos| ids[start] != bos) {
            true => start + window - 1,
            false => start + window,
        };
        if end > ids.len() {
            break;
        }
        spans.push(start..end);
        start = end;
    }
    spans
}
