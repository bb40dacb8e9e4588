//! `prune_experts`: removes the least salient experts of every layer, with their router rows.
//!
//! Parameters: `method`, `ratio` (share of each layer's experts to remove, rounded down). Where a router chooses
//! from groups of rows, as many go from every group, so that the number is rounded down to a multiple of the
//! groups.

mod choose;
mod frequency;
mod reap;

use crate::coverage::Standing;
use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError, percent};
use crate::targets::any_grouped;
use choose::rounds;
use moepress_model::{Edit, ModelSpec, Moe};
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
    /// Experts that go from a layer: a multiple of its groups of router rows.
    fn removed(&self, moe: &Moe) -> usize {
        let groups = moe.routing.group_count();
        asked(moe.experts.len(), self.ratio) / groups * groups
    }

    fn ratio_error(&self, message: String) -> StageError {
        self.params.params.error("ratio", message).into()
    }
}

/// That share of a number of experts, rounded down.
fn asked(experts: usize, ratio: f64) -> usize {
    // The small term keeps 0.7 · 10 from being 6.999….
    (experts as f64 * ratio + 1e-9).floor() as usize
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
            if moe.routing.groups.is_some() && moe.router.len() != moe.experts.len() {
                let message = "merged experts lie in several groups of the router, which must stay of one size; put this stage before merge_experts";
                return Err(self.params.error(message).into());
            }
            let (removed, least) = (self.removed(moe), moe.routing.least_rows());
            let left = moe.experts.len() - removed;
            if removed > 0 && left < least {
                return Err(self.ratio_error(format!(
                    "leaves {left} experts in layer {layer}, but its router {}; lower it",
                    wants(moe)
                )));
            }
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs::of([Need::Routing])
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let mut decision = Decision::default();
        let mut fewer = 0;
        for (layer, moe) in evidence.spec.moe_layers() {
            let (wanted, groups) = (self.removed(moe), moe.routing.group_count());
            fewer += usize::from(wanted < asked(moe.experts.len(), self.ratio));
            let standings = evidence.standings(layer)?;
            let rounds = rounds(moe, &standings, &(self.score)(evidence, layer)?);
            if rounds.len() * groups < wanted {
                let kept = standings.iter().filter(|standing| **standing == Standing::Keep).count();
                return Err(self.ratio_error(format!(
                    "takes {wanted} of the {} experts of layer {layer}, but only {} may go while calibration.below_min_tokens keeps {kept} of them; lower it, or measure on more text",
                    moe.experts.len(),
                    rounds.len() * groups,
                )));
            }
            let gone: Vec<usize> =
                rounds.into_iter().take(wanted / groups).flat_map(|round| round.experts).collect();
            if !gone.is_empty() {
                let experts = (0..moe.experts.len()).filter(|expert| !gone.contains(expert)).collect();
                decision.edits.push(Edit::KeepExperts { layer, experts });
            }
        }
        if fewer > 0 {
            decision.notes.push(format!(
                "{fewer} layers lose fewer experts than asked for: the groups of their routers must stay of one size"
            ));
        }
        if !decision.edits.is_empty() {
            decision.notes.extend(evidence.coverage_notes("were the first to go", "were kept")?);
        }
        Ok(decision)
    }
}

/// What a router needs of its rows, in words.
fn wants(moe: &Moe) -> String {
    let k = moe.routing.top_k;
    match moe.routing.groups {
        None => format!("chooses {k} per token"),
        Some(groups) => format!(
            "chooses {k} per token from {} of {} equal groups, which needs {} experts at least",
            groups.kept,
            groups.count,
            moe.routing.least_rows()
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::evidence::assumed;
    use crate::toy::{decide, decide_on, grouped, stage, toy};
    use moepress_model::{Edit, Group, GroupRank, ModelSpec};
    use moepress_recipe::{BelowMinTokens, Coverage};
    use moepress_stats::{Needs, Of, Quantity, Statistics};

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
    #[test]
    fn the_policy_for_too_few_tokens_decides_who_may_go() {
        // Frequencies 2, 9, 0, 4.
        let kept = |ratio: f64, min_tokens, below| {
            let yaml = format!("prune_experts: {{method: frequency, ratio: {ratio}}}");
            let decision = decide_on(&toy(), &yaml, &stats(), Coverage { min_tokens, below })?;
            match &decision.edits[0] {
                Edit::KeepExperts { experts, .. } => Ok((experts.clone(), decision.notes)),
                other => Err(format!("{other:?}")),
            }
        };
        let experts = |ratio, min, below| kept(ratio, min, below).unwrap().0;
        assert_eq!(experts(0.25, 3, BelowMinTokens::Rank), [0, 1, 3]);
        assert_eq!(experts(0.25, 1, BelowMinTokens::Keep), [1, 2, 3]);
        assert_eq!(experts(0.5, 3, BelowMinTokens::Keep), [0, 2]);
        assert_eq!(experts(0.5, 5, BelowMinTokens::Prune), [1, 3]);
        let (_, notes) = kept(0.5, 3, BelowMinTokens::Keep).unwrap();
        assert!(notes.len() == 2 && notes.iter().all(|note| note.contains("were kept")), "{notes:?}");
        let error = kept(0.5, 5, BelowMinTokens::Keep).unwrap_err();
        assert!(error.starts_with("r.yaml:4:") && error.contains("only 1 may go"), "{error}");
    }

    #[test]
    fn an_expert_without_a_finite_score_of_its_own_is_never_ranked_by_one() {
        // REAP's own best expert, but too few tokens to believe it.
        let coverage = Coverage { min_tokens: 3, below: BelowMinTokens::Prune };
        let decision = decide_on(&toy(), "prune_experts: {ratio: 0.5}", &stats(), coverage).unwrap();
        assert_eq!(decision.edits[0], Edit::KeepExperts { layer: 0, experts: vec![1, 3] });
    }

    fn frequencies(spec: &ModelSpec, tokens: &[f64]) -> Statistics {
        let mut stats = Statistics::default();
        for (layer, _) in spec.moe_layers() {
            stats.add(Of::Layer(layer), Quantity::Tokens, tokens.to_vec()).unwrap();
        }
        stats
    }

    #[test]
    fn groups_of_a_router_stay_of_one_size() {
        let spec = grouped();
        let stats = frequencies(&spec, &[9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0, 0.0, 9.0, 0.0, 9.0]);
        let decide = |ratio: f64| {
            let yaml = format!("prune_experts: {{method: frequency, ratio: {ratio}}}");
            decide_on(&spec, &yaml, &stats, Coverage::default())
        };
        // Five are asked for, three groups give one each: 3, 4, and 10, the later of equals.
        let decision = decide(0.42).unwrap();
        let experts = vec![0, 1, 2, 5, 6, 7, 8, 9, 11];
        assert_eq!(decision.edits[0], Edit::KeepExperts { layer: 0, experts });
        assert!(decision.notes[0].starts_with("2 layers lose fewer experts than asked for"));
        let after = spec.after(&decision.edits).unwrap();
        assert_eq!(after.moe(0).unwrap().router.len(), 9);
        let decision = decide(0.5).unwrap();
        let experts = vec![0, 1, 6, 7, 9, 11];
        assert_eq!(decision.edits[0], Edit::KeepExperts { layer: 0, experts });
        assert_eq!(decision.notes.len(), 1, "{:?}", decision.notes);
        assert!(spec.after(&decision.edits).is_ok());
        assert!(decide(0.2).unwrap().edits.is_empty());
        // One expert per group cannot be ranked by its two best.
        let error = decide(0.75).unwrap_err();
        assert!(error.contains("2 of 3 equal groups, which needs 6 experts at least"), "{error}");
    }

    #[test]
    fn routers_keep_what_they_choose_from() {
        let mut spec = grouped();
        for layer in &mut spec.layers {
            if let moepress_model::Mlp::Moe(moe) = &mut layer.mlp {
                moe.routing.top_k = 4;
                moe.routing.groups.iter_mut().for_each(|groups| {
                    groups.kept = 1;
                    groups.rank = GroupRank::Largest;
                });
            }
        }
        let check = |ratio: f64| stage(&format!("prune_experts: {{ratio: {ratio}}}")).check(&spec);
        assert!(check(0.24).is_ok());
        assert!(check(0.25).unwrap_err().to_string().contains("1 of 3 equal groups, which needs 12 experts"));
    }

    #[test]
    fn merging_leaves_the_rows_of_groups_and_pruning_after_it_is_refused() {
        let spec = grouped();
        let group = |members: &[usize]| {
            let weights = vec![1.0 / members.len() as f64; members.len()];
            Group { members: members.to_vec(), weights }
        };
        let groups = [vec![group(&[0, 5, 11])], (1..11).filter(|e| *e != 5).map(|e| group(&[e])).collect()];
        let merged =
            spec.after(&[Edit::MergeExperts { layer: 0, groups: groups.concat(), align: true }]).unwrap();
        let moe = merged.moe(0).unwrap();
        assert_eq!((moe.router.len(), moe.experts.len()), (12, 10));
        let error = stage("prune_experts: {ratio: 0.25}").check(&merged).unwrap_err().to_string();
        assert!(error.contains("put this stage before merge_experts"), "{error}");
        let stage = stage("merge_experts: {ratio: 0.5}");
        stage.check(&spec).unwrap();
        let (stats, costs) = assumed(&spec, &Needs::default()).unwrap();
        let evidence =
            crate::Evidence { spec: &spec, stats: &stats, costs: &costs, coverage: Coverage::default() };
        let after = spec.after(&stage.decide(&evidence).unwrap().edits).unwrap();
        assert!(after.moe_layers().all(|(_, moe)| moe.router.len() == 12));
        assert_eq!(after.moe_layers().map(|(_, moe)| moe.experts.len()).sum::<usize>(), 12);
    }
}
