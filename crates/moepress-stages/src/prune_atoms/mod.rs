//! `prune_atoms`: removes the least salient atoms of the routed experts.
//!
//! Parameters: `method`, `ratio` (share of all routed atoms to remove), `ranking` (global | per_layer |
//! per_expert), `align` (atoms are kept or removed in runs of that many), `floor` (least atoms an expert keeps),
//! `empty` (what becomes of an expert without atoms: keep | drop), and those of the method.

mod activation;
mod empty;
mod heapr;
mod runs;

use crate::coverage::Standing;
use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError, other_share, percent};
use crate::targets::any_chosen;
use moepress_model::{Edit, ModelSpec};
use moepress_recipe::{Params, RecipeError, StageSpec};
use moepress_stats::{Needs, StatisticsError};
use runs::{Run, Shortage, cut, keep};
use std::collections::BTreeMap;

/// A rule that scores atoms; the larger, the more it hurts to lose one.
trait Saliency: Send + Sync {
    fn describe(&self) -> String;
    fn needs(&self) -> Needs;
    /// Scores of the atoms of an expert that tokens have reached.
    fn score(
        &self,
        evidence: &Evidence<'_>,
        layer: usize,
        expert: usize,
    ) -> Result<Vec<f64>, StatisticsError>;
    /// What removing each of them adds to the loss, in nats per token; none where nothing says.
    fn losses(
        &self,
        _evidence: &Evidence<'_>,
        _layer: usize,
        _expert: usize,
    ) -> Result<Option<Vec<f64>>, StatisticsError> {
        Ok(None)
    }
}

type Build = fn(&Params) -> Result<Box<dyn Saliency>, RecipeError>;
const METHODS: &[(&str, Build, &[&str])] =
    &[("heapr", heapr::build, heapr::KEYS), ("activation", activation::build, activation::KEYS)];

#[derive(Clone, Copy, PartialEq)]
enum Ranking {
    Global,
    PerLayer,
    PerExpert,
}

struct PruneAtoms {
    saliency: Box<dyn Saliency>,
    ratio: f64,
    ranking: Ranking,
    align: usize,
    floor: usize,
    /// Whether experts without atoms leave the router.
    drop: bool,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    let names: Vec<&str> = METHODS.iter().map(|(name, ..)| *name).collect();
    let method = params.word("method", Some("heapr"), &names)?;
    let (_, saliency, keys) = METHODS.iter().find(|(name, ..)| *name == method).unwrap_or(&METHODS[0]);
    params.only(&[&["method", "ratio", "ranking", "align", "floor", "empty"], *keys].concat())?;
    let ranking =
        match params.word("ranking", Some("global"), &["global", "per_layer", "per_expert"])?.as_str() {
            "per_layer" => Ranking::PerLayer,
            "per_expert" => Ranking::PerExpert,
            _ => Ranking::Global,
        };
    Ok(Box::new(PruneAtoms {
        saliency: saliency(params)?,
        ratio: params.f64_in("ratio", None, 0.0..1.0)?,
        ranking,
        align: params.usize_in("align", Some(1), 1..=4096)?,
        floor: params.usize_in("floor", Some(0), ..)?,
        drop: params.word("empty", Some("keep"), &["keep", "drop"])? == "drop",
        params: spec.clone(),
    }))
}

impl PruneAtoms {
    fn shortage(&self, short: &Shortage) -> StageError {
        let Shortage { scope: (layer, expert), room, fixed } = *short;
        let place = match self.ranking {
            Ranking::Global => String::new(),
            Ranking::PerLayer => format!(" in layer {layer}"),
            Ranking::PerExpert => format!(" in expert {expert} of layer {layer}"),
        };
        let message = format!(
            "leaves room for {room} atoms{place}, but {fixed} must stay: those of the floor, and of experts that calibration.below_min_tokens keeps; lower it, or rank over more experts"
        );
        self.params.params.error("ratio", message).into()
    }

    /// The atoms of all experts, scored.
    fn runs(&self, evidence: &Evidence<'_>) -> Result<Vec<Run>, StatisticsError> {
        let mut runs = Vec::new();
        for (layer, moe) in evidence.spec.moe_layers() {
            let standings = evidence.standings(layer)?;
            for (expert, e) in moe.experts.iter().enumerate().filter(|(_, e)| e.width() > 0) {
                let standing = standings[expert];
                let scores = match standing {
                    Standing::Measured => self.saliency.score(evidence, layer, expert)?,
                    Standing::First => vec![f64::NEG_INFINITY; e.width()],
                    Standing::Keep => vec![f64::INFINITY; e.width()],
                };
                let scope = match self.ranking {
                    Ranking::Global => (0, 0),
                    Ranking::PerLayer => (layer, 0),
                    Ranking::PerExpert => (layer, expert),
                };
                let floor = if standing == Standing::Keep { e.width() } else { self.floor };
                runs.extend(cut(&scores, self.align).enumerate().map(|(run, atoms)| {
                    let sum: f64 = atoms.iter().map(|&atom| scores[atom]).sum();
                    let (mean, fixed) = (sum / atoms.len() as f64, run * self.align < floor);
                    Run { scope, expert: (layer, expert), atoms, mean, fixed }
                }));
            }
        }
        Ok(runs)
    }
}

impl PruneAtoms {
    /// What the loss of those not kept adds up to; none where the method says nothing of it.
    fn predicted(
        &self,
        evidence: &Evidence<'_>,
        kept: &BTreeMap<(usize, usize), Vec<usize>>,
    ) -> Result<Option<f64>, StatisticsError> {
        let mut sum = 0.0;
        for (layer, moe) in evidence.spec.moe_layers() {
            let standings = evidence.standings(layer)?;
            for expert in (0..moe.experts.len()).filter(|&expert| standings[expert] == Standing::Measured) {
                let kept = kept.get(&(layer, expert)).map_or(&[][..], Vec::as_slice);
                let Some(losses) = self.saliency.losses(evidence, layer, expert)? else { return Ok(None) };
                let all: f64 = losses.iter().sum();
                sum += all - kept.iter().map(|&atom| losses[atom]).sum::<f64>();
            }
        }
        Ok(Some(sum.max(0.0)))
    }
}

impl Stage for PruneAtoms {
    fn describe(&self) -> String {
        let ranking = match self.ranking {
            Ranking::Global => "globally",
            Ranking::PerLayer => "per layer",
            Ranking::PerExpert => "per expert",
        };
        let mut words =
            format!("prune_atoms {}: {} ranked {ranking}", self.saliency.describe(), percent(self.ratio));
        if self.align > 1 {
            words += &format!(", in runs of {}", self.align);
        }
        if self.floor > 0 {
            words += &format!(", {} of each expert stay", self.floor);
        }
        if self.drop {
            words += ", emptied experts leave the router";
        }
        words
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), StageError> {
        if spec.moe_layers().next().is_none() {
            return Err(self.params.error("the model has no routed experts").into());
        }
        let cut = spec.moe_layers().any(|(_, moe)| moe.experts.iter().any(|e| e.segments.len() > 1));
        if cut || any_chosen(spec) {
            let message = "atoms can only be pruned before formats are chosen; put this stage before assign_bits and quantize";
            return Err(self.params.error(message).into());
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        self.saliency.needs()
    }

    fn may_reroute(&self) -> bool {
        self.drop
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let kept = keep(self.runs(evidence)?, self.ratio).map_err(|short| self.shortage(&short))?;
        let mut decision = Decision { predicted: self.predicted(evidence, &kept)?, ..Decision::default() };
        let widths = evidence.spec.moe_layers().flat_map(|(_, moe)| moe.experts.iter().map(|e| e.width()));
        let (all, left) = (widths.sum::<usize>(), kept.values().map(Vec::len).sum::<usize>());
        let why = format!("runs of {} stay or go together", self.align);
        decision.notes.extend(other_share("atoms", all - left, all, self.ratio, &why));
        let (mut emptied, mut dropped) = (0, 0);
        for (layer, moe) in evidence.spec.moe_layers() {
            let left = |expert| kept.get(&(layer, expert)).map_or(&[][..], Vec::as_slice);
            let empty: Vec<usize> = (0..moe.experts.len()).filter(|&e| left(e).is_empty()).collect();
            let drop = if self.drop { empty::droppable(moe, &empty) } else { vec![] };
            emptied += empty.len() - drop.len();
            dropped += drop.len();
            for (expert, e) in moe.experts.iter().enumerate().filter(|(expert, _)| !drop.contains(expert)) {
                if left(expert).len() < e.width() {
                    decision.edits.push(Edit::KeepAtoms { layer, expert, atoms: left(expert).to_vec() });
                }
            }
            if !drop.is_empty() {
                let experts = (0..moe.experts.len()).filter(|expert| !drop.contains(expert)).collect();
                decision.edits.push(Edit::KeepExperts { layer, experts });
            }
        }
        if !decision.edits.is_empty() {
            decision.notes.extend(evidence.coverage_notes("lost their atoms first", "kept all their atoms")?);
        }
        if dropped > 0 {
            decision
                .notes
                .push(format!("{dropped} experts have no atoms left and were removed from the router"));
        }
        if emptied > 0 {
            let why = if self.drop { ", which needs their rows," } else { "" };
            decision.notes.push(format!(
                "{emptied} experts have no atoms left; they stay in the router{why} and contribute zero"
            ));
        }
        Ok(decision)
    }
}

/// The names of all methods.
#[cfg(test)]
pub(crate) fn names() -> Vec<&'static str> {
    METHODS.iter().map(|(name, ..)| *name).collect()
}

#[cfg(test)]
mod tests;
