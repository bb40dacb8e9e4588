//! Routing statistics, seen in a forward pass.

use crate::sums::norm;
use moepress_nn::{Routed, Tensor, Watch, to_rows};
use moepress_stats::{Of, Quantity, Statistics, StatisticsError};

/// Tokens, gates and output norms per expert, and the gram of the router logits, of one layer.
pub struct RoutingProbe {
    layer: usize,
    gates: Vec<f32>,
    chosen: Vec<Vec<u32>>,
    gram: Vec<f64>,
    norms: Vec<f64>,
    gated_norms: Vec<f64>,
}

impl RoutingProbe {
    pub fn new(layer: usize) -> Self {
        let (gates, chosen, gram) = Default::default();
        Self { layer, gates, chosen, gram, norms: vec![], gated_norms: vec![] }
    }

    /// Adds what was seen; nothing for a layer without experts.
    pub fn finish(self, stats: &mut Statistics) -> Result<(), StatisticsError> {
        let experts = self.chosen.len();
        if experts == 0 {
            return Ok(());
        }
        let of = Of::Layer(self.layer);
        let gate = |(expert, tokens): (usize, &Vec<u32>)| -> f64 {
            tokens.iter().map(|&token| f64::from(self.gates[token as usize * experts + expert])).sum()
        };
        let counts = self.chosen.iter().map(|tokens| tokens.len() as f64).collect();
        stats.add(of, Quantity::Tokens, counts)?;
        stats.add(of, Quantity::GateSum, self.chosen.iter().enumerate().map(gate).collect())?;
        stats.add(of, Quantity::NormSum, self.norms)?;
        stats.add(of, Quantity::GateNormSum, self.gated_norms)?;
        stats.add(of, Quantity::RouterGram, self.gram)
    }
}

impl Watch for RoutingProbe {
    fn routed(&mut self, routed: &Routed) {
        let rows = routed.logits.dims()[1];
        self.gram = vec![0.0; rows * rows];
        for logits in to_rows(routed.logits.clone()).chunks_exact(rows) {
            for (sums, &a) in self.gram.chunks_exact_mut(rows).zip(logits) {
                sums.iter_mut().zip(logits).for_each(|(sum, &b)| *sum += f64::from(a) * f64::from(b));
            }
        }
        self.gates = to_rows(routed.gates.clone());
        self.chosen = routed.tokens.clone();
        self.norms = vec![0.0; self.chosen.len()];
        self.gated_norms = vec![0.0; self.chosen.len()];
    }

    fn expert(&mut self, expert: usize, output: &Tensor<2>) {
        let [_, hidden] = output.dims();
        let experts = self.chosen.len();
        for (row, &token) in to_rows(output.clone()).chunks_exact(hidden).zip(&self.chosen[expert]) {
            let gate = f64::from(self.gates[token as usize * experts + expert]);
            self.norms[expert] += norm(row);
            self.gated_norms[expert] += gate * norm(row);
        }
    }
}
