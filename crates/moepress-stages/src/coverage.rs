//! The one place that decides what becomes of experts that too few calibration tokens reached.

use crate::evidence::Evidence;
use crate::stage::StageError;
use moepress_model::ModelSpec;
use moepress_recipe::{BelowMinTokens, Coverage};
use moepress_stats::{Of, Quantity, Statistics, StatisticsError};

/// How many experts an error names.
const NAMED: usize = 8;

/// What a stage that removes experts or atoms may do with an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It goes before all others, whatever its scores.
    First,
    /// Its scores count.
    Measured,
    /// It stays as it is.
    Keep,
}

/// An expert that fewer tokens reached than the recipe asks for: layer, index, tokens.
pub type UnderMeasured = (usize, usize, u64);

/// Experts that too few tokens reached while the recipe wants the run to end then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} (layer.expert): {}; measure on more or other text, lower calibration.min_tokens, or set calibration.below_min_tokens to rank, keep or prune",
    reached(self.experts.len(), self.min_tokens), names(&self.experts[..self.experts.len().min(NAMED)], self.experts.len())
)]
pub struct CoverageError {
    /// The experts.
    pub experts: Vec<UnderMeasured>,
    /// Tokens that the recipe asks for.
    pub min_tokens: usize,
}

/// By layer and index.
fn under_measured(
    spec: &ModelSpec,
    stats: &Statistics,
    coverage: Coverage,
) -> Result<Vec<UnderMeasured>, StatisticsError> {
    let mut found = Vec::new();
    for (layer, _) in spec.moe_layers() {
        let tokens = stats.get(Of::Layer(layer), Quantity::Tokens)?.iter().enumerate();
        let below = tokens.filter(|(_, n)| **n < coverage.min_tokens as f64);
        found.extend(below.map(|(expert, &n)| (layer, expert, n as u64)));
    }
    Ok(found)
}

/// The experts of a model with fewer tokens than the recipe asks for, right after a measurement.
///
/// # Errors
/// There are some, and the recipe says `below_min_tokens: error`; or routing was not measured.
pub fn check_coverage(
    spec: &ModelSpec,
    stats: &Statistics,
    coverage: Coverage,
) -> Result<Vec<UnderMeasured>, StageError> {
    let experts = under_measured(spec, stats, coverage)?;
    match coverage.below == BelowMinTokens::Error && !experts.is_empty() {
        true => Err(CoverageError { experts, min_tokens: coverage.min_tokens }.into()),
        false => Ok(experts),
    }
}

impl Evidence<'_> {
    /// What may be done with the experts of a layer, in order.
    pub(crate) fn standings(&self, layer: usize) -> Result<Vec<Standing>, StatisticsError> {
        let Coverage { min_tokens, below } = self.coverage;
        let standing = |&n: &f64| match below {
            _ if n >= min_tokens as f64 => Standing::Measured,
            BelowMinTokens::Keep => Standing::Keep,
            BelowMinTokens::Prune | BelowMinTokens::Error => Standing::First,
            BelowMinTokens::Rank if n > 0.0 => Standing::Measured,
            BelowMinTokens::Rank => Standing::First,
        };
        Ok(self.tokens(layer)?.iter().map(standing).collect())
    }

    /// What a stage that removes experts or atoms says about under-measured experts; nothing without any.
    /// `first` and `kept` say what became of those that went first and of those that stay: "[they] …".
    pub(crate) fn coverage_notes(&self, first: &str, kept: &str) -> Result<Vec<String>, StatisticsError> {
        let Coverage { min_tokens, below } = self.coverage;
        let experts = under_measured(self.spec, self.stats, self.coverage)?;
        let (none, few): (Vec<_>, Vec<_>) = experts.into_iter().partition(|(_, _, n)| *n == 0);
        let (of_none, of_few) = match below {
            BelowMinTokens::Rank => (first, "were ranked by their scores like the others"),
            BelowMinTokens::Keep => (kept, kept),
            BelowMinTokens::Prune | BelowMinTokens::Error => (first, first),
        };
        let groups = [(none, 1, of_none), (few, min_tokens, of_few)];
        let groups = groups.iter().filter(|(experts, ..)| !experts.is_empty());
        Ok(groups.map(|(experts, below, what)| note(experts, *below, what)).collect())
    }

    /// A note naming the experts that no token reached and what happens to them, for stages that take nothing
    /// away; none when all were.
    pub(crate) fn unreached(&self, what_happens: &str) -> Result<Option<String>, StatisticsError> {
        let experts = under_measured(self.spec, self.stats, Coverage::default())?;
        Ok((!experts.is_empty()).then(|| note(&experts, 1, what_happens)))
    }
}

fn note(experts: &[UnderMeasured], below: usize, what: &str) -> String {
    format!("{} and {what} (layer.expert): {}", reached(experts.len(), below), names(experts, experts.len()))
}

/// "3 experts were reached by fewer than 32 calibration tokens".
fn reached(experts: usize, below: usize) -> String {
    let were = if experts == 1 { "expert was" } else { "experts were" };
    let by = match below {
        1 => "no calibration token".to_owned(),
        _ => format!("fewer than {below} calibration tokens"),
    };
    format!("{experts} {were} reached by {by}")
}

/// "0.3 1.7", and how many more there are of `all`.
fn names(experts: &[UnderMeasured], all: usize) -> String {
    let more = (all > experts.len()).then(|| format!("and {} more", all - experts.len()));
    let names = experts.iter().map(|(layer, expert, _)| format!("{layer}.{expert}"));
    names.chain(more).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::toy;

    fn stats() -> Statistics {
        let mut stats = Statistics::default();
        for layer in 0..2 {
            stats.add(Of::Layer(layer), Quantity::Tokens, vec![2.0, 9.0, 0.0, 4.0]).unwrap();
        }
        stats
    }

    fn with<T>(min_tokens: usize, below: BelowMinTokens, f: impl Fn(&Evidence<'_>) -> T) -> T {
        let (spec, stats) = (toy(), stats());
        let coverage = Coverage { min_tokens, below };
        f(&Evidence { coverage, ..Evidence::new(&spec, &stats) })
    }

    #[test]
    fn standings_follow_the_policy() {
        use BelowMinTokens::{Keep, Prune, Rank};
        use Standing::{First, Keep as Stays, Measured as M};
        for (min_tokens, below, wanted) in [
            (1, Rank, [M, M, First, M]),
            (4, Rank, [M, M, First, M]),
            (1, Keep, [M, M, Stays, M]),
            (4, Keep, [Stays, M, Stays, M]),
            (10, Keep, [Stays; 4]),
            (1, Prune, [M, M, First, M]),
            (4, Prune, [First, M, First, M]),
        ] {
            assert_eq!(
                with(min_tokens, below, |e| e.standings(1).unwrap()),
                wanted,
                "{min_tokens} {below:?}"
            );
        }
    }

    #[test]
    fn notes_say_who_and_what() {
        let notes = |min, below| with(min, below, |e| e.coverage_notes("went first", "were kept").unwrap());
        assert_eq!(
            notes(4, BelowMinTokens::Rank),
            [
                "2 experts were reached by no calibration token and went first (layer.expert): 0.2 1.2",
                "2 experts were reached by fewer than 4 calibration tokens and were ranked by their scores like the others (layer.expert): 0.0 1.0",
            ]
        );
        let kept = notes(3, BelowMinTokens::Keep);
        assert!(kept.len() == 2 && kept.iter().all(|note| note.contains("were kept")), "{kept:?}");
        assert_eq!(notes(1, BelowMinTokens::Prune).len(), 1);
    }

    #[test]
    fn an_error_counts_all_and_names_the_first() {
        let check = |min_tokens, below| check_coverage(&toy(), &stats(), Coverage { min_tokens, below });
        let error = |min| check(min, BelowMinTokens::Error).unwrap_err().to_string();
        assert_eq!(
            error(1),
            "2 experts were reached by no calibration token (layer.expert): 0.2 1.2; measure on more or other text, lower calibration.min_tokens, or set calibration.below_min_tokens to rank, keep or prune"
        );
        let all = error(100);
        assert!(all.starts_with("8 experts were reached by fewer than 100 calibration tokens"), "{all}");
        let experts: Vec<UnderMeasured> = (0..12).map(|expert| (3, expert, 0)).collect();
        let twelve = CoverageError { experts, min_tokens: 2 }.to_string();
        assert!(twelve.contains(": 3.0 3.1 3.2 3.3 3.4 3.5 3.6 3.7 and 4 more;"), "{twelve}");
        assert_eq!(check(1, BelowMinTokens::Keep).unwrap(), [(0, 2, 0), (1, 2, 0)]);
        assert_eq!(check(3, BelowMinTokens::Rank).unwrap()[0], (0, 0, 2));
    }
}
