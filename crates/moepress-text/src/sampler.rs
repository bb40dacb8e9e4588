//! From files of text to windows of token ids.

#[cfg(test)]
mod tests;

use crate::chat::ChatTemplate;
use crate::draw::draw;
use crate::lines::Lines;
use crate::plain::read_text;
use crate::{Protocol, TextError, Tokenizer, special};
use moepress_checkpoint::{Files, available_memory};
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
    /// As the tokenizer does by itself: before every document, or nowhere.
    Auto,
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
    /// How windows follow each other, and which of their tokens are scored.
    pub protocol: Protocol,
}

/// A window of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its tokens. There is no padding.
    pub ids: Vec<u32>,
    /// The first token that is scored when a model is evaluated, at least 1; all after it are scored too.
    pub first: usize,
    /// Bytes of the text that the scored tokens stand for.
    pub bytes: u64,
}

/// Windows of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// The windows, in the order of the file.
    pub windows: Vec<Window>,
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
    /// A window is too short to predict anything, the parts of `sampling` contradict each other, or the checkpoint
    /// lacks the beginning-of-sequence token that is asked for.
    pub fn open(
        files: &'a dyn Files,
        tokenizer: &'a Tokenizer,
        sampling: Sampling,
    ) -> Result<Self, TextError> {
        sampling.protocol.check(&sampling)?;
        let bos = match sampling.bos {
            Bos::None => None,
            Bos::Window | Bos::Document => Some(special::bos(files, tokenizer)?),
            Bos::Auto => special::own_bos(files, tokenizer)?,
        };
        let policy = match sampling.bos {
            Bos::Auto if bos.is_some() => Bos::Document,
            Bos::Auto => Bos::None,
            given => given,
        };
        Ok(Self { files, tokenizer, sampling: Sampling { bos: policy, ..sampling }, bos })
    }

    /// Where the beginning-of-sequence token goes, with `auto` made out.
    pub fn bos(&self) -> Bos {
        self.sampling.bos
    }

    /// At most `count` windows of a file. Its documents are tokenized one by one and follow each other without
    /// gaps; the protocol says how windows follow each other.
    ///
    /// # Errors
    /// The file is missing, malformed (says in which line) or gives not even one window, or the checkpoint lacks the
    /// chat template that is asked for.
    pub fn sample(&self, path: &Path, form: &Form, count: usize) -> Result<Windows, TextError> {
        let Sampling { window, seed, bos, protocol } = self.sampling;
        let needed = if seed.is_some() { usize::MAX } else { protocol.tokens(window, count) };
        let (tokens, documents) = self.tokens(path, form, needed)?;
        let spans = protocol.spans(&tokens.ids, window, self.bos.filter(|_| bos == Bos::Window));
        if spans.is_empty() {
            let found = tokens.ids.len();
            return Err(TextError::TooShort { file: path.to_owned(), found, needed: window });
        }
        let chosen = match seed {
            None => (0..spans.len().min(count)).collect(),
            Some(seed) => draw(spans.len(), count, seed),
        };
        let cut = |index: usize| {
            let span = spans[index].clone();
            let inserted = self.bos.filter(|_| bos == Bos::Window && span.len() < window);
            let mut ids: Vec<u32> =
                inserted.into_iter().chain(tokens.ids[span.clone()].iter().copied()).collect();
            if let Some(bos) = self.bos.filter(|_| protocol.replaces_first()) {
                ids[0] = bos;
            }
            let first = protocol.first(index, ids.len(), window);
            // The inserted token stands for no text.
            let scored = span.start + first - usize::from(inserted.is_some());
            Window { ids, first, bytes: tokens.bytes(scored..span.end) }
        };
        Ok(Windows { windows: chosen.into_iter().map(cut).collect(), asked: count, documents })
    }

    /// The tokens of a file, at least `needed` unless it has fewer, and the documents that they are of.
    fn tokens(&self, path: &Path, form: &Form, needed: usize) -> Result<(Tokens, usize), TextError> {
        let mut tokens = Tokens::default();
        let (field, template) = match form {
            Form::Plain => {
                let text = read_text(self.files, path)?;
                enough_memory(path, text.len() as u64)?;
                self.append(&mut tokens, &text)?;
                return Ok((tokens, 1));
            }
            Form::Lines(field) => (field, None),
            Form::Chats(field) => (field, Some(ChatTemplate::open(self.files, self.tokenizer.dir())?)),
        };
        let mut lines = Lines::open(self.files, path)?;
        let (mut documents, mut bytes) = (0, 0);
        while tokens.ids.len() < needed
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
                self.append(&mut tokens, &document)?;
                documents += 1;
            }
        }
        Ok((tokens, documents))
    }

    /// Appends the tokens of a document.
    fn append(&self, tokens: &mut Tokens, document: &str) -> Result<(), TextError> {
        let (ids, ends) = self.tokenizer.encode_with_ends(document)?;
        let start = tokens.ends.last().copied().unwrap_or(0);
        // Chat templates and some tokenizers write it themselves.
        let bos = self.bos.filter(|bos| self.sampling.bos == Bos::Document && ids.first() != Some(bos));
        tokens.ids.extend(bos);
        tokens.ends.extend(bos.map(|_| start));
        tokens.ids.extend(ids);
        tokens.ends.extend(ends.into_iter().map(|end| start + end as u64));
        if let Some(end) = tokens.ends.last_mut() {
            *end = start + document.len() as u64;
        }
        Ok(())
    }
}

/// Token ids, and for each the bytes of text up to its end.
#[derive(Default)]
struct Tokens {
    ids: Vec<u32>,
    ends: Vec<u64>,
}

impl Tokens {
    /// The bytes of text that a run of tokens stands for.
    fn bytes(&self, run: std::ops::Range<usize>) -> u64 {
        let before = |index: usize| index.checked_sub(1).and_then(|index| self.ends.get(index)).copied();
        before(run.end).unwrap_or(0) - before(run.start).unwrap_or(0)
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
