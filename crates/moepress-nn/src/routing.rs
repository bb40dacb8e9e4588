//! From router logits to experts and their gates.

use crate::ops::{from_rows, times, to_rows};
use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Bool, Device, Tensor, TensorData};
use moepress_model::{GroupRank, Routing, RowGroups, Scores};

/// The rows chosen per token, `top_k` each, and the weights of all rows `[tokens, rows]`, zero where not chosen.
/// Differentiable in the weights with the choice held fixed.
pub(crate) fn choose(
    routing: &Routing,
    correction: Option<&[f32]>,
    logits: Tensor<2>,
) -> (Vec<Vec<usize>>, Tensor<2>) {
    let scores = match routing.scores {
        Scores::SparseMixer { jitter } => return sparse_mixer(logits, jitter),
        Scores::Softmax => softmax(logits.clone(), 1),
        Scores::Sigmoid => sigmoid(logits.clone()),
    };
    let [tokens, rows] = logits.dims();
    // Softmax keeps the order of the logits and loses less of it.
    let ranked = match (routing.scores, correction) {
        (Scores::Softmax, None) => to_rows(logits),
        _ => to_rows(scores.clone()),
    };
    let mut mask = vec![0.0; tokens * rows];
    let chosen: Vec<Vec<usize>> = ranked
        .chunks_exact(rows)
        .zip(mask.chunks_exact_mut(rows))
        .map(|(ranked, mask)| {
            let mut ranked = ranked.to_vec();
            if let Some(correction) = correction {
                ranked.iter_mut().zip(correction).for_each(|(score, bias)| *score += bias);
            }
            if let Some(groups) = routing.groups {
                leave_groups(&mut ranked, groups);
            }
            let chosen = largest(&ranked, routing.top_k);
            chosen.iter().for_each(|&row| mask[row] = 1.0);
            chosen
        })
        .collect();
    let mut gates = scores.clone() * from_rows(mask, [tokens, rows], &scores.device());
    if let Some(floor) = routing.renormalise {
        let sum = gates.clone().sum_dim(1);
        gates = gates / if floor > 0.0 { sum.clamp_min(floor) } else { sum };
    }
    (chosen, times(gates, routing.scale))
}

/// The `count` largest by value, ties to the lower index.
fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.select_nth_unstable_by(count - 1, |&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// Makes every row outside the best groups impossible to choose.
fn leave_groups(ranked: &mut [f32], groups: RowGroups) {
    let size = ranked.len() / groups.count;
    let rank = |rows: &[f32]| match groups.rank {
        GroupRank::Largest => rows.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        GroupRank::TopTwo => largest(rows, size.min(2)).into_iter().map(|row| rows[row]).sum(),
    };
    let ranks: Vec<f32> = ranked.chunks_exact(size).map(rank).collect();
    let kept = largest(&ranks, groups.kept);
    for (group, rows) in ranked.chunks_exact_mut(size).enumerate() {
        if kept.binary_search(&group).is_err() {
            rows.fill(f32::NEG_INFINITY);
        }
    }
}

/// Two rows, one after the other, each weighted by a softmax over the rows that come near the largest one left.
fn sparse_mixer(logits: Tensor<2>, jitter: f64) -> (Vec<Vec<usize>>, Tensor<2>) {
    let [tokens, rows] = logits.dims();
    let values = to_rows(logits.clone());
    let (mut far, mut picked) =
        ([(); 2].map(|()| vec![false; tokens * rows]), [(); 2].map(|()| vec![0.0; tokens * rows]));
    let mut chosen = Vec::with_capacity(tokens);
    for (token, values) in values.chunks_exact(rows).enumerate() {
        let mut pair = Vec::with_capacity(2);
        for round in 0..2 {
            let left = |row: &usize| !pair.contains(row);
            let best = (0..rows).filter(left).reduce(|a, b| if values[b] > values[a] { b } else { a });
            let Some(best) = best else { break };
            let most = values[best];
            for row in 0..rows {
                let distance = (most - values[row]) / values[row].abs().max(most);
                far[round][token * rows + row] = !left(&row) || f64::from(distance) > 2.0 * jitter;
            }
            picked[round][token * rows + best] = 1.0;
            pair.push(best);
        }
        pair.sort_unstable();
        chosen.push(pair);
    }
    let device = logits.device();
    let weights = far.into_iter().zip(picked).map(|(far, picked)| {
        let near = logits.clone().mask_fill(mask(far, [tokens, rows], &device), f32::NEG_INFINITY);
        softmax(near, 1) * from_rows(picked, [tokens, rows], &device)
    });
    let gates = weights.reduce(|a, b| a + b).unwrap_or(logits);
    (chosen, gates)
}

fn mask(values: Vec<bool>, shape: [usize; 2], device: &Device) -> Tensor<2, Bool> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_ranked_and_left() {
        let groups = |kept, rank| RowGroups { count: 3, kept, rank };
        let scores = [0.9, 0.0, 0.5, 0.6, 0.7, 0.1];
        let mut largest = scores;
        leave_groups(&mut largest, groups(1, GroupRank::Largest));
        assert_eq!(largest.map(|x| x.is_finite()), [true, true, false, false, false, false]);
        let mut two = scores;
        leave_groups(&mut two, groups(1, GroupRank::TopTwo));
        assert_eq!(two.map(|x| x.is_finite()), [false, false, true, true, false, false]);
    }

    #[test]
    fn ties_go_to_the_lower_row() {
        assert_eq!(largest(&[1.0, 2.0, 2.0, 2.0], 2), [1, 2]);
    }
    #[test]
    fn tokens_whose_rows_survive_keep_their_gates() {
        let kept = [0, 2, 3, 5];
        // The best two of the first two tokens survive, those of the third do not.
        let logits = [
            [2.0, -1.0, 1.5, 0.0, 0.5, -2.0],
            [-1.0, 0.25, 0.0, 3.0, 0.5, 1.0],
            [0.0, 3.0, 1.0, 0.5, 2.0, -1.0],
        ];
        let device = Device::default();
        let cut: Vec<f32> = logits.iter().flat_map(|row| kept.map(|e| row[e])).collect();
        let gates = |values: Vec<f32>, rows: usize, renormalise| {
            let routing = Routing {
                top_k: 2,
                scores: Scores::Softmax,
                bias: false,
                correction: false,
                groups: None,
                renormalise,
                scale: 1.0,
            };
            let (chosen, gates) = choose(&routing, None, from_rows(values, [3, rows], &device));
            (chosen, to_rows(gates))
        };
        for renormalise in [Some(0.0), None] {
            let (before, whole) = gates(logits.concat(), 6, renormalise);
            let (after, pruned) = gates(cut.clone(), 4, renormalise);
            for token in 0..2 {
                let back: Vec<usize> = after[token].iter().map(|&row| kept[row]).collect();
                assert_eq!(back, before[token]);
                // Without renormalisation the sum of the softmax runs over fewer rows.
                let sum = |values: &[f32]| values.iter().map(|&z| f64::from(z).exp()).sum::<f64>();
                let ratio = match renormalise {
                    Some(_) => 1.0,
                    None => sum(&logits[token]) / sum(&cut[token * 4..][..4]),
                };
                for (row, &old) in kept.iter().enumerate() {
                    let wanted = ratio * f64::from(whole[token * 6 + old]);
                    assert!((f64::from(pruned[token * 4 + row]) - wanted).abs() < 1e-6);
                }
            }
            assert_ne!(after[2].iter().map(|&row| kept[row]).collect::<Vec<_>>(), before[2]);
        }
    }
}
