//! What a stage is, and the list of all.

use crate::coverage::CoverageError;
use crate::evidence::Evidence;
use crate::{assign_bits, compensate, compress, merge_experts, prune_atoms, prune_experts, quantize};
use moepress_model::{Edit, ModelSpec};
use moepress_recipe::{RecipeError, StageSpec};
use moepress_stats::{Needs, StatisticsError};

/// A step of a recipe.
pub trait Stage: Send + Sync {
    /// One line for plans and reports: the stage, its method and what it was told.
    fn describe(&self) -> String;

    /// Whether the stage can work on this model; called before any weight is read.
    ///
    /// # Errors
    /// It cannot; says why and what would help.
    fn check(&self, spec: &ModelSpec) -> Result<(), StageError>;

    /// The statistics that [`Self::decide`] will ask for, on the model that `check` saw.
    fn needs(&self) -> Needs;

    /// Whether it depends on the evidence if routing is another after the edits.
    fn may_reroute(&self) -> bool {
        false
    }

    /// How often the model is measured before it is decided on: in every round but the first without the atoms that
    /// [`Self::leave_out`] names.
    fn rounds(&self) -> usize {
        1
    }

    /// Atoms to leave out while the model is measured for the next round: edits of the kind [`Edit::KeepAtoms`] that
    /// are taken back afterwards. Rounds count from 1. A pure function of the evidence.
    ///
    /// # Errors
    /// As [`Self::decide`].
    fn leave_out(&self, _evidence: &Evidence<'_>, _round: usize) -> Result<Vec<Edit>, StageError> {
        Ok(vec![])
    }

    /// The edits. A pure function of the evidence.
    ///
    /// # Errors
    /// What was asked for cannot be met on this evidence.
    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError>;
}

/// What a stage decided, and what it decided for the user on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Changes, in order.
    pub edits: Vec<Edit>,
    /// Lines for the report.
    pub notes: Vec<String>,
    /// The increase of the negative log-likelihood by which it was decided, nats per token, where there is one.
    pub predicted: Option<f64>,
}

/// Why a stage cannot do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It contradicts the model; the fault is in the recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Calibration reached too few experts for what the recipe demands.
    #[error(transparent)]
    Coverage(#[from] CoverageError),
    /// A statistic is missing.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

/// A note where so many of all are not the share that was asked for.
pub(crate) fn other_share(what: &str, gone: usize, all: usize, asked: f64, why: &str) -> Option<String> {
    let share = gone as f64 / all.max(1) as f64;
    let note = || format!("{} of all {what} go, {} were asked for: {why}", percent(share), percent(asked));
    ((share - asked).abs() > 0.01).then(note)
}

/// A share as a percentage, at most four decimals.
pub(crate) fn percent(share: f64) -> String {
    format!("{}%", (share * 1e6).round() / 1e4)
}

type Build = fn(&StageSpec) -> Result<Box<dyn Stage>, RecipeError>;

/// Every stage by the name recipes use.
pub const STAGES: &[(&str, Build)] = &[
    ("merge_experts", merge_experts::build),
    ("prune_experts", prune_experts::build),
    ("prune_atoms", prune_atoms::build),
    ("compress", compress::build),
    ("compensate", compensate::build),
    ("assign_bits", assign_bits::build),
    ("quantize", quantize::build),
];

/// The stages of a recipe, every parameter checked.
///
/// # Errors
/// An unknown stage, method, format or key, or a value out of range, with its place in the recipe.
pub fn from_recipe(specs: &[StageSpec]) -> Result<Vec<Box<dyn Stage>>, RecipeError> {
    let build = |spec: &StageSpec| match STAGES.iter().find(|(name, _)| *name == spec.name) {
        Some((_, build)) => build(spec),
        None => Err(spec.unknown(&STAGES.iter().map(|(name, _)| *name).collect::<Vec<_>>())),
    };
    specs.iter().map(build).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn build(stage: &str) -> Result<Vec<Box<dyn Stage>>, RecipeError> {
        let text = format!("version: 1\nmodel: m\nstages:\n  - {stage}\n");
        from_recipe(&moepress_recipe::parse(&text, Path::new("r.yaml"), &[])?.stages)
    }

    #[test]
    fn words_are_checked_and_the_nearest_is_named() {
        for (stage, wanted) in [
            ("prune_atom: {ratio: 0.5}", "unknown stage `prune_atom`; did you mean `prune_atoms`?"),
            ("prune_atoms: {ratoi: 0.5}", "did you mean `ratio`?"),
            ("prune_atoms: {ratio: 0.5, method: heaper}", "did you mean `heapr`?"),
            ("prune_atoms: {ratio: 1.5}", "ratio"),
            ("prune_atoms: {}", "ratio"),
            ("prune_experts: {ratio: 0.5, method: reep}", "did you mean `reap`?"),
            ("prune_experts: {ratio: 0.5, method: tcess}", "task: is missing"),
            ("prune_experts: {ratio: 0.5, method: tcess, task: code, ranking: global}", "rank per_layer"),
            ("prune_experts: {ratio: 0.5, method: tcess, task: code, score: gate, top: 2}", "score: logit"),
            ("prune_experts: {ratio: 0.5, protect: 7}", "protect"),
            ("prune_experts: {ratio: 0.5, protect: sober}", "layer:expert"),
            ("merge_experts: {ratio: 0.5, method: m_smo}", "did you mean `m_smoe`?"),
            ("merge_experts: {ratio: 0.5, linkage: ward}", "unknown key `linkage`"),
            ("merge_experts: {ratio: 0.5, method: hc_smoe, dominant: global}", "unknown key `dominant`"),
            ("merge_experts: {ratio: 0.5, method: hc_smoe, linkage: wart}", "did you mean `ward`?"),
            ("quantize: {format: int5}", "did you mean `int"),
            ("quantize: {format: int4, group: 48}", "group"),
            ("quantize: {format: int4, solver: gptk}", "did you mean `gptq`?"),
            ("quantize: {format: int4, damp: 0.1}", "solver: gptq"),
            ("quantize: {format: int4, solver: gptq, damp: 0}", "damp"),
            ("assign_bits: {bpw: 3, bytes: 3MB}", "bpw"),
            ("assign_bits: {formats: [int4]}", "bpw"),
            ("compress: {ratio: 0.5, bpw: 2}", "not both"),
            ("compress: {align: 8}", "needs one of `budget`"),
            ("compress: {ratio: 0}", "ratio"),
            ("compress: {ratio: 0.5, rounds: 0}", "rounds"),
            ("compress: {budget: 1MB, bpw: 2}", "not several"),
            ("compres: {ratio: 0.5}", "did you mean `compress`?"),
            ("compensate: {ridge: 1}", "ridge"),
            ("assign_bits: {bpw: 3, formats: [int4], method: frequency}", "chooses between 2 formats"),
            (
                "assign_bits: {bpw: 3, formats: [int2, int4], method: block, classes: [attention]}",
                "is for experts",
            ),
            (
                "assign_bits: {bpw: 3, formats: [int2, int4], method: mc_moe, at_least_one: [int3]}",
                "not among",
            ),
            ("assign_bits: {bpw: 3, formats: [int4], gamma: 2}", "unknown key `gamma`"),
        ] {
            let error = build(stage).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.starts_with("r.yaml:4:") && error.contains(wanted), "{stage}: {error}");
        }
        assert!(build("prune_atoms: {ratio: 0.5, score: decoupled, over_tokens: mean, align: 8}").is_ok());
    }
}
