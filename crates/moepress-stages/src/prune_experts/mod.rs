//! `prune_experts`: removes the least salient experts of every layer, with their router rows.
//!
//! Parameters: `method`, `ratio` (share of each layer's experts to remove, rounded down).

mod frequency;
mod reap;

use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError, percent};
use crate::targets::any_grouped;
use moepress_model::{Edit, ModelSpec};
use moepress_recipe::{RecipeError, StageSpec};
use moepress_stats::{Need, Needs, StatisticsError};

/// Scores of the experts of a layer; the larger, the more it hurts to lose one.
type Score = fn(&Evidence<'_>, usize) -> Result<Vec<f64>, StatisticsError>;
const METHODS: &[(&str, Score)] = &[("reap", reap::score), ("frequency", frequency::score)];

struct PruneExperts {
    method: String,
    score: Score,
    ratio: f64,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    params.only(&["method", "ratio"])?;
    let names: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
    let method = params.word("method", Some("reap"), &names)?;
    let (_, score) = METHODS.iter().find(|(name, _)| *name == method).unwrap_or(&METHODS[0]);
    let ratio = params.f64_in("ratio", None, 0.0..1.0)?;
    Ok(Box::new(PruneExperts { method, score: *score, ratio, params: spec.clone() }))
}

impl PruneExperts {
    fn removed(&self, experts: usize) -> usize {
        (experts as f64 * self.ratio + 1e-9).floor() as usize
    }
}

impl Stage for PruneExperts {
    fn describe(&self) -> String {
        format!("prune_experts {}: {} of each layer", self.method, percent(self.ratio))
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), StageError> {
        if spec.moe_layers().next().is_none() {
            return Err(self.params.error("the model has no routed experts").into());
        }
        if any_grouped(spec) {
            let message = "experts can only be pruned before formats are chosen; put this stage before assign_bits and quantize";
            return Err(self.params.error(message).into());
        }
        for (layer, moe) in spec.moe_layers() {
            let left = moe.experts.len() - self.removed(moe.experts.len());
            if left < moe.routing.top_k {
                let k = moe.routing.top_k;
                let message = format!(
                    "leaves {left} experts in layer {layer}, but its router chooses {k} per token; lower it"
                );
                return Err(self.params.params.error("ratio", message).into());
            }
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs::of([Need::Routing])
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let mut decision = Decision::default();
        for (layer, moe) in evidence.spec.moe_layers() {
            let scores = (self.score)(evidence, layer)?;
            let mut order: Vec<usize> = (0..moe.experts.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let mut experts = order[..moe.experts.len() - self.removed(moe.experts.len())].to_vec();
            if experts.len() < moe.experts.len() {
                experts.sort_unstable();
                decision.edits.push(Edit::KeepExperts { layer, experts });
            }
        }
        if !decision.edits.is_empty() {
            decision.notes.extend(evidence.unreached("score 0, so they go first")?);
        }
        Ok(decision)
    }
}

#[cfg(test)]
mod tests {
    use crate::toy::{decide, toy};
    use moepress_model::Edit;
    use moepress_stats::{Of, Quantity, Statistics};

    fn stats() -> Statistics {
        let mut stats = Statistics::default();
        for layer in 0..2 {
            stats.add(Of::Layer(layer), Quantity::Tokens, vec![2.0, 9.0, 0.0, 4.0]).unwrap();
            stats.add(Of::Layer(layer), Quantity::GateNormSum, vec![16.4214, 9.0, 0.0, 4.0]).unwrap();
        }
        stats
    }

    #[test]
    fn the_lowest_scores_go_and_ties_stay_in_order() {
        // REAP means 8.21, 1, 0 (unreached), 1.
        let reap = decide("prune_experts: {method: reap, ratio: 0.5}", &stats());
        assert_eq!(reap.edits[0], Edit::KeepExperts { layer: 0, experts: vec![0, 1] });
        assert!(reap.notes[0].contains("2 experts were reached by no calibration token"));
        let frequency = decide("prune_experts: {method: frequency, ratio: 0.5}", &stats());
        assert_eq!(frequency.edits[1], Edit::KeepExperts { layer: 1, experts: vec![1, 3] });
        assert!(decide("prune_experts: {ratio: 0.2}", &stats()).edits.is_empty());
        assert!(toy().after(&reap.edits).is_ok());
    }
}
