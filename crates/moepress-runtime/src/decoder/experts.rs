//! A router, its experts, and the expert that every token goes through.

use super::{Gated, Map, Pass, add, gated, routing};
use crate::RuntimeError;
use moepress_kernels::{Activations, Precision};
use moepress_model::Routing;
use rayon::prelude::*;

/// Tokens from which on they are routed on all threads.
const MANY: usize = 32;

/// The mixture of one layer but for its routed experts, which a store holds.
pub(crate) struct Experts {
    pub(crate) routing: Routing,
    /// Router row → expert.
    pub(crate) rows: Vec<usize>,
    pub(crate) router: Map,
    pub(crate) correction: Option<Vec<f32>>,
    /// Number of experts.
    pub(crate) count: usize,
    pub(crate) shared: Option<(Gated, Option<Map>)>,
}

/// The tokens of an expert, ascending, and what its output for each is multiplied by.
#[derive(Default)]
struct Routed {
    tokens: Vec<usize>,
    gates: Vec<f32>,
}

impl Experts {
    /// `[tokens, hidden]` of normed hidden states → the weighted sum of the chosen experts, and the shared one.
    pub(crate) fn forward(
        &self,
        layer: usize,
        x: &[f32],
        tokens: usize,
        pass: &Pass<'_>,
    ) -> Result<Vec<f32>, RuntimeError> {
        let hidden = x.len() / tokens;
        let routed = self.route(x, tokens)?;
        let used: Vec<usize> = (0..self.count).filter(|&expert| !routed[expert].tokens.is_empty()).collect();
        let experts = pass.experts.experts(layer, &used)?;

        let all = Activations::new(x, tokens, pass.precision);
        // Where all tokens go to an expert, as when there is only one, they need not be gathered.
        let gathered: Vec<Option<Vec<f32>>> = used
            .iter()
            .map(|&expert| {
                let rows = &routed[expert].tokens;
                let gather = || rows.iter().flat_map(|&token| &x[token * hidden..(token + 1) * hidden]);
                (rows.len() < tokens).then(|| gather().copied().collect())
            })
            .collect();
        let inputs: Vec<Option<Activations<'_>>> = gathered
            .iter()
            .zip(&used)
            .map(|(rows, &expert)| {
                let count = routed[expert].tokens.len();
                rows.as_ref().map(|rows| Activations::new(rows, count, pass.precision))
            })
            .collect();
        let mut mlps: Vec<(&Activations<'_>, &Gated)> = Vec::new();
        for (input, expert) in inputs.iter().zip(&experts) {
            mlps.extend(expert.segments.iter().map(|segment| (input.as_ref().unwrap_or(&all), segment)));
        }
        mlps.extend(self.shared.iter().map(|(shared, _)| (&all, shared)));
        let mut outputs = gated::forward(&mlps, pass.precision)?.into_iter();

        let mut sum = vec![0.0; x.len()];
        for (&index, expert) in used.iter().zip(&experts) {
            let Routed { tokens, gates } = &routed[index];
            let mut own = vec![0.0; tokens.len() * hidden];
            for y in outputs.by_ref().take(expert.segments.len()) {
                add(&mut own, &y, 1.0);
            }
            if let Some(bias) = &expert.bias {
                own.chunks_exact_mut(hidden).for_each(|row| add(row, bias, 1.0));
            }
            for ((&token, &gate), row) in tokens.iter().zip(gates).zip(own.chunks_exact(hidden)) {
                let sum = &mut sum[token * hidden..(token + 1) * hidden];
                sum.iter_mut().zip(row).for_each(|(sum, y)| *sum += y * gate);
            }
        }
        if let (Some((_, gate)), Some(mut y)) = (&self.shared, outputs.next()) {
            if let Some(gate) = gate {
                let logits = gate.forward(&Activations::new(x, tokens, Precision::Exact))?;
                for (row, logit) in y.chunks_exact_mut(hidden).zip(logits) {
                    let factor = 1.0 / (1.0 + (-logit).exp());
                    row.iter_mut().for_each(|y| *y *= factor);
                }
            }
            add(&mut sum, &y, 1.0);
        }
        Ok(sum)
    }

    /// Where the tokens go, by expert. Always exact: a choice that flips costs more than a rounded product.
    fn route(&self, x: &[f32], tokens: usize) -> Result<Vec<Routed>, RuntimeError> {
        let logits = self.router.forward(&Activations::new(x, tokens, Precision::Exact))?;
        let gates = |logits: &[f32]| routing::gates(&self.routing, self.correction.as_deref(), logits);
        let chosen: Vec<_> = match tokens < MANY {
            true => logits.chunks_exact(self.rows.len()).map(gates).collect(),
            false => logits.par_chunks_exact(self.rows.len()).map(gates).collect(),
        };
        let mut routed: Vec<Routed> = (0..self.count).map(|_| Routed::default()).collect();
        for (token, gates) in chosen.into_iter().enumerate() {
            for (row, gate) in gates {
                let Routed { tokens, gates } = &mut routed[self.rows[row]];
                // Rows that lead to one expert add their gates.
                match (tokens.last(), gates.last_mut()) {
                    (Some(&last), Some(sum)) if last == token => *sum += gate,
                    _ => {
                        tokens.push(token);
                        gates.push(gate);
                    }
                }
            }
        }
        Ok(routed)
    }
}
