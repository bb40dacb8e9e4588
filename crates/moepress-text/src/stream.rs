//! Text of tokens as they are generated.

use crate::{TextError, Tokenizer};

/// What the library's decoders put where bytes are not (yet) UTF-8.
const BROKEN: char = char::REPLACEMENT_CHARACTER;
/// Tokens held back at most: any character is complete by then, so that what is still broken stays so.
const PATIENCE: usize = 16;

/// Turns tokens into text piece by piece. A piece is held back while its last character is incomplete.
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens of the last piece given out, then those held back: some decoders need the one before.
    ids: Vec<u32>,
    given: usize,
}

impl<'a> Stream<'a> {
    /// A stream at the start of a text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), given: 0 }
    }

    /// The text that the token completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        self.ids.push(id);
        let piece = self.held()?;
        if piece.is_empty() || (piece.ends_with(BROKEN) && self.ids.len() - self.given < PATIENCE) {
            return Ok(String::new());
        }
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(piece)
    }

    /// What is still held back at the end of a text.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String, TextError> {
        self.held()
    }

    fn held(&self) -> Result<String, TextError> {
        let before = self.tokenizer.decode(&self.ids[..self.given])?;
        let all = self.tokenizer.decode(&self.ids)?;
        Ok(all.strip_prefix(&before).map_or_else(|| all.clone(), str::to_owned))
    }
}
