//! Routing statistics, seen in a forward pass.

use crate::sums::{columns, cosine, largest, norm};
use moepress_nn::{Expert, Ignore, Routed, Tensor, Watch, to_rows};
use moepress_stats::{Of, Quantity, Statistics, StatisticsError};
use std::collections::BTreeMap;

/// Tokens, gates and outputs per expert, pairs of experts, and the gram of the router logits, of one layer.
pub struct RoutingProbe {
    layer: usize,
    logits: Tensor<2>,
    gates: Vec<f32>,
    chosen: Vec<Vec<u32>>,
    outputs: BTreeMap<usize, Outputs>,
}

/// Sums over the tokens routed to an expert.
struct Outputs {
    norm: f64,
    gated_norm: f64,
    max: f64,
    sum: Vec<f64>,
}

impl RoutingProbe {
    pub fn new(layer: usize, routed: &Routed) -> Self {
        Self {
            layer,
            logits: routed.logits.clone(),
            gates: to_rows(routed.gates.clone()),
            chosen: routed.tokens.clone(),
            outputs: BTreeMap::new(),
        }
    }

    /// Adds what the router did.
    pub fn finish_router(&self, stats: &mut Statistics) -> Result<(), StatisticsError> {
        let (of, experts) = (Of::Layer(self.layer), self.chosen.len());
        let gate = |(expert, tokens): (usize, &Vec<u32>)| -> f64 {
            tokens.iter().map(|&token| f64::from(self.gates[token as usize * experts + expert])).sum()
        };
        let counts = self.chosen.iter().map(|tokens| tokens.len() as f64).collect();
        stats.add(of, Quantity::Tokens, counts)?;
        stats.add(of, Quantity::GateSum, self.chosen.iter().enumerate().map(gate).collect())?;
        stats.add(of, Quantity::Coactivation, self.pairs())?;
        let rows = self.logits.dims()[1];
        let mut gram = vec![0.0; rows * rows];
        for logits in to_rows(self.logits.clone()).chunks_exact(rows) {
            for (sums, &a) in gram.chunks_exact_mut(rows).zip(logits) {
                sums.iter_mut().zip(logits).for_each(|(sum, &b)| *sum += f64::from(a) * f64::from(b));
            }
        }
        stats.add(of, Quantity::RouterGram, gram)
    }

    /// Tokens that each pair of experts shares.
    fn pairs(&self) -> Vec<f64> {
        let experts = self.chosen.len();
        let mut of_token: Vec<Vec<usize>> = vec![Vec::new(); self.logits.dims()[0]];
        for (expert, tokens) in self.chosen.iter().enumerate() {
            tokens.iter().for_each(|&token| of_token[token as usize].push(expert));
        }
        let mut pairs = vec![0.0; experts * experts];
        for chosen in &of_token {
            for &a in chosen {
                chosen.iter().for_each(|&b| pairs[a * experts + b] += 1.0);
            }
        }
        pairs
    }

    /// Adds what the experts returned; those that were not seen count as nothing.
    pub fn finish_outputs(&self, stats: &mut Statistics) -> Result<(), StatisticsError> {
        let per_expert = |f: fn(&Outputs) -> f64| {
            (0..self.chosen.len()).map(|expert| self.outputs.get(&expert).map_or(0.0, f)).collect()
        };
        let of = Of::Layer(self.layer);
        stats.add(of, Quantity::NormSum, per_expert(|outputs| outputs.norm))?;
        stats.add(of, Quantity::GateNormSum, per_expert(|outputs| outputs.gated_norm))?;
        stats.add(of, Quantity::OutputMax, per_expert(|outputs| outputs.max))?;
        self.outputs.iter().try_for_each(|(&expert, outputs)| {
            stats.add(Of::Expert(self.layer, expert), Quantity::OutputSum, outputs.sum.clone())
        })
    }
}

impl Watch for RoutingProbe {
    fn expert(&mut self, expert: usize, output: &Tensor<2>) {
        let [_, hidden] = output.dims();
        let (experts, values) = (self.chosen.len(), to_rows(output.clone()));
        let mut outputs =
            Outputs { norm: 0.0, gated_norm: 0.0, max: largest(&values), sum: columns(&values, hidden) };
        for (row, &token) in values.chunks_exact(hidden).zip(&self.chosen[expert]) {
            let gate = f64::from(self.gates[token as usize * experts + expert]);
            outputs.norm += norm(row);
            outputs.gated_norm += gate * norm(row);
        }
        self.outputs.insert(expert, outputs);
    }
}

/// Adds the cosines of the hidden states before and after the experts of a layer.
pub fn cosines(
    layer: usize,
    before: &Tensor<2>,
    after: &Tensor<2>,
    stats: &mut Statistics,
) -> Result<(), StatisticsError> {
    let [_, hidden] = before.dims();
    let (before, after) = (to_rows(before.clone()), to_rows(after.clone()));
    let sum = before.chunks_exact(hidden).zip(after.chunks_exact(hidden)).map(|(x, y)| cosine(x, y)).sum();
    stats.add(Of::Layer(layer), Quantity::Cosine, vec![sum])
}

/// Adds the outputs of experts summed over all tokens, routed to them or not.
pub fn output_sums<'a>(
    layer: usize,
    experts: impl IntoIterator<Item = (usize, &'a Expert)>,
    input: &Tensor<2>,
    stats: &mut Statistics,
) -> Result<(), StatisticsError> {
    let [_, hidden] = input.dims();
    for (index, expert) in experts {
        let output = to_rows(expert.forward(index, input.clone(), &mut Ignore));
        stats.add(Of::Expert(layer, index), Quantity::AnyOutputSum, columns(&output, hidden))?;
    }
    Ok(())
}
