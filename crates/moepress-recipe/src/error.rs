//! The one line a recipe error is, and the nearest known word.

use std::fmt;
use std::path::PathBuf;

/// Something wrong in a recipe, in one line: `FILE:LINE:COLUMN: PATH: message`, or
/// `--set PATH=VALUE: PATH: message` where the value came from the command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RecipeError {
    /// The recipe file.
    pub file: PathBuf,
    /// The `--set` argument that holds the value, when it is not in the file.
    pub set: Option<Box<str>>,
    /// Line in the file, from 1; `None` when the value is not in the file.
    pub line: Option<u32>,
    /// Column in characters, from 1.
    pub column: Option<u32>,
    /// Path such as `stages[1].prune_atoms.ratio`; empty when the file as a whole is meant.
    pub path: String,
    /// What is wrong, and how to fix it.
    pub message: String,
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.set {
            Some(set) => write!(f, "--set {}", shorten(set))?,
            None => write!(f, "{}", shorten(&self.file.to_string_lossy()))?,
        }
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// "unknown stage `prune_atom`; did you mean `prune_atoms`? (known: merge_experts, prune_atoms)".
pub fn unknown_word(kind: &str, word: &str, known: &[&str]) -> String {
    let hint = nearest(word, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    format!("unknown {kind} `{}`{hint} (known: {known})", shorten(word))
}

/// The known word that a slip of the fingers turns into `word`; the first of equals.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = shorten(&word.to_lowercase());
    let near =
        known.iter().map(|&k| (strsim::osa_distance(&word, k), k)).min_by_key(|&(distance, _)| distance)?;
    (near.0 <= 1.max(near.1.chars().count() / 3)).then_some(near.1)
}

/// Text from a recipe, made fit for one line of a message.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut line = String::new();
    for (k, c) in text.chars().enumerate() {
        if k == LONGEST {
            line.push('…');
            break;
        }
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_nearest_word() {
        let known = ["merge_experts", "prune_atoms", "quantize"];
        assert_eq!(
            unknown_word("stage", "prune_atom", &known),
            "unknown stage `prune_atom`; did you mean `prune_atoms`? (known: merge_experts, prune_atoms, quantize)"
        );
        assert_eq!(
            unknown_word("stage", "Quantise", &known),
            "unknown stage `Quantise`; did you mean `quantize`? (known: merge_experts, prune_atoms, quantize)"
        );
        assert_eq!(
            unknown_word("stage", "shrink", &known),
            "unknown stage `shrink` (known: merge_experts, prune_atoms, quantize)"
        );
        assert_eq!(unknown_word("key", "x", &[]), "unknown key `x` (known: none)");
    }

    #[test]
    fn keeps_hostile_text_on_one_short_line() {
        let message = unknown_word("key", &"a\n\u{2028}".repeat(100_000), &["ratio"]);
        assert!(message.len() < 1000 && message.lines().count() == 1, "{message}");
    }
}
