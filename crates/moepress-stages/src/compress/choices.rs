//! What may become of a run of atoms or of a matrix, and what each choice takes and costs.

use moepress_model::Projection;
use moepress_numerics::knapsack::{Choice, minkowski_hull};
use moepress_quant::formats::Rung;
use moepress_stats::RunLadder;

/// What rounding costs beside what its errors to nearest would: later columns and `down_proj` make up for about half
/// of them, for nothing of what is dropped. Measured on the demo model: without it too many atoms go (`docs/results.md`).
const FEEDBACK: f64 = 0.5;

/// What becomes of a run of atoms or of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Pick {
    /// Its atoms go.
    Drop,
    /// It stays as it is.
    Keep,
    /// It is rounded: gate, up and down of a run, or the one matrix.
    Round(Vec<Rung>),
}

/// Choices of one item of the budget.
pub(super) struct Item {
    pub(super) picks: Vec<Pick>,
    pub(super) choices: Vec<Choice>,
}

impl Item {
    fn new() -> Self {
        Self { picks: vec![], choices: vec![] }
    }

    fn add(&mut self, pick: Pick, bytes: u64, cost: f64) {
        self.picks.push(pick);
        self.choices.push(Choice { bytes, cost });
    }

    /// Only to stay, in so many bytes.
    pub(super) fn pinned(bytes: u64) -> Self {
        let mut item = Self::new();
        item.add(Pick::Keep, bytes, 0.0);
        item
    }

    /// Only to go.
    pub(super) fn dropped() -> Self {
        let mut item = Self::new();
        item.add(Pick::Drop, 0, 0.0);
        item
    }

    /// Rounded in any way, or as it is in `bytes`.
    pub(super) fn of_matrix(rungs: &[Rung], bytes: u64) -> Self {
        let mut item = Self::pinned(bytes);
        for rung in rungs {
            item.add(Pick::Round(vec![*rung]), rung.bytes, FEEDBACK * rung.cost);
        }
        item
    }

    /// Dropped, rounded in any way, or as it is in `bytes`. Gate, up and down choose for themselves: only sums of
    /// neighbouring choices on their hulls can be on the hull of the run.
    pub(super) fn of_run(run: &RunLadder, bytes: u64) -> Self {
        let mut item = Self::pinned(bytes);
        item.add(Pick::Drop, 0, run.dropped);
        if run.rungs.iter().any(Vec::is_empty) {
            // A matrix of zeros has no grid, and no atom of it does anything.
            return item;
        }
        let choices = Projection::ALL.map(|projection| {
            let choice = |rung: &Rung| Choice { bytes: rung.bytes, cost: FEEDBACK * rung.cost };
            run.rungs[projection as usize].iter().map(choice).collect::<Vec<_>>()
        });
        for chosen in minkowski_hull(&choices) {
            let rungs: Vec<Rung> = chosen.iter().zip(&run.rungs).map(|(&at, rungs)| rungs[at]).collect();
            let cost = rungs.iter().map(|rung| FEEDBACK * rung.cost).sum();
            item.add(Pick::Round(rungs.clone()), rungs.iter().map(|rung| rung.bytes).sum(), cost);
        }
        item
    }
}
