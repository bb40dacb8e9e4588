//! What becomes of experts that too few calibration tokens reached.

use serde_yaml::Mapping;

use crate::error::RecipeError;
use crate::params::Params;

const BELOW: [(&str, BelowMinTokens); 4] = [
    ("rank", BelowMinTokens::Rank),
    ("keep", BelowMinTokens::Keep),
    ("prune", BelowMinTokens::Prune),
    ("error", BelowMinTokens::Error),
];

/// How many tokens must be routed to an expert for its statistics to count, and what happens below that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coverage {
    /// Tokens, at least 1; 1 unless given.
    pub min_tokens: usize,
    /// What becomes of experts with fewer.
    pub below: BelowMinTokens,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { min_tokens: 1, below: BelowMinTokens::Rank }
    }
}

/// What becomes of experts with fewer tokens than asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BelowMinTokens {
    /// Methods rank them like the others; those without any token are the first to go.
    #[default]
    Rank,
    /// They are neither removed nor pruned.
    Keep,
    /// They are the first to go, whatever their scores.
    Prune,
    /// The run ends.
    Error,
}

impl BelowMinTokens {
    /// The word a recipe has for it.
    pub fn word(self) -> &'static str {
        BELOW.iter().find(|(_, below)| *below == self).map_or("", |(word, _)| word)
    }
}

impl Coverage {
    /// The keys beside those of a text.
    pub(crate) const KEYS: [&str; 2] = ["min_tokens", "below_min_tokens"];

    /// Reads the two keys of `calibration`, and adds those that are there to the mapping that a resolved recipe
    /// has for it.
    pub(crate) fn read(params: &Params, written: &mut Mapping) -> Result<Self, RecipeError> {
        let [min, below] = Self::KEYS;
        let min_tokens = params.usize_in(min, Some(1), 1..)?;
        let word = params.word(below, Some("rank"), &BELOW.map(|(word, _)| word))?;
        // What a recipe does not ask for leaves its digest alone.
        if params.has(min) {
            written.insert(min.into(), (min_tokens as u64).into());
        }
        if params.has(below) {
            written.insert(below.into(), word.as_str().into());
        }
        let found = BELOW.iter().find(|(name, _)| *name == word);
        Ok(Self { min_tokens, below: found.map_or(BelowMinTokens::Rank, |(_, below)| *below) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Recipe, parse};
    use std::path::Path;

    fn read(calibration: &str) -> Result<Recipe, String> {
        let text = format!("version: 1\nmodel: m\ncalibration: {calibration}\nstages: []\n");
        parse(&text, Path::new("r.yaml"), &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn the_keys_are_read_and_only_written_where_given() {
        let plain = read("{files: [a.txt]}").unwrap();
        assert_eq!(plain.coverage, Coverage::default());
        assert!(!plain.resolved_yaml().contains("min_tokens"));
        for (_, below) in BELOW {
            let given = format!("{{files: [a.txt], min_tokens: 32, below_min_tokens: {}}}", below.word());
            let recipe = read(&given).unwrap();
            assert_eq!(recipe.coverage, Coverage { min_tokens: 32, below });
            let resolved = recipe.resolved_yaml();
            assert!(resolved.contains("  min_tokens: 32\n"), "{resolved}");
            assert_eq!(parse(&resolved, Path::new("r.yaml"), &[]).unwrap(), recipe);
        }
        let one = read("{files: [a.txt], min_tokens: 1}").unwrap().resolved_yaml();
        assert!(one.contains("min_tokens: 1\n") && !one.contains("below"), "{one}");
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        for (keys, wanted) in [
            ("min_tokens: 0", "min_tokens: must be at least 1, is 0"),
            ("min_tokens: 1.5", "min_tokens: must be a whole number"),
            ("min_tokens: many", "min_tokens: must be a whole number"),
            ("below_min_tokens: drop", "unknown word `drop`"),
            ("below_min_tokens: errer", "did you mean `error`?"),
            ("below_min_token: keep", "did you mean `below_min_tokens`?"),
        ] {
            let error = read(&format!("{{files: [a.txt], {keys}}}")).unwrap_err();
            assert!(error.starts_with("r.yaml:3:") && error.contains(wanted), "{keys}: {error}");
        }
        let text = "version: 1\nmodel: m\nstages: []\nevaluate: {files: [a.txt], min_tokens: 2}\n";
        let error = parse(text, Path::new("r.yaml"), &[]).unwrap_err().to_string();
        assert!(error.contains("unknown key `min_tokens`"), "{error}");
    }
}
