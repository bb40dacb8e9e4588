//! `compress`: spends one byte budget on all matrices at once. Every run of atoms is dropped, rounded to ternary, 2, 3,
//! 4 or 8 bits, or left; every other matrix is rounded or left; two experts may become one.
//!
//! Parameters: one of `budget` (bytes of all tensors), `bpw` (bits per weight of the whole model) and `ratio` (of the
//! bytes that `classes` take now), `classes`, `align`, `segments`, `merge`, `rounds`, `damp`,
//! `compensate`.
//!
//! Everything is scored in nats of loss by a diagonal Fisher (budget.md 1), atoms that go by their coupled HEAPr score.
//! Matrices are rounded on uniform grids and stored in an entropy code, so that a step costs what its codes take: a
//! uniform quantizer with an entropy code is within a quarter of a bit of what any could do (Gish and Pierce,
//! "Asymptotically efficient quantizing", 1968). The cheapest choices within the budget are found by a
//! price of a byte, with a proven gap (budget.md 3); at that price pairs of experts are judged too. The walk that writes then keeps every matrix to its
//! bytes, by GPTQ on what reaches it, with `down_proj` fitted anew to what is left of its expert.

mod choices;
mod edits;
mod joins;
mod market;

use crate::coverage::Standing;
use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError, percent};
use crate::targets::{CLASSES, any_chosen, classes_or, matrices};
use choices::{Expert, Plan, matrix_choices};
use edits::{Fate, edits};
use market::{Candidate, HIGHEST_PRICE, Market};
use moepress_model::{Class, Edit, ModelSpec, Part, Projection, Tensor};
use moepress_numerics::knapsack::{Choice, KnapsackError};
use moepress_quant::formats::Rung;
use moepress_recipe::{RecipeError, StageSpec};
use moepress_stats::{LadderNeed, Merger, Need, Needs, StatisticsError};
use std::collections::BTreeMap;
use std::ops::Bound;

/// By how much the bytes of a round are more than those of the next, where the model is measured again in between: what
/// the first would drop at the last budget is not yet what should go.
const LOOSER: f64 = 1.4;

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
    merge: bool,
    rounds: usize,
    rounding: edits::How,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    params.only(&[
        "budget",
        "bpw",
        "ratio",
        "classes",
        "align",
        "segments",
        "merge",
        "rounds",
        "damp",
        "compensate",
    ])?;
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
        merge: params.bool("merge", Some(true))?,
        rounds: params.usize_in("rounds", Some(1), 1..=8)?,
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
                found.push(Candidate { layer, expert, with: None, runs, planned, fixed });
            }
        }
        Ok(found)
    }

    /// What there is to spend the budget on.
    fn offer<'a>(&self, evidence: &Evidence<'a>) -> Result<Offer<'a>, StageError> {
        let spec = evidence.spec;
        self.check(spec)?;
        let all = matrices(spec, &self.classes);
        let other = |tensor: &&Tensor| !matches!(tensor, Tensor::Layer(_, Part::Expert { .. }));
        let ladder = |&tensor: &Tensor| {
            let missing = || StatisticsError::Missing(format!("{tensor}.ladder"));
            let rungs = evidence.costs.ladders.matrices.get(&tensor).ok_or_else(missing)?;
            Ok((tensor, &rungs[..]))
        };
        let others = all.iter().filter(other).map(ladder).collect::<Result<Vec<_>, StageError>>()?;
        let choices = |(tensor, rungs): &(Tensor, &[Rung])| matrix_choices(rungs, spec.stored_bytes(*tensor));
        let choices: Vec<Vec<Choice>> = others.iter().map(choices).collect();
        let experts = self.experts(evidence)?;
        let most: u64 = all.iter().map(|&tensor| spec.stored_bytes(tensor)).sum();
        let (rest, budget) = (spec.total_bytes() - most, self.budget(spec));
        let least = Market { experts: experts.iter().collect(), matrices: &choices }.at(HIGHEST_PRICE).0;
        if rest + least > budget {
            let message = format!(
                "is {budget} bytes, but {rest} are outside `classes` and the smallest choices for the others need {least}; raise it or add classes"
            );
            return Err(self.params.params.error(self.key(), message).into());
        }
        Ok(Offer { experts, others, choices, rest, bytes: budget - rest, most })
    }

    fn too_small(&self, error: &KnapsackError) -> StageError {
        self.params.params.error(self.key(), error.to_string()).into()
    }

    /// The pairs of those experts that could be one.
    fn pairs<'a>(&self, evidence: &Evidence<'a>, experts: &[Candidate<'a>]) -> Vec<Candidate<'a>> {
        let free: BTreeMap<(usize, usize), &Candidate<'_>> =
            experts.iter().filter(|of| of.fixed.is_none()).map(|of| ((of.layer, of.expert), of)).collect();
        let mergers = evidence.costs.ladders.mergers.iter().filter(|_| self.merge);
        let pair = |(&(layer, expert, second), merger): (&(usize, usize, usize), &'a Merger)| {
            let (first, _) = (free.get(&(layer, expert))?, free.get(&(layer, second))?);
            let of = &evidence.spec.moe(layer)?.experts;
            (of.get(expert)?.segments == of.get(second)?.segments).then_some(())?;
            let planned = Expert::new(&merger.runs, first.planned.plain().to_vec(), self.segments);
            let planned = planned.of_means(&merger.mean);
            let with = Some((second, merger.weights));
            Some(Candidate { layer, expert, with, runs: &merger.runs, planned, fixed: None })
        };
        mergers.filter_map(pair).collect()
    }
}

/// What there is to spend a budget on.
struct Offer<'a> {
    experts: Vec<Candidate<'a>>,
    /// Every other matrix with its ladder.
    others: Vec<(Tensor, &'a [Rung])>,
    /// What may become of those.
    choices: Vec<Vec<Choice>>,
    /// Bytes of what does not change.
    rest: u64,
    /// Bytes for all others.
    bytes: u64,
    /// Bytes of those as they are.
    most: u64,
}

impl Stage for Compress {
    fn describe(&self) -> String {
        let budget = match self.budget {
            Budget::Bytes(bytes) => format!("{bytes} bytes"),
            Budget::Bpw(bpw) => format!("{bpw} bits per weight"),
            Budget::Ratio(ratio) => percent(ratio),
        };
        let classes: Vec<&str> = self.classes.iter().map(|class| class.name()).collect();
        let rounds = if self.rounds > 1 { format!(", in {} rounds", self.rounds) } else { String::new() };
        format!("compress: {budget} over {}, atoms in runs of {}{rounds}", classes.join(", "), self.align)
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), StageError> {
        if any_chosen(spec) {
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
        let ladders = LadderNeed {
            classes: self.classes.iter().copied().collect(),
            align: self.align,
            mergers: self.merge,
        };
        Needs { ladders: Some(ladders), ..Needs::of([Need::Routing, Need::Atoms, Need::Fisher]) }
    }

    fn may_reroute(&self) -> bool {
        self.merge
    }

    fn rounds(&self) -> usize {
        self.rounds
    }

    fn leave_out(&self, evidence: &Evidence<'_>, round: usize) -> Result<Vec<Edit>, StageError> {
        let offer = self.offer(evidence)?;
        let market = Market { experts: offer.experts.iter().collect(), matrices: &offer.choices };
        let looser = LOOSER.powi((self.rounds - round.min(self.rounds)) as i32);
        let bytes = ((offer.bytes as f64 * looser) as u64).min(offer.most.max(offer.bytes));
        let spent = market.spend(bytes, None).map_err(|error| self.too_small(&error))?;
        Ok(spent.experts.iter().filter_map(|(of, plan)| edits::without_dropped(of, plan)).collect())
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let offer = self.offer(evidence)?;
        let pairs = self.pairs(evidence, &offer.experts);
        let joined = joins::spend(&offer.experts, &pairs, &offer.choices, offer.bytes)
            .map_err(|error| self.too_small(&error))?;
        let spent = &joined.spent;
        let (mut made, numbers) = joins::join(evidence.spec, &spent.experts);
        let fates: Vec<Fate<'_>> = spent
            .experts
            .iter()
            .filter_map(|(of, plan)| Some(Fate { of, expert: *numbers.get(&(of.layer, of.expert))?, plan }))
            .collect();
        let rung = |(of, &at): (&(Tensor, &[Rung]), &usize)| {
            (of.0, at.checked_sub(1).and_then(|at| of.1.get(at).copied()))
        };
        let others: Vec<(Tensor, Option<Rung>)> =
            offer.others.iter().zip(&spent.matrices).map(rung).collect();
        let mut notes = vec![format!(
            "compress: {} of {} bytes planned, predicted increase of NLL {:.5} nats per token (at most {:.1e} above the optimum)",
            spent.bytes + offer.rest,
            offer.bytes + offer.rest,
            spent.cost,
            (spent.cost - spent.bound).max(0.0)
        )];
        notes.extend(edits::story(&fates));
        if self.merge {
            let unread = evidence.spec.moe_layers().filter(|(_, moe)| moe.biases).count();
            if unread > 0 {
                notes.push(format!(
                    "compress: experts of {unread} layers have biases and were not compared for merging"
                ));
            }
            notes.extend(joined.story(&pairs));
        }
        notes.extend(evidence.coverage_notes("were dropped", "stay as they are")?);
        made.extend(edits(&fates, &others, self.rounding));
        Ok(Decision { edits: made, notes, predicted: Some(spent.cost) })
    }
}

#[cfg(test)]
mod tests;
