//! Pairs of experts that could be one.
//!
//! Of two experts whose atoms are matched, A is what it is predicted to cost to put the second in the place of the first,
//! and B the reverse, by the diagonal Fisher of each (budget.md 1): ½ Σᵢⱼ Δᵢⱼ² rᵢ cⱼ / N with Δ their difference. The mean
//! α · first + (1 − α) · second costs (1 − α)² A + α² B, least at α = A / (A + B). That is averaging by Fisher information
//! (Matena and Raffel, arXiv 2111.09832) with one weight per expert.

use crate::CalibrateError;
use crate::measured::{Measured, Weights};
use moepress_numerics::alignment::matching;
use moepress_stats::Merger;
use std::collections::BTreeSet;

/// What tells experts apart whatever the order of their atoms: sums over atoms of gate, up and down. Where one is the
/// other with an error at every weight, the squared distance of sketches is on average that of the matched weights.
pub(crate) struct Sketch {
    expert: usize,
    width: usize,
    sums: Vec<f64>,
}

impl Measured {
    /// None where no token reached it.
    pub fn sketch(&self) -> Option<Sketch> {
        let [gate, up, down] = &self.maps;
        let (width, hidden) = (self.width(), gate.len() / self.width().max(1));
        let mut sums = vec![0.0; 3 * hidden];
        let rows = gate
            .chunks(hidden.max(1))
            .map(|row| (0, row))
            .chain(up.chunks(hidden.max(1)).map(|row| (hidden, row)));
        for (from, row) in rows {
            sums[from..].iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
        }
        for (sum, row) in sums[2 * hidden..].iter_mut().zip(down.chunks(width.max(1))) {
            *sum = row.iter().copied().map(f64::from).sum();
        }
        let reached = self.weights.iter().any(|weights| weights.seen > 0.0);
        reached.then_some(Sketch { expert: self.expert, width, sums })
    }

    /// The same expert with its atoms in this order.
    fn in_order(&self, order: &[usize]) -> Self {
        let pick = |values: &[f64]| order.iter().map(|&atom| values[atom]).collect::<Vec<f64>>();
        let [gate, up, down] = &self.maps;
        let hidden = gate.len() / order.len().max(1);
        let rows = |map: &[f32]| {
            order.iter().flat_map(|&atom| map[atom * hidden..(atom + 1) * hidden].to_vec()).collect()
        };
        let columns = down.chunks(order.len().max(1));
        let down = columns.flat_map(|row| order.iter().map(|&atom| row[atom])).collect();
        let weights = self.weights.iter().map(|weights| {
            let ([gate, up, down], [x, y, atoms]) = (&weights.row, &weights.col);
            let row = [pick(gate), pick(up), down.clone()];
            Weights { seen: weights.seen, row, col: [x.clone(), y.clone(), pick(atoms)] }
        });
        let (weights, maps) = (weights.collect(), [rows(gate), rows(up), down]);
        Self { coupled: pick(&self.coupled), maps, weights, ..*self }
    }

    /// For every atom what it is predicted to cost that its weights become those of `other`.
    fn replaced(&self, other: &Self, tokens: f64) -> Vec<f64> {
        let mut costs = vec![0.0; self.width()];
        for weights in &self.weights {
            for (at, (own, other)) in self.maps.iter().zip(&other.maps).enumerate() {
                let (row, col) = (&weights.row[at], &weights.col[at]);
                let rows = own.chunks(col.len().max(1)).zip(other.chunks(col.len().max(1)));
                for (i, (own, other)) in rows.enumerate() {
                    for (j, (own, other)) in own.iter().zip(other).enumerate() {
                        let atom = if at < 2 { i } else { j };
                        let error = f64::from(own - other).powi(2);
                        costs[atom] += weights.scale(tokens) * row[i] * col[j] * error;
                    }
                }
            }
        }
        costs
    }
}

/// Every expert with the one of its width whose sketch is nearest; of equals the lowest. Each pair once, in order.
pub(crate) fn candidates(sketches: &[Sketch]) -> BTreeSet<[usize; 2]> {
    let distance =
        |a: &Sketch, b: &Sketch| a.sums.iter().zip(&b.sums).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let nearest = |of: &Sketch| {
        let others = sketches.iter().filter(|other| other.expert != of.expert && other.width == of.width);
        let nearest = others.min_by(|a, b| distance(of, a).total_cmp(&distance(of, b)))?;
        Some([of.expert.min(nearest.expert), of.expert.max(nearest.expert)])
    };
    sketches.iter().filter_map(nearest).collect()
}

/// What two experts of one width come to as one; none where it costs no less to drop one of them.
///
/// # Errors
/// Weights that are not finite.
pub(crate) fn merger(
    first: &Measured,
    second: &Measured,
    align: usize,
    tokens: f64,
) -> Result<Option<Merger>, CalibrateError> {
    let second = second.in_order(&matching(&first.maps, &second.maps, first.width()));
    let (a, b) = (first.replaced(&second, tokens), second.replaced(first, tokens));
    let weights = weights(a.iter().sum(), b.iter().sum());
    let mean = |atom: usize| weights[1].powi(2) * a[atom] + weights[0].powi(2) * b[atom];
    let dropped = |of: &Measured| 0.5 * of.coupled.iter().sum::<f64>() / tokens;
    if (0..first.width()).map(mean).sum::<f64>() >= dropped(first).min(dropped(&second)) {
        return Ok(None);
    }
    let values = |at: usize| {
        let both = first.maps[at].iter().zip(&second.maps[at]);
        both.map(|(&a, &b)| (weights[0] * f64::from(a) + weights[1] * f64::from(b)) as f32).collect()
    };
    let merged = Measured {
        maps: [values(0), values(1), values(2)],
        coupled: first.coupled.iter().zip(&second.coupled).map(|(a, b)| a + b).collect(),
        weights: [&first.weights[..], &second.weights].concat(),
        ..*first
    };
    let runs = merged.runs(align, tokens)?;
    let mean = runs.iter().map(|run| run.atoms.iter().map(|&atom| mean(atom)).sum()).collect();
    Ok(Some(Merger { weights, mean, runs }))
}

/// Weights of two experts in their mean, where it costs `a` to put the second in the place of the first and `b` the
/// reverse.
fn weights(a: f64, b: f64) -> [f64; 2] {
    let first = if a + b > 0.0 { a / (a + b) } else { 0.5 };
    [first, 1.0 - first]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: usize = 4;

    fn noise(salt: usize, n: usize) -> Vec<f64> {
        (0..n).map(|at| ((at * 7919 + salt * 104_729) % 1009) as f64 / 1009.0).collect()
    }

    fn expert(number: usize, width: usize) -> Measured {
        let n = |at: usize, n: usize| noise(10 * number + at, n);
        let map = |at| n(at, width * HIDDEN).into_iter().map(|w| w as f32 - 0.5).collect();
        let (gate, up, down) = (n(3, width), n(4, width), n(5, HIDDEN));
        let (x, h) = (n(6, HIDDEN), n(7, width));
        let weights = Weights { seen: 5.0, row: [gate, up, down], col: [x.clone(), x, h] };
        // Too much to be dropped.
        let coupled = n(8, width).into_iter().map(|score| 100.0 + score).collect();
        Measured { layer: 2, expert: number, maps: [map(0), map(1), map(2)], coupled, weights: vec![weights] }
    }

    /// ½ Σ rᵢ cⱼ Δᵢⱼ² / N / tokens of one expert becoming `to`.
    fn cost(of: &Measured, to: &[Vec<f32>; 3], tokens: f64) -> f64 {
        let weights = &of.weights[0];
        let mut sum = 0.0;
        for (at, (own, to)) in of.maps.iter().zip(to).enumerate() {
            let cols = weights.col[at].len();
            for (place, (a, b)) in own.iter().zip(to).enumerate() {
                let weight = weights.row[at][place / cols] * weights.col[at][place % cols];
                sum += weight * f64::from(a - b).powi(2);
            }
        }
        0.5 * sum / weights.seen / tokens
    }

    #[test]
    fn no_mean_of_any_order_and_weight_is_predicted_to_cost_less_than_the_best_of_the_matched() {
        let (first, second) = (expert(1, 3), expert(2, 3));
        let found = merger(&first, &second, 1, 7.0).unwrap().unwrap();
        let matched = second.in_order(&matching(&first.maps, &second.maps, 3));
        let at = |weight: f32| {
            let mean = |at: usize| -> Vec<f32> {
                let both = first.maps[at].iter().zip(&matched.maps[at]);
                both.map(|(a, b)| weight * a + (1.0 - weight) * b).collect()
            };
            let mean = [mean(0), mean(1), mean(2)];
            cost(&first, &mean, 7.0) + cost(&matched, &mean, 7.0)
        };
        let all: f64 = found.mean.iter().sum();
        assert!((all - at(found.weights[0] as f32)).abs() < 1e-5 * all);
        assert!((0..=50).all(|step| at(step as f32 / 50.0) > all * (1.0 - 1e-6)));
        assert_eq!(found.weights[0] + found.weights[1], 1.0);
        // Atoms go for both experts.
        for run in &found.runs {
            let atom = run.atoms[0];
            let wanted = 0.5 * (first.coupled[atom] + matched.coupled[atom]) / 7.0;
            assert!((run.dropped - wanted).abs() < 1e-12);
        }
    }

    #[test]
    fn an_expert_in_another_order_is_the_same_expert() {
        let first = expert(1, 5);
        let other = Measured { expert: 3, ..first.in_order(&[3, 1, 4, 0, 2]) };
        let found = merger(&first, &other, 2, 7.0).unwrap().unwrap();
        assert_eq!((found.weights, found.mean), ([0.5, 0.5], vec![0.0; 3]));
        // Rounding and dropping cost both of them the same.
        for (of_both, of_one) in found.runs.iter().zip(first.runs(2, 7.0).unwrap()) {
            assert_eq!((&of_both.atoms, of_both.dropped), (&of_one.atoms, 2.0 * of_one.dropped));
            for (of_both, of_one) in of_both.rungs.iter().flatten().zip(of_one.rungs.iter().flatten()) {
                assert_eq!((of_both.bytes, of_both.step), (of_one.bytes, of_one.step));
                assert!((of_both.cost - 2.0 * of_one.cost).abs() <= 1e-12 * of_one.cost);
            }
        }
        let sketches = [expert(0, 5), first, expert(2, 5), other, expert(4, 6)];
        let sketches: Vec<Sketch> = sketches.iter().filter_map(Measured::sketch).collect();
        let found = candidates(&sketches);
        assert!(found.contains(&[1, 3]) && found.iter().all(|pair| !pair.contains(&4)), "{found:?}");
    }

    #[test]
    fn what_matters_to_nobody_is_dropped_rather_than_merged() {
        let (first, mut second) = (expert(1, 3), expert(2, 3));
        second.coupled = vec![0.0; 3];
        assert_eq!(merger(&first, &second, 1, 7.0).unwrap(), None);
        second.weights[0].seen = 0.0;
        assert!(second.sketch().is_none());
    }
}
