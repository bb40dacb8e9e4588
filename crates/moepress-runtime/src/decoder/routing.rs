//! From router logits to experts and their gates.

use moepress_kernels::softmax;
use moepress_model::{Routing, Scores, sparse_mixer};

/// The rows that a token goes to, ascending, with their gates.
pub(crate) fn gates(routing: &Routing, correction: Option<&[f32]>, logits: &[f32]) -> Vec<(usize, f32)> {
    let mut scores = logits.to_vec();
    match routing.scores {
        Scores::SparseMixer { jitter } => return mixed(logits, jitter),
        Scores::Softmax => softmax(&mut scores, None),
        Scores::Sigmoid => scores.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
    }
    // Softmax keeps the order of the logits and loses less of it.
    let ranked = match (routing.scores, correction) {
        (Scores::Softmax, None) => logits,
        _ => &scores,
    };
    let chosen = routing.choose(ranked, correction);
    let sum = match routing.renormalise {
        // Not `max`, which would hide NaN.
        Some(floor) => match chosen.iter().map(|&row| scores[row]).sum::<f32>() {
            sum if sum < floor as f32 => floor as f32,
            sum => sum,
        },
        None => 1.0,
    };
    let scale = routing.scale as f32;
    chosen.into_iter().map(|row| (row, scores[row] / sum * scale)).collect()
}

/// SparseMixer: two rows, each weighted by a softmax over the rows near it.
fn mixed(logits: &[f32], jitter: f64) -> Vec<(usize, f32)> {
    let weight = |mixed: moepress_model::Mixed| {
        let near = |row: usize| if mixed.near[row] { logits[row] } else { f32::NEG_INFINITY };
        let mut weights: Vec<f32> = (0..logits.len()).map(near).collect();
        softmax(&mut weights, None);
        (mixed.row, weights[mixed.row])
    };
    let mut chosen: Vec<_> = sparse_mixer(logits, jitter).into_iter().map(weight).collect();
    chosen.sort_unstable_by_key(|&(row, _)| row);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_over_all_renormalised_and_scaled() {
        let routing = Routing {
            top_k: 2,
            scores: Scores::Softmax,
            bias: false,
            correction: false,
            groups: None,
            renormalise: Some(0.0),
            scale: 2.0,
        };
        let logits = [0.0, 3f32.ln(), -9.0, 1f32.ln() + 1e-3];
        let found = gates(&routing, None, &logits);
        assert_eq!(found.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 3]);
        assert!((found[0].1 - 1.5).abs() < 1e-3 && (found[1].1 - 0.5).abs() < 1e-3);
        // The correction chooses and does not weigh.
        let corrected =
            gates(&Routing { renormalise: None, ..routing }, Some(&[9.0, 0.0, 9.0, 0.0]), &logits);
        assert_eq!(corrected.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 2]);
        assert!((corrected[0].1 - 0.4).abs() < 1e-3);
    }
}
