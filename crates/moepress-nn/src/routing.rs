//! From router logits to experts and their gates.

use crate::ops::{from_rows, times, to_rows};
use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Bool, Device, Tensor, TensorData};
use moepress_model::{Mixed, Routing, Scores};

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
            let chosen = routing.choose(ranked, correction);
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

/// Two rows, one after the other, each weighted by a softmax over the rows that come near the largest one left.
fn sparse_mixer(logits: Tensor<2>, jitter: f64) -> (Vec<Vec<usize>>, Tensor<2>) {
    let [tokens, rows] = logits.dims();
    let values = to_rows(logits.clone());
    let (mut far, mut picked) =
        ([(); 2].map(|()| vec![false; tokens * rows]), [(); 2].map(|()| vec![0.0; tokens * rows]));
    let mut chosen = Vec::with_capacity(tokens);
    for (token, values) in values.chunks_exact(rows).enumerate() {
        let mixed = moepress_model::sparse_mixer(values, jitter);
        for (round, Mixed { row, near }) in mixed.iter().enumerate() {
            let at = token * rows..(token + 1) * rows;
            far[round][at].iter_mut().zip(near).for_each(|(far, near)| *far = !near);
            picked[round][token * rows + row] = 1.0;
        }
        let mut pair: Vec<usize> = mixed.iter().map(|mixed| mixed.row).collect();
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
