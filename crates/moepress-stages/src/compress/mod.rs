//! `compress`: spends one byte budget on all matrices at once. Every run of atoms is dropped, rounded to ternary, 2, 3,
//! 4 or 8 bits, or left; every other matrix is rounded or left.
//!
//! Parameters: one of `budget` (bytes of all tensors), `bpw` (bits per weight of the whole model) and `ratio` (of the
//! bytes that `classes` take now), `classes`, `align`, `segments`, `damp`, `compensate`.
//!
//! Everything is scored in nats of loss by a diagonal Fisher (budget.md 1), atoms that go by their coupled HEAPr score.
//! Matrices are rounded on uniform grids and stored in an entropy code, so that a step costs what its codes take: a
//! uniform quantizer with an entropy code is within a quarter of a bit of what any could do (Gish and Pierce,
//! "Asymptotically efficient quantizing", 1968). The cheapest choices within the budget are found by a
//! price of a byte, with a proven gap (budget.md 3); the walk that writes then keeps every matrix to its
//! bytes, by GPTQ on what reaches it, with `down_proj` fitted anew to what is left of its expert.

mod choices;
mod edits;

use crate::coverage::Standing;
use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError, percent};
use crate::targets::{CLASSES, any_grouped, classes_or, matrices};
use choices::{Expert, Plan, matrix_choices};
use edits::{Fate, edits};
use moepress_model::{Class, ModelSpec, Part, Projection, Tensor};
use moepress_numerics::knapsack::{Choice, allocate};
use moepress_quant::formats::Rung;
use moepress_recipe::{RecipeError, StageSpec};
use moepress_stats::{LadderNeed, Need, Needs, RunLadder, StatisticsError};
use rayon::prelude::*;
use std::ops::Bound;

#[derive(Clone, Copy)]
enum Budget {
    Bytes(u64),
    Bpw(f64),
    Ratio(f64),
}

struct Compress {
    budget: Budget,
    classes: Vec<Class>,
    align: usize,
    segments: usize,
    rounding: edits::How,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    params.only(&["budget", "bpw", "ratio", "classes", "align", "segments", "damp", "compensate"])?;
    let above_zero = |most| (Bound::Excluded(0.0), Bound::Included(most));
    let budget = match (params.bytes("budget")?, params.has("bpw"), params.has("ratio")) {
        (Some(bytes), false, false) => Budget::Bytes(bytes),
        (None, true, false) => Budget::Bpw(params.f64_in("bpw", None, above_zero(32.0))?),
        (None, false, true) => Budget::Ratio(params.f64_in("ratio", None, above_zero(1.0))?),
        (None, false, false) => {
            return Err(spec.error(
                "needs one of `budget` (bytes of all tensors), `bpw` (bits per weight of the whole model) and `ratio` (of the bytes that `classes` take)",
            ));
        }
        (None, true, true) => return Err(params.error("ratio", "give a budget as bpw or as ratio, not both")),
        (Some(_), ..) => return Err(params.error("budget", "give one of budget, bpw and ratio, not several")),
    };
    let rounding = edits::How {
        damp: params.f64_in("damp", Some(0.03), above_zero(10.0))?,
        compensate: params.bool("compensate", Some(true))?,
    };
    Ok(Box::new(Compress {
        budget,
        classes: classes_or(params, &CLASSES)?,
        align: params.usize_in("align", Some(32), 1..)?,
        segments: params.usize_in("segments", Some(4), 1..=64)?,
        rounding,
        params: spec.clone(),
    }))
}

impl Compress {
    /// Bytes that all tensors together may take.
    fn budget(&self, spec: &ModelSpec) -> u64 {
        match self.budget {
            Budget::Bytes(bytes) => bytes,
            Budget::Bpw(bpw) => (spec.total_weights() as f64 * bpw / 8.0).floor() as u64,
            Budget::Ratio(ratio) => {
                let now = spec.bytes_by_class();
                let of = |class: &Class| now.get(class).map_or(0, |&(_, bytes)| bytes);
                let now: u64 = self.classes.iter().map(of).sum();
                spec.total_bytes() - now + (now as f64 * ratio).floor() as u64
            }
        }
    }

    fn key(&self) -> &'static str {
        match self.budget {
            Budget::Bytes(_) => "budget",
            Budget::Bpw(_) => "bpw",
            Budget::Ratio(_) => "ratio",
        }
    }

    /// The experts that may change, with what may become of them.
    fn experts<'a>(&self, evidence: &Evidence<'a>) -> Result<Vec<Candidate<'a>>, StageError> {
        let spec = evidence.spec;
        let mut found = vec![];
        if !self.classes.contains(&Class::Experts) {
            return Ok(found);
        }
        for (layer, moe) in spec.moe_layers() {
            let standings = evidence.standings(layer)?;
            for (expert, of) in moe.experts.iter().enumerate().filter(|(_, of)| of.width() > 0) {
                let tensor =
                    |projection| Tensor::Layer(layer, Part::Expert { expert, segment: 0, projection });
                let all: u64 = Projection::ALL.iter().map(|&p| spec.stored_bytes(tensor(p))).sum();
                let missing = || StatisticsError::Missing(format!("{}.ladder", tensor(Projection::Gate)));
                let runs = evidence.costs.ladders.runs.get(&(layer, expert)).ok_or_else(missing)?;
                let plain = runs.iter().map(|run| all / of.width() as u64 * run.atoms.len() as u64).collect();
                let planned = Expert::new(runs, plain, self.segments);
                let fixed = match standings[expert] {
                    Standing::First => Some(planned.emptied()),
                    Standing::Keep => Some(planned.kept()),
                    Standing::Measured => None,
                };
                found.push(Candidate { layer, expert, runs, planned, fixed });
            }
        }
        Ok(found)
    }
}

/// An expert that may change.
struct Candidate<'a> {
    layer: usize,
    expert: usize,
    runs: &'a [RunLadder],
    planned: Expert,
    /// What becomes of it at any price.
    fixed: Option<Plan>,
}

impl Candidate<'_> {
    fn plan(&self, price: f64) -> Plan {
        self.fixed.clone().unwrap_or_else(|| self.planned.plan(price))
    }
}

/// Everything that the budget is spent on.
struct Market<'a> {
    experts: Vec<Candidate<'a>>,
    /// Choices of every other matrix.
    matrices: Vec<Vec<Choice>>,
}

impl Market<'_> {
    /// Bytes of what is best at that price, and its cost + price · bytes.
    fn at(&self, price: f64) -> (u64, f64) {
        let score = |choice: &Choice| choice.cost + price * choice.bytes as f64;
        let best = |choices: &Vec<Choice>| {
            let least =
                choices.iter().min_by(|a, b| score(a).total_cmp(&score(b)).then(a.bytes.cmp(&b.bytes)));
            least.copied().unwrap_or(Choice { bytes: 0, cost: 0.0 })
        };
        let plans: Vec<Choice> = self.experts.par_iter().map(|expert| expert.plan(price).choice()).collect();
        let chosen = plans.into_iter().chain(self.matrices.iter().map(best));
        chosen.fold((0, 0.0), |(bytes, sum), choice| (bytes + choice.bytes, sum + score(&choice)))
    }

    /// The lowest price at which what is best fits, to a part in a thousand.
    fn price(&self, budget: u64) -> f64 {
        let (mut low, mut high) = (LOWEST_PRICE, 1.0);
        if self.at(low).0 <= budget {
            return low;
        }
        while high < 1e9 && self.at(high).0 > budget {
            high *= 1e3;
        }
        while high / low > 1.001 {
            let middle = (low * high).sqrt();
            if self.at(middle).0 > budget { low = middle } else { high = middle }
        }
        high
    }
}

/// Nats per byte below which nothing is worth less.
const LOWEST_PRICE: f64 = 1e-18;

/// Prices beside the one that meets the budget, as powers of two, at which experts are planned: what is left of the
/// budget is spent between them.
const NEARBY: [f64; 9] = [-1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0];

impl Stage for Compress {
    fn describe(&self) -> String {
        let budget = match self.budget {
            Budget::Bytes(bytes) => format!("{bytes} bytes"),
            Budget::Bpw(bpw) => format!("{bpw} bits per weight"),
            Budget::Ratio(ratio) => percent(ratio),
        };
        let classes: Vec<&str> = self.classes.iter().map(|class| class.name()).collect();
        format!("compress: {budget} over {}, atoms in runs of {}", classes.join(", "), self.align)
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), StageError> {
        if any_grouped(spec) {
            return Err(self
                .params
                .error("formats were chosen before; compress chooses all of them itself")
                .into());
        }
        if matrices(spec, &self.classes).is_empty() {
            return Err(self.params.error("the model has no matrices of these classes").into());
        }
        let cut = spec.moe_layers().any(|(_, moe)| moe.experts.iter().any(|e| e.segments.len() > 1));
        if cut {
            return Err(self.params.error("experts were cut into segments before").into());
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        let ladders = LadderNeed { classes: self.classes.iter().copied().collect(), align: self.align };
        Needs { ladders: Some(ladders), ..Needs::of([Need::Routing, Need::Atoms, Need::Fisher]) }
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let spec = evidence.spec;
        self.check(spec)?;
        let others: Vec<Tensor> = matrices(spec, &self.classes)
            .into_iter()
            .filter(|tensor| !matches!(tensor, Tensor::Layer(_, Part::Expert { .. })))
            .collect();
        let ladder = |tensor: &Tensor| {
            let missing = || StatisticsError::Missing(format!("{tensor}.ladder"));
            evidence.costs.ladders.matrices.get(tensor).ok_or_else(missing)
        };
        let ladders = others.iter().map(ladder).collect::<Result<Vec<_>, _>>()?;
        let choices =
            |(tensor, rungs): (&Tensor, &&Vec<Rung>)| matrix_choices(rungs, spec.stored_bytes(*tensor));
        let market = Market {
            experts: self.experts(evidence)?,
            matrices: others.iter().zip(&ladders).map(choices).collect(),
        };
        let changing: u64 =
            matrices(spec, &self.classes).iter().map(|&tensor| spec.stored_bytes(tensor)).sum();
        let rest = spec.total_bytes() - changing;
        let budget = self.budget(spec);
        let least = market.at(1e9).0;
        if rest + least > budget {
            let message = format!(
                "is {budget} bytes, but {rest} are outside `classes` and the smallest choices for the others need {least}; raise it or add classes"
            );
            return Err(self.params.params.error(self.key(), message).into());
        }
        let price = market.price(budget - rest);
        let bound = market.at(price).1 - price * (budget - rest) as f64;
        let plans: Vec<Vec<Plan>> = market
            .experts
            .par_iter()
            .map(|expert| {
                let mut plans: Vec<Plan> =
                    NEARBY.iter().map(|by| expert.plan((price * by.exp2()).min(1e9))).collect();
                plans.dedup();
                plans
            })
            .collect();
        let of_plans = |plans: &Vec<Plan>| plans.iter().map(Plan::choice).collect();
        let items: Vec<Vec<Choice>> =
            plans.iter().map(of_plans).chain(market.matrices.iter().cloned()).collect();
        let found = allocate(&items, budget - rest)
            .map_err(|error| self.params.params.error(self.key(), error.to_string()))?;
        let (of_experts, of_others) = found.chosen.split_at(plans.len());
        let fates: Vec<Fate<'_>> = market
            .experts
            .iter()
            .zip(plans.iter().zip(of_experts))
            .map(|(of, (plans, &at))| Fate {
                layer: of.layer,
                expert: of.expert,
                runs: of.runs,
                plan: &plans[at],
            })
            .collect();
        let rung = |((tensor, rungs), at): ((&Tensor, &&Vec<Rung>), &usize)| {
            (*tensor, at.checked_sub(1).and_then(|at| rungs.get(at).copied()))
        };
        let others: Vec<(Tensor, Option<Rung>)> =
            others.iter().zip(&ladders).zip(of_others).map(rung).collect();
        let mut notes = vec![format!(
            "compress: {} of {budget} bytes planned, predicted increase of NLL {:.5} nats per token (at most {:.1e} above the optimum)",
            found.bytes + rest,
            found.cost,
            (found.cost - bound).max(0.0)
        )];
        notes.extend(edits::story(&fates));
        notes.extend(evidence.coverage_notes("were dropped", "stay as they are")?);
        Ok(Decision { edits: edits(&fates, &others, self.rounding), notes, predicted: Some(found.cost) })
    }
}

#[cfg(test)]
mod tests;
