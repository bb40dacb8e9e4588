//! Dealing calibration windows out to several runs.

use crate::PipelineError;
use moepress_calibrate::windows_per_chunk;
use std::fmt;
use std::str::FromStr;

/// One of several disjoint parts of the calibration windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    number: usize,
    of: usize,
}

impl Shard {
    /// All windows.
    pub const WHOLE: Self = Self { number: 1, of: 1 };

    /// Which one, from 1.
    pub fn number(self) -> usize {
        self.number
    }

    /// How many there are.
    pub fn of(self) -> usize {
        self.of
    }

    /// The windows of `window` tokens of this shard, or what goes with each of them. Whole chunks of a sweep are dealt
    /// out in turn, so that every chunk comes to the same numbers in whichever shard it runs.
    ///
    /// # Errors
    /// There are fewer chunks than shards.
    pub fn of_windows<T: Clone>(self, all: &[T], window: usize) -> Result<Vec<T>, PipelineError> {
        let chunks = all.chunks(windows_per_chunk(window));
        if chunks.len() < self.of {
            let count = chunks.len();
            return Err(PipelineError::Usage(format!(
                "{} windows of {window} tokens make {count} shards at most, {} were asked for",
                all.len(),
                self.of
            )));
        }
        Ok(chunks.skip(self.number - 1).step_by(self.of).flatten().cloned().collect())
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err("write i/n with i from 1 to n, such as 2/4".to_owned()),
        }
    }
}
