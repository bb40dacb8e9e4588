//! `merge_experts`: replaces groups of experts by one; the router keeps its rows and sums their gates.
//!
//! Parameters: `method`, `ratio` (share of the experts that disappear), `dominant` (global | per_layer: over
//! which experts the ones that others join are chosen), `align`.

mod m_smoe;

use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError, percent};
use crate::targets::any_grouped;
use moepress_model::{Edit, Group, ModelSpec};
use moepress_recipe::{RecipeError, StageSpec};
use moepress_stats::{Need, Needs, StatisticsError};

/// Groups of experts per layer: the reference of each first.
type Groups = Vec<(usize, Vec<Vec<usize>>)>;
/// How to group, given the share to remove and whether dominant experts are chosen over all layers.
type Method = fn(&Evidence<'_>, f64, bool) -> Result<Groups, StatisticsError>;
const METHODS: &[(&str, Method)] = &[("m_smoe", m_smoe::groups)];

struct MergeExperts {
    name: String,
    method: Method,
    ratio: f64,
    global: bool,
    align: bool,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    params.only(&["method", "ratio", "dominant", "align"])?;
    let names: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
    let name = params.word("method", Some("m_smoe"), &names)?;
    let (_, method) = METHODS.iter().find(|(known, _)| *known == name).unwrap_or(&METHODS[0]);
    Ok(Box::new(MergeExperts {
        method: *method,
        ratio: params.f64_in("ratio", None, 0.0..1.0)?,
        global: params.word("dominant", Some("global"), &["global", "per_layer"])? == "global",
        align: params.bool("align", Some(true))?,
        name,
        params: spec.clone(),
    }))
}

impl Stage for MergeExperts {
    fn describe(&self) -> String {
        let scope = if self.global { "globally" } else { "per layer" };
        let align = if self.align { "" } else { ", not aligned" };
        let fewer = percent(self.ratio);
        format!("merge_experts {}: {fewer} fewer experts, dominant {scope}{align}", self.name)
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), StageError> {
        if spec.moe_layers().next().is_none() {
            return Err(self.params.error("the model has no routed experts").into());
        }
        for (_, moe) in spec.moe_layers() {
            let whole =
                |e: &moepress_model::Expert| e.segments == moe.experts[0].segments && e.segments.len() == 1;
            if any_grouped(spec) || !moe.experts.iter().all(whole) {
                let message = "experts can only be merged while all have one width and no format is chosen; put this stage first";
                return Err(self.params.error(message).into());
            }
            if !moe.router.iter().copied().eq(0..moe.experts.len()) {
                return Err(self
                    .params
                    .error("experts were merged before; one merge_experts stage per recipe")
                    .into());
            }
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs::of([Need::Routing])
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let mut decision = Decision::default();
        let mut plain = 0;
        for (layer, groups) in (self.method)(evidence, self.ratio, self.global)? {
            let tokens = evidence.tokens(layer)?;
            if groups.len() == tokens.len() {
                continue;
            }
            let weigh = |members: Vec<usize>| {
                let sum: f64 = members.iter().map(|&e| tokens[e]).sum();
                let weights = match sum > 0.0 {
                    true => members.iter().map(|&e| tokens[e] / sum).collect(),
                    false => vec![1.0 / members.len() as f64; members.len()],
                };
                (sum <= 0.0 && members.len() > 1, Group { members, weights })
            };
            let groups: Vec<(bool, Group)> = groups.into_iter().map(weigh).collect();
            plain += groups.iter().filter(|(unused, _)| *unused).count();
            let groups = groups.into_iter().map(|(_, group)| group).collect();
            decision.edits.push(Edit::MergeExperts { layer, groups, align: self.align });
        }
        if !decision.edits.is_empty() {
            decision.notes.extend(evidence.unreached("weigh nothing in the means they join")?);
        }
        if plain > 0 {
            decision.notes.push(format!("{plain} groups of only unreached experts became plain means"));
        }
        Ok(decision)
    }
}
