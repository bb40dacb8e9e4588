//! A router, its experts, and the expert that every token goes through.

use super::{Gated, Map, Pass, add, each_row, gated, routing};
use crate::RuntimeError;
use crate::cache::{Used, Visit};
use crate::rules;
use moepress_kernels::{Activations, Precision};
use moepress_model::Routing;
use rayon::prelude::*;
use std::sync::PoisonError;

/// Tokens from which on they are routed on all threads.
const MANY: usize = 32;
/// Tokens whose outputs one thread adds up.
const BLOCK: usize = 16;

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

/// The tokens of a pass at one layer.
struct Batch<'a> {
    layer: usize,
    /// Normed hidden states `[tokens, hidden]`.
    x: &'a Activations<'a>,
    /// By expert.
    routed: Vec<Routed>,
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
        let routed = self.route(layer, x, tokens, pass)?;
        let used = |(expert, Routed { tokens, gates }): (usize, &Routed)| Used {
            expert,
            tokens: tokens.len(),
            gates: gates.iter().sum(),
        };
        let used = routed.iter().enumerate().map(used).filter(|used| used.tokens > 0).collect();
        let visit = Visit { layer, tokens, experts: used, expected: vec![] };
        pass.experts.visit(&visit);
        let used: Vec<(usize, f32)> = visit.experts.iter().map(|used| (used.expert, used.gates)).collect();
        if let Some(trace) = pass.trace {
            let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
            // The layer has written down what it expects of the next.
            trace.visits.last_mut().iter_mut().for_each(|last| last.experts = visit.experts.clone());
        }
        let all = Activations::new(x, tokens, pass.precision);
        let batch = Batch { layer, x: &all, routed };
        let mut shared: Vec<_> = self.shared.iter().map(|(shared, _)| (&all, shared)).collect();
        let (mut sum, mut y) = (vec![0.0; x.len()], None);
        // As many at a time as memory holds; the shared expert runs beside the first of them.
        let groups = used.len().div_ceil(pass.experts.most(layer)).max(1);
        for group in used.chunks(used.len().div_ceil(groups).max(1)) {
            y = batch.add(group, std::mem::take(&mut shared), &mut sum, pass)?.or(y);
        }
        if let (Some((_, gate)), Some(mut y)) = (&self.shared, y) {
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

    /// The experts that any of these tokens goes to.
    pub(crate) fn chosen(
        &self,
        layer: usize,
        x: &[f32],
        tokens: usize,
        pass: &Pass<'_>,
    ) -> Result<Vec<usize>, RuntimeError> {
        let routed = self.route(layer, x, tokens, pass)?;
        Ok((0..self.count).filter(|&expert| !routed[expert].tokens.is_empty()).collect())
    }

    /// Where the tokens go, by expert. Always exact: a choice that flips costs more than a rounded product.
    fn route(
        &self,
        layer: usize,
        x: &[f32],
        tokens: usize,
        pass: &Pass<'_>,
    ) -> Result<Vec<Routed>, RuntimeError> {
        let mut logits = self.router.forward(&Activations::new(x, tokens, Precision::Exact))?;
        let mut correction = self.correction.clone();
        let allowed = |expert| pass.rules.iter().all(|rule| rule.allows(layer, expert));
        for (row, _) in self.rows.iter().enumerate().filter(|(_, expert)| !allowed(**expert)) {
            logits.iter_mut().skip(row).step_by(self.rows.len()).for_each(|x| *x = f32::NEG_INFINITY);
            // What is added to the scores of these rows chooses too.
            correction.iter_mut().for_each(|correction| correction[row] = f32::NEG_INFINITY);
        }
        let gates = |logits: &[f32]| routing::gates(&self.routing, correction.as_deref(), logits);
        let mut chosen: Vec<_> = match tokens < MANY {
            true => logits.chunks_exact(self.rows.len()).map(gates).collect(),
            false => logits.par_chunks_exact(self.rows.len()).map(gates).collect(),
        };
        rules::apply(pass.rules, self.routing.renormalise.is_some(), &mut chosen);
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

impl Batch<'_> {
    /// Adds the gated outputs of these experts to `sum`, and returns the output of the shared one where it is among
    /// them.
    fn add(
        &self,
        group: &[(usize, f32)],
        shared: Vec<(&Activations<'_>, &Gated)>,
        sum: &mut [f32],
        pass: &Pass<'_>,
    ) -> Result<Option<Vec<f32>>, RuntimeError> {
        let Self { layer, x: all, routed } = self;
        let tokens = all.len();
        let hidden = sum.len() / tokens;
        let experts = pass.experts.experts(*layer, group)?;
        // Where all tokens go to an expert, as when there is only one, they are the inputs as they are.
        let input = |&(expert, _): &(usize, f32)| {
            let rows = &routed[expert].tokens;
            (rows.len() < tokens).then(|| Activations::some(all, rows))
        };
        let inputs: Vec<Option<Activations<'_>>> = group.iter().map(input).collect();
        let mut mlps: Vec<(&Activations<'_>, &Gated)> = Vec::new();
        for (input, expert) in inputs.iter().zip(&experts) {
            mlps.extend(expert.segments.iter().map(|segment| (input.as_ref().unwrap_or(all), segment)));
        }
        let mlps_of_experts = mlps.len();
        mlps.extend(shared);
        let mut outputs = gated::forward(&mlps, pass.precision)?;
        let shared = if outputs.len() > mlps_of_experts { outputs.pop() } else { None };
        let mut rest = &outputs[..];
        let mut parts = Vec::with_capacity(group.len());
        for (&(index, _), expert) in group.iter().zip(&experts) {
            let segments;
            (segments, rest) = rest.split_at(expert.segments.len());
            parts.push((&routed[index], segments, expert.bias.as_deref()));
        }
        each_row(sum, hidden * BLOCK, |block, sum| {
            let tokens = block * BLOCK..block * BLOCK + sum.len() / hidden;
            let mut own = vec![0.0; hidden];
            for (Routed { tokens: all, gates }, segments, bias) in &parts {
                let first = all.partition_point(|&token| token < tokens.start);
                let here = all[first..].iter().zip(&gates[first..]).enumerate();
                for (at, (&token, &gate)) in here.take_while(|(_, (token, _))| **token < tokens.end) {
                    own.fill(0.0);
                    for y in *segments {
                        add(&mut own, &y[(first + at) * hidden..][..hidden], 1.0);
                    }
                    bias.iter().for_each(|bias| add(&mut own, bias, 1.0));
                    add(&mut sum[(token - tokens.start) * hidden..][..hidden], &own, gate);
                }
            }
        });
        Ok(shared)
    }
}
