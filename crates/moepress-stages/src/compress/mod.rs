//! `compress`: spends one byte budget on all matrices at once. Every run of atoms is dropped, rounded to ternary, 2, 3,
//! 4 or 8 bits, or left; every other matrix is rounded or left.
//!
//! Parameters: one of `budget` (bytes of all tensors), `bpw` (bits per weight of the whole model) and `ratio` (of the
//! bytes that `classes` take now), `classes`, `align`, `damp`, `compensate`.
//!
//! Everything is scored in nats of loss by a diagonal Fisher (budget.md 1), atoms that go by their coupled HEAPr score.
//! Matrices are rounded on uniform grids and stored in an entropy code, so that a step costs what its codes take: a
//! uniform quantizer with an entropy code is within a quarter of a bit of what any could do (Gish and Pierce,
//! "Asymptotically efficient quantizing", 1968). The cheapest choices within the budget are found by the convex hulls
//! of all items, with a proven gap (methods.md 6, budget.md 3); the walk that writes then keeps every matrix to its
//! bytes, by GPTQ on what reaches it, with `down_proj` fitted anew to what is left of its expert.

mod choices;
mod edits;

use crate::coverage::Standing;
use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError, percent};
use crate::targets::{CLASSES, any_grouped, classes_or, matrices};
use choices::{Item, Pick};
use edits::{Fate, edits};
use moepress_model::{Class, ModelSpec, Part, Projection, Tensor};
use moepress_numerics::knapsack::allocate;
use moepress_recipe::{RecipeError, StageSpec};
use moepress_stats::{LadderNeed, Need, Needs, StatisticsError};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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
    rounding: edits::How,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    params.only(&["budget", "bpw", "ratio", "classes", "align", "damp", "compensate"])?;
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

    /// Every item with its place.
    fn items(&self, evidence: &Evidence<'_>) -> Result<Vec<(Place, Item)>, StageError> {
        let (spec, ladders) = (evidence.spec, &evidence.costs.ladders);
        let missing = |tensor: Tensor| StatisticsError::Missing(format!("{tensor}.ladder"));
        let mut standings: BTreeMap<usize, Vec<Standing>> = BTreeMap::new();
        let mut items = vec![];
        for tensor in matrices(spec, &self.classes) {
            match tensor {
                Tensor::Layer(layer, Part::Expert { expert, projection: Projection::Gate, .. }) => {
                    let standings = match standings.entry(layer) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => new.insert(evidence.standings(layer)?),
                    };
                    let standing = standings[expert];
                    let bytes = |atoms: usize| {
                        let tensors = Projection::ALL.map(|projection| {
                            Tensor::Layer(layer, Part::Expert { expert, segment: 0, projection })
                        });
                        let width = spec.moe(layer).map_or(1, |moe| moe.experts[expert].width());
                        tensors.map(|tensor| spec.stored_bytes(tensor)).iter().sum::<u64>() / width as u64
                            * atoms as u64
                    };
                    let runs = ladders.runs.get(&(layer, expert)).ok_or_else(|| missing(tensor))?;
                    for (at, run) in runs.iter().enumerate() {
                        let item = match standing {
                            Standing::First => Item::dropped(),
                            Standing::Keep => Item::pinned(bytes(run.atoms.len())),
                            Standing::Measured => Item::of_run(run, bytes(run.atoms.len())),
                        };
                        items.push((Place::Run { layer, expert, at }, item));
                    }
                }
                Tensor::Layer(_, Part::Expert { .. }) => {}
                _ => {
                    let rungs = ladders.matrices.get(&tensor).ok_or_else(|| missing(tensor))?;
                    items.push((Place::Matrix(tensor), Item::of_matrix(rungs, spec.stored_bytes(tensor))));
                }
            }
        }
        Ok(items)
    }
}

/// Where an item is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// A run of atoms of an expert, by its rank.
    Run { layer: usize, expert: usize, at: usize },
    /// A whole matrix.
    Matrix(Tensor),
}

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
        let (places, items): (Vec<Place>, Vec<Item>) = self.items(evidence)?.into_iter().unzip();
        let changing: u64 =
            matrices(spec, &self.classes).iter().map(|&tensor| spec.stored_bytes(tensor)).sum();
        let rest = spec.total_bytes() - changing;
        let budget = self.budget(spec);
        let least: u64 =
            items.iter().map(|item| item.choices.iter().map(|c| c.bytes).min().unwrap_or(0)).sum();
        if rest + least > budget {
            let message = format!(
                "is {budget} bytes, but {rest} are outside `classes` and the smallest choices for the others need {least}; raise it or add classes"
            );
            return Err(self.params.params.error(self.key(), message).into());
        }
        let choices: Vec<_> = items.iter().map(|item| item.choices.clone()).collect();
        let found = allocate(&choices, budget - rest)
            .map_err(|error| self.params.params.error(self.key(), error.to_string()))?;
        let picks = items.iter().zip(&found.chosen).map(|(item, &at)| &item.picks[at]);
        let mut fates: BTreeMap<(usize, usize), Vec<edits::Run<'_>>> = BTreeMap::new();
        let mut others: Vec<(Tensor, &Pick)> = vec![];
        for (place, pick) in places.iter().zip(picks) {
            match *place {
                Place::Matrix(tensor) => others.push((tensor, pick)),
                Place::Run { layer, expert, at } => {
                    let atoms = evidence.costs.ladders.runs[&(layer, expert)][at].atoms.clone();
                    fates.entry((layer, expert)).or_default().push((atoms, pick));
                }
            }
        }
        let fates: Vec<Fate<'_>> =
            fates.into_iter().map(|((layer, expert), runs)| Fate { layer, expert, runs }).collect();
        let mut notes = vec![format!(
            "compress: {} of {budget} bytes planned, predicted increase of NLL {:.5} nats per token (at most {:.1e} above the optimum)",
            found.bytes + rest,
            found.cost,
            found.gap
        )];
        notes.extend(edits::story(&fates));
        notes.extend(evidence.coverage_notes("were dropped", "stay as they are")?);
        Ok(Decision { edits: edits(&fates, &others, self.rounding), notes })
    }
}

#[cfg(test)]
mod tests;
