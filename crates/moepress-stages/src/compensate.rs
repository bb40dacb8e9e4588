//! `compensate`: fits `down_proj` of every expert anew to the atoms that are left of it, so that the expert returns what
//! it did before, or merged experts together. Training-free; goes after `prune_atoms` or `merge_experts` and before formats are
//! chosen. No parameters.
//!
//! With h what the kept atoms come to and y what the whole expert returned for the same token, both times the gate, of an
//! expert merged of several the sum of what those that the token was sent to returned, each times its own gate:
//! least squares with a ridge towards the weights as they are (budget.md 4). The ridge is chosen on one chunk of
//! calibration windows in four, which the fit does not see; where no fit does better there, the expert is left as it is.
//! The inputs are those that arrive through the layers as they were written before.

use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError};
use crate::targets::any_chosen;
use moepress_model::{Edit, ModelSpec};
use moepress_recipe::{RecipeError, StageSpec};
use moepress_stats::Needs;

struct Compensate {
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    spec.params.only(&[])?;
    Ok(Box::new(Compensate { params: spec.clone() }))
}

impl Stage for Compensate {
    fn describe(&self) -> String {
        "compensate: down_proj of every expert by least squares, ridge chosen on held-out windows".to_owned()
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), StageError> {
        if any_chosen(spec) {
            return Err(self.params.error("goes before the stage that chooses formats").into());
        }
        if spec.moe_layers().next().is_none() {
            return Err(self.params.error("the model has no routed experts").into());
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let experts = |(layer, moe): (usize, &moepress_model::Moe)| {
            let left = moe.experts.iter().enumerate().filter(|(_, expert)| expert.width() > 0);
            left.map(|(expert, _)| Edit::Refit { layer, expert }).collect::<Vec<_>>()
        };
        let edits = evidence.spec.moe_layers().flat_map(experts).collect();
        Ok(Decision { edits, ..Decision::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{decide, decide_on, stage, toy};
    use moepress_recipe::Coverage;
    use moepress_stats::Statistics;

    #[test]
    fn every_expert_with_atoms_is_fitted() {
        let keep = |atoms| Edit::KeepAtoms { layer: 1, expert: 2, atoms };
        let emptied = toy().after(&[keep(vec![])]).unwrap();
        let of = |spec: &ModelSpec| {
            decide_on(spec, "compensate", &Statistics::default(), Coverage::default()).unwrap().edits
        };
        assert_eq!((of(&toy()).len(), of(&emptied).len()), (8, 7));
        assert!(!of(&emptied).contains(&Edit::Refit { layer: 1, expert: 2 }));
        assert_eq!(toy().after(&of(&toy())).unwrap(), toy());
    }

    #[test]
    fn formats_come_later() {
        let rounded = toy().after(&decide("quantize: {format: int4}", &Statistics::default()).edits).unwrap();
        let refused = stage("compensate").check(&rounded).unwrap_err().to_string();
        assert!(refused.contains("goes before the stage that chooses formats"), "{refused}");
    }
}
