//! MC-MoE (arXiv 2410.06270): in every layer the formats of experts that minimise
//! Σᵢ φᵢ^α wᵢ^β εᵢⱼ^γ within the layer's share of the budget, found exactly by dynamic programming.
//!
//! φᵢ is the share of the layer's routed tokens that go to expert i, wᵢ that of its gates, and εᵢⱼ the Frobenius norm
//! of what the layer's output changes by when expert i alone is rounded to format j. As εᵢⱼ holds the gate and the
//! number of tokens already, φ and w count frequency twice; that is the method. Gates are those of the router, after
//! it renormalised them, and the norm is over the whole calibration text, not summed over batches of it.
//!
//! The exponents α = 1, β = 1.5 are the paper's. It states γ = 2, but its published allocations are those of γ = 1
//! (from its statistics, γ = 1 gives all 96 of them, γ = 2 gives 67), which is the default here.
//!
//! `at_least_one` lists formats that one expert of every layer has at least; the paper demands its two larger ones. A
//! layer's share of the budget is that of its weights, and what one layer leaves the next may use.

use super::frequency::of_expert;
use super::{Chosen, Method, Task};
use crate::evidence::Evidence;
use crate::stage::StageError;
use crate::targets::{CODES, format};
use moepress_model::{Class, Tensor};
use moepress_numerics::exact::{ExactError, allocate};
use moepress_numerics::knapsack::Choice;
use moepress_quant::Format;
use moepress_recipe::{Params, RecipeError};
use moepress_stats::{Need, Needs, Of, Quantity, StatisticsError};
use std::collections::BTreeMap;

pub(super) const KEYS: &[&str] = &["alpha", "beta", "gamma", "at_least_one"];

struct McMoe {
    alpha: f64,
    beta: f64,
    gamma: f64,
    demanded: Vec<Format>,
}

pub(super) fn build(params: &Params) -> Result<Box<dyn Method>, RecipeError> {
    let exponent = |key, default| params.f64_in(key, Some(default), 0.0..=8.0);
    let words = params.words("at_least_one", Some(&[]), &CODES)?;
    let listed = params.words("formats", None, &CODES)?;
    if let Some(word) = words.iter().find(|word| !listed.contains(word)) {
        return Err(params.error("at_least_one", format!("`{word}` is not among `formats`")));
    }
    Ok(Box::new(McMoe {
        alpha: exponent("alpha", 1.0)?,
        beta: exponent("beta", 1.5)?,
        gamma: exponent("gamma", 1.0)?,
        demanded: words
            .iter()
            .map(|word| format(word, params).map(Format::Grouped))
            .collect::<Result<_, _>>()?,
    }))
}

impl Method for McMoe {
    fn describe(&self) -> String {
        let Self { alpha, beta, gamma, demanded } = self;
        let one = match demanded.is_empty() {
            true => String::new(),
            false => {
                let names: Vec<String> = demanded.iter().map(Format::to_string).collect();
                format!(", one expert at least in {}", names.join(" and "))
            }
        };
        format!("mc_moe, exponents {alpha}, {beta}, {gamma}{one}")
    }

    fn classes(&self) -> &'static [Class] {
        &[Class::Experts]
    }

    fn may_leave(&self) -> bool {
        false
    }

    fn formats(&self) -> Option<usize> {
        None
    }

    fn needs(&self, formats: &[Format]) -> Needs {
        let needs = Needs::of([Need::Routing, Need::RoundedOutputs]);
        Needs { formats: formats.iter().copied().collect(), ..needs }
    }

    fn choose(&self, task: &Task<'_>, evidence: &Evidence<'_>) -> Result<Chosen, StageError> {
        let formats = task.by_size();
        let demanded: Vec<usize> =
            (0..formats.len()).filter(|&index| self.demanded.contains(&formats[index])).collect();
        let weights = |tensor: &Tensor| {
            task.spec.shape(*tensor).map_or(0, |shape| shape.iter().product::<usize>() as u128)
        };
        let all: u128 = task.tensors.iter().map(weights).sum();
        let mut counts: BTreeMap<Format, usize> = BTreeMap::new();
        let (mut chosen, mut passed, mut spent, mut exact) = (Chosen::default(), 0, 0, true);
        for (layer, moe) in evidence.spec.moe_layers() {
            let experts: Vec<Vec<Tensor>> =
                (0..moe.experts.len()).map(|expert| of_expert(task, layer, expert)).collect();
            let costs = self.costs(evidence, layer, &formats)?;
            let choice = |tensors: &Vec<Tensor>, format, cost| Choice {
                bytes: tensors.iter().map(|&tensor| task.bytes(tensor, format)).sum(),
                cost,
            };
            let item = |(tensors, costs): (&Vec<Tensor>, &Vec<f64>)| {
                formats.iter().zip(costs).map(|(&format, &cost)| choice(tensors, format, cost)).collect()
            };
            let items: Vec<Vec<Choice>> = experts.iter().zip(&costs).map(item).collect();
            // Everything up to this layer has its share of the whole.
            passed += experts.iter().flatten().map(weights).sum::<u128>();
            let room = (u128::from(task.room) * passed / all.max(1)) as u64 - spent;
            let found = allocate(&items, room, &demanded).map_err(|e| self.failed(task, layer, &e))?;
            exact &= found.gap == 0.0;
            spent += found.bytes;
            for (tensors, &index) in experts.iter().zip(&found.chosen) {
                *counts.entry(formats[index]).or_default() += usize::from(!tensors.is_empty());
                chosen.formats.extend(tensors.iter().map(|&tensor| (tensor, formats[index])));
            }
        }
        let counts: Vec<String> = counts.iter().map(|(format, n)| format!("{n} in {format}")).collect();
        chosen.notes.push(format!("assign_bits: of the experts {}", counts.join(", ")));
        if !exact {
            let note = "sizes of experts were rounded up: there are too many of them to tell all apart";
            chosen.notes.push(format!("assign_bits: {note}"));
        }
        chosen.notes.extend(evidence.unreached("cost nothing in any format")?);
        Ok(chosen)
    }
}

impl McMoe {
    /// For every expert of a layer and every format, φ^α w^β ε^γ.
    fn costs(
        &self,
        evidence: &Evidence<'_>,
        layer: usize,
        formats: &[Format],
    ) -> Result<Vec<Vec<f64>>, StatisticsError> {
        let tokens = evidence.tokens(layer)?;
        let gates = evidence.stats.get(Of::Layer(layer), Quantity::GateSum)?;
        let share = |values: &[f64], expert: usize| values[expert] / values.iter().sum::<f64>();
        let costs = |expert: usize| {
            // No token, or no atoms: nothing to lose.
            if tokens[expert] == 0.0 || evidence.width(layer, expert) == 0 {
                return Ok(vec![0.0; formats.len()]);
            }
            let usage = share(tokens, expert).powf(self.alpha) * share(gates, expert).powf(self.beta);
            let cost = |&format: &Format| {
                let of = Of::Rounded(layer, expert, format);
                let error = evidence.stats.scalar(of, Quantity::OutputError)?.sqrt();
                Ok(usage * error.powf(self.gamma))
            };
            formats.iter().map(cost).collect()
        };
        (0..tokens.len()).map(costs).collect()
    }

    fn failed(&self, task: &Task<'_>, layer: usize, error: &ExactError) -> StageError {
        match error {
            ExactError::Knapsack(e) => task.too_small(format!("layer {layer}: {e}")),
            ExactError::Demand { .. } => {
                let what = "leaves no room for an expert in each of `at_least_one`; raise it, or demand less";
                task.too_small(format!("layer {layer}: {what}"))
            }
        }
    }
}
