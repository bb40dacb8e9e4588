//! Router logits and gates by the text that tokens are from.

use crate::chunk::Chunk;
use moepress_model::Moe;
use moepress_nn::{Routed, to_rows};
use moepress_stats::{Of, Quantity, Statistics, StatisticsError};

/// Adds the router logits that are among the `top_k` largest of their token, each under its place among them, and
/// the gates (TCESS, PreMoe, arXiv 2505.17639). Of equal logits the lower row is before the other. Rows that lead to
/// one expert add up.
pub fn text_sums(
    layer: usize,
    moe: &Moe,
    routed: &Routed,
    chunk: &Chunk,
    texts: usize,
    stats: &mut Statistics,
) -> Result<(), StatisticsError> {
    let (rows, experts, places) = (moe.router.len(), moe.experts.len(), moe.routing.top_k);
    let mut logit_sums = vec![0.0; texts * places * experts];
    let mut gate_sums = vec![0.0; texts * experts];
    let (logits, gates) = (to_rows(routed.logits.clone()), to_rows(routed.gates.clone()));
    for (token, (logits, gates)) in logits.chunks_exact(rows).zip(gates.chunks_exact(experts)).enumerate() {
        let text = chunk.text_of(token);
        let mut order: Vec<usize> = (0..rows).collect();
        order.sort_unstable_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        for (place, &row) in order.iter().take(places).enumerate() {
            logit_sums[(text * places + place) * experts + moe.router[row]] += f64::from(logits[row]);
        }
        let sums = &mut gate_sums[text * experts..][..experts];
        sums.iter_mut().zip(gates).for_each(|(sum, &gate)| *sum += f64::from(gate));
    }
    stats.add(Of::Layer(layer), Quantity::TextLogits, logit_sums)?;
    stats.add(Of::Layer(layer), Quantity::TextGates, gate_sums)
}
