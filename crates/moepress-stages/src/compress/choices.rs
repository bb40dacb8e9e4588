//! What may become of an expert or of another matrix at a price of a byte.
//!
//! At a price λ an expert is best cut into segments, each dropped, rounded or left, where Σ cost + λ · bytes is least: a
//! dynamic programme over its runs, the most salient first. Plans at falling prices lie on the lower convex hull of
//! (bytes, cost), which is all that a budget asks for (Everett, "Generalized Lagrange multiplier method", 1963).

use moepress_model::Projection;
use moepress_numerics::knapsack::Choice;
use moepress_quant::formats::Rung;
use moepress_stats::RunLadder;
use std::collections::BTreeMap;
use std::ops::Range;

/// What rounding costs beside what its errors to nearest would: later columns and `down_proj` make up for about half
/// of them, for nothing of what is dropped. With all of it (1) too many atoms go: the demo model at 25, 15, 10 and 7 % of its
/// experts' bytes then loses .0007, .0196, .0674 and .1553 nats in place of .0008, .0135, .0520 and .1373.
const FEEDBACK: f64 = 0.5;

/// Neighbouring runs that are stored alike.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Segment {
    /// Runs, by rank.
    pub(super) runs: Range<usize>,
    /// Grids of gate, up and down with the bytes they may take; none where the atoms stay as they are.
    pub(super) rungs: Option<[Rung; 3]>,
}

/// What becomes of an expert; runs in no segment are dropped.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) segments: Vec<Segment>,
    pub(super) bytes: u64,
    pub(super) cost: f64,
}

impl Plan {
    pub(super) fn choice(&self) -> Choice {
        Choice { bytes: self.bytes, cost: self.cost }
    }
}

/// Sums over the runs before each, of one step of one projection.
struct Column {
    step: f32,
    /// Runs for which the ladder has no such step.
    missing: Vec<u32>,
    bytes: Vec<u64>,
    cost: Vec<f64>,
}

/// An expert ready to be planned at any price.
pub(super) struct Expert {
    /// Predicted loss of all runs as they are; none but of means.
    mean: f64,
    /// Predicted loss of dropping each run, above that.
    dropped: Vec<f64>,
    /// Bytes of each run as it is.
    plain: Vec<u64>,
    columns: [Vec<Column>; 3],
    rungs: Vec<[Vec<Rung>; 3]>,
    most: usize,
}

impl Expert {
    /// Runs, most salient first, `plain` the bytes of each as it is, and the most segments.
    pub(super) fn new(runs: &[RunLadder], plain: Vec<u64>, most: usize) -> Self {
        let columns = Projection::ALL.map(|projection| columns(runs, projection));
        Self {
            mean: 0.0,
            dropped: runs.iter().map(|run| run.dropped).collect(),
            plain,
            columns,
            rungs: runs.iter().map(|run| run.rungs.clone()).collect(),
            most,
        }
    }

    /// The same of an expert whose runs cost that much by being means, as long as they stay.
    pub(super) fn of_means(self, mean: &[f64]) -> Self {
        let dropped = self.dropped.iter().zip(mean).map(|(dropped, mean)| dropped - mean).collect();
        Self { mean: mean.iter().sum(), dropped, ..self }
    }

    /// Bytes of each run as it is.
    pub(super) fn plain(&self) -> &[u64] {
        &self.plain
    }

    /// Nothing changes.
    pub(super) fn kept(&self) -> Plan {
        let all = 0..self.plain.len();
        let segments = if all.is_empty() { vec![] } else { vec![Segment { runs: all, rungs: None }] };
        Plan { segments, bytes: self.plain.iter().sum(), cost: self.mean }
    }

    /// All atoms go.
    pub(super) fn emptied(&self) -> Plan {
        Plan { segments: vec![], bytes: 0, cost: self.mean + self.dropped.iter().sum::<f64>() }
    }

    /// The best plan at that price, nats per byte; of equals the one with fewer segments.
    pub(super) fn plan(&self, price: f64) -> Plan {
        let count = self.dropped.len();
        // Least score of the first runs in so many segments, and where the last step came from.
        let mut best = vec![vec![(f64::INFINITY, None); count + 1]; self.most + 1];
        best[0][0].0 = 0.0;
        for end in 1..=count {
            let ways: Vec<(usize, f64)> =
                (0..end).map(|start| (start, self.score(start..end, price))).collect();
            for used in 0..=self.most {
                // The last run is dropped.
                best[used][end] = (best[used][end - 1].0 + self.dropped[end - 1], None);
                for &(start, score) in ways.iter().filter(|_| used > 0) {
                    let score = best[used - 1][start].0 + score;
                    if score < best[used][end].0 {
                        best[used][end] = (score, Some(start));
                    }
                }
            }
        }
        let mut used = (0..=self.most)
            .fold(0, |least, n| if best[n][count].0 < best[least][count].0 { n } else { least });
        let (mut end, mut plan) = (count, Plan { cost: self.mean, ..Plan::default() });
        while end > 0 {
            match best[used][end].1 {
                None => {
                    plan.cost += self.dropped[end - 1];
                    end -= 1;
                }
                Some(start) => {
                    let (segment, bytes, cost) = self.segment(start..end, price);
                    plan.segments.push(segment);
                    (plan.bytes, plan.cost) = (plan.bytes + bytes, plan.cost + cost);
                    (end, used) = (start, used - 1);
                }
            }
        }
        plan.segments.reverse();
        plan
    }

    /// The step of a projection that is best for these runs at that price, with its score.
    fn step(&self, projection: usize, runs: &Range<usize>, price: f64) -> Option<(&Column, f64)> {
        let fits = |column: &&Column| column.missing[runs.end] == column.missing[runs.start];
        let score = |column: &Column| {
            let bytes = (column.bytes[runs.end] - column.bytes[runs.start]) as f64;
            FEEDBACK * (column.cost[runs.end] - column.cost[runs.start]) + price * bytes
        };
        let scored = self.columns[projection].iter().filter(fits).map(|column| (column, score(column)));
        scored.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn plain_score(&self, runs: &Range<usize>, price: f64) -> f64 {
        price * self.plain[runs.clone()].iter().sum::<u64>() as f64
    }

    /// Cost + price · bytes of runs as one segment.
    fn score(&self, runs: Range<usize>, price: f64) -> f64 {
        let rounded = (0..3)
            .map(|projection| self.step(projection, &runs, price).map_or(f64::INFINITY, |(_, score)| score));
        rounded.sum::<f64>().min(self.plain_score(&runs, price))
    }

    fn segment(&self, runs: Range<usize>, price: f64) -> (Segment, u64, f64) {
        let steps = [0, 1, 2].map(|projection| self.step(projection, &runs, price));
        let plain = self.plain[runs.clone()].iter().sum();
        let ([Some(gate), Some(up), Some(down)], score) = (steps, self.score(runs.clone(), price)) else {
            return (Segment { runs, rungs: None }, plain, 0.0);
        };
        if self.plain_score(&runs, price) <= score {
            return (Segment { runs, rungs: None }, plain, 0.0);
        }
        let rung = |projection: usize, column: &Column| {
            // The widest of the formats that the runs ask for.
            let all = self.rungs[runs.clone()].iter().flat_map(|run| &run[projection]);
            let widest = all.filter(|rung| rung.step == column.step).max_by_key(|rung| rung.format.levels());
            widest.map(|rung| Rung {
                bytes: column.bytes[runs.end] - column.bytes[runs.start],
                cost: FEEDBACK * (column.cost[runs.end] - column.cost[runs.start]),
                ..*rung
            })
        };
        let [Some(gate), Some(up), Some(down)] = [rung(0, gate.0), rung(1, up.0), rung(2, down.0)] else {
            return (Segment { runs, rungs: None }, plain, 0.0);
        };
        let rungs = [gate, up, down];
        let (bytes, cost) =
            rungs.iter().fold((0, 0.0), |(bytes, cost), rung| (bytes + rung.bytes, cost + rung.cost));
        (Segment { runs, rungs: Some(rungs) }, bytes, cost)
    }
}

fn columns(runs: &[RunLadder], projection: Projection) -> Vec<Column> {
    let of = |run: &RunLadder| -> BTreeMap<u32, Rung> {
        run.rungs[projection as usize].iter().map(|rung| (rung.step.to_bits(), *rung)).collect()
    };
    let ladders: Vec<BTreeMap<u32, Rung>> = runs.iter().map(of).collect();
    let mut steps: Vec<u32> = ladders.iter().flat_map(|ladder| ladder.keys().copied()).collect();
    steps.sort_unstable();
    steps.dedup();
    let column = |step: u32| {
        let mut column =
            Column { step: f32::from_bits(step), missing: vec![0], bytes: vec![0], cost: vec![0.0] };
        for (at, ladder) in ladders.iter().enumerate() {
            let rung = ladder.get(&step);
            column.missing.push(column.missing[at] + u32::from(rung.is_none()));
            column.bytes.push(column.bytes[at] + rung.map_or(0, |rung| rung.bytes));
            column.cost.push(column.cost[at] + rung.map_or(0.0, |rung| rung.cost));
        }
        column
    };
    steps.into_iter().map(column).collect()
}

/// Choices of a matrix that is rounded as a whole: as it is, then every rung.
pub(super) fn matrix_choices(rungs: &[Rung], plain: u64) -> Vec<Choice> {
    let rounded = rungs.iter().map(|rung| Choice { bytes: rung.bytes, cost: FEEDBACK * rung.cost });
    [Choice { bytes: plain, cost: 0.0 }].into_iter().chain(rounded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_quant::formats::half_power;
    use moepress_quant::{Code, Grouped};

    fn rung(exponent: i32, bytes: u64, cost: f64) -> Rung {
        let format = Grouped::new(Code::Int(4), Grouped::ROW, true);
        Rung { format, step: half_power(exponent), bytes, cost }
    }

    /// Five runs with ladders of three steps, not all the same.
    fn runs() -> Vec<RunLadder> {
        let run = |at: usize| RunLadder {
            atoms: vec![at],
            dropped: [40.0, 3.0, 9.0, 0.9, 0.1][at],
            rungs: [0, 1, 2].map(|p| {
                let weight = [4.0, 0.6, 2.0, 0.3, 0.05][at] * (1.0 + p as f64 / 4.0);
                (0..3)
                    .map(|s| rung(at as i32 % 2 + s, 12 - 4 * s as u64 + p as u64, weight * 4f64.powi(s)))
                    .collect()
            }),
        };
        (0..5).map(run).collect()
    }

    /// The best score over every way to drop runs, cut the others and choose steps.
    fn brute_force(expert: &Expert, from: usize, left: usize, price: f64) -> f64 {
        if from == expert.dropped.len() {
            return 0.0;
        }
        let mut best = expert.dropped[from] + brute_force(expert, from + 1, left, price);
        for end in from + 1..=expert.dropped.len() {
            if left > 0 {
                let mut here = expert.plain_score(&(from..end), price);
                let mut rounded = 0.0;
                for projection in 0..3 {
                    let steps = expert.rungs[from][projection].iter().map(|first| {
                        let same = |run: &[Vec<Rung>; 3]| {
                            run[projection].iter().find(|r| r.step == first.step).copied()
                        };
                        let all: Option<Vec<Rung>> = expert.rungs[from..end].iter().map(same).collect();
                        all.map_or(f64::INFINITY, |all| {
                            all.iter().map(|rung| FEEDBACK * rung.cost + price * rung.bytes as f64).sum()
                        })
                    });
                    rounded += steps.fold(f64::INFINITY, f64::min);
                }
                here = here.min(rounded);
                best = best.min(here + brute_force(expert, end, left - 1, price));
            }
        }
        best
    }

    #[test]
    fn plans_are_the_best_of_all() {
        for most in 1..=5 {
            let expert = Expert::new(&runs(), vec![96; 5], most);
            let mut last = u64::MAX;
            for price in [0.0, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0] {
                let plan = expert.plan(price);
                let score = plan.cost + price * plan.bytes as f64;
                let wanted = brute_force(&expert, 0, most, price);
                assert!((score - wanted).abs() < 1e-9 * (1.0 + wanted), "{most} {price}: {score} {wanted}");
                assert!(plan.segments.len() <= most && plan.bytes <= last);
                last = plan.bytes;
            }
            assert_eq!(expert.plan(0.0).cost, 0.0);
            assert_eq!(expert.plan(1e9), expert.emptied());
        }
    }
}
