//! `merge_experts`: replaces groups of experts by one; the router keeps its rows and sums their gates.
//!
//! Parameters: `method`, `ratio` (share of the experts that disappear), `grouping` (what makes experts alike),
//! `align` (whether the atoms of a group are matched to those of its first expert), `low_rank` and `rest` (below), and those
//! of the method.
//!
//! A group becomes the mean of its experts weighted by the tokens routed to each, the plain mean where none was.

mod alike;
mod hc_smoe;
mod low_rank;
mod m_smoe;

use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError, other_share, percent};
use crate::targets::any_chosen;
use alike::Alike;
use low_rank::Parts;
use moepress_model::{Edit, Group, ModelSpec};
use moepress_recipe::{Params, RecipeError, StageSpec};
use moepress_stats::{Needs, StatisticsError};

/// Groups of experts per layer: the one that the others are aligned to first.
type Groups = Vec<(usize, Vec<Vec<usize>>)>;

/// A rule that groups experts.
trait Grouping: Send + Sync {
    fn describe(&self) -> String;
    fn needs(&self) -> Needs;
    /// Groups of the experts of all layers, about `ratio` fewer than experts.
    fn groups(&self, evidence: &Evidence<'_>, ratio: f64) -> Result<Groups, StatisticsError>;
}

type Build = fn(&Params) -> Result<Box<dyn Grouping>, RecipeError>;
const METHODS: &[(&str, Build, &[&str])] =
    &[("m_smoe", m_smoe::build, m_smoe::KEYS), ("hc_smoe", hc_smoe::build, hc_smoe::KEYS)];

struct MergeExperts {
    grouping: Box<dyn Grouping>,
    ratio: f64,
    align: bool,
    low_rank: Option<Parts>,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    let names: Vec<&str> = METHODS.iter().map(|(name, ..)| *name).collect();
    let method = params.word("method", Some("m_smoe"), &names)?;
    let (_, grouping, keys) = METHODS.iter().find(|(name, ..)| *name == method).unwrap_or(&METHODS[0]);
    params.only(&[&["method", "ratio", "grouping", "align"], low_rank::KEYS, *keys].concat())?;
    Ok(Box::new(MergeExperts {
        grouping: grouping(params)?,
        ratio: params.f64_in("ratio", None, 0.0..1.0)?,
        align: params.bool("align", Some(true))?,
        low_rank: Parts::read(params)?,
        params: spec.clone(),
    }))
}

/// Experts that are left of `experts`.
fn left(experts: usize, ratio: f64) -> usize {
    ((experts as f64 * (1.0 - ratio) + 0.5).floor() as usize).max(1)
}

impl Stage for MergeExperts {
    fn describe(&self) -> String {
        let align = if self.align { "" } else { ", not aligned" };
        let fewer = percent(self.ratio);
        let low_rank = self.low_rank.as_ref().map(Parts::describe).unwrap_or_default();
        format!("merge_experts {}: {fewer} fewer experts{align}{low_rank}", self.grouping.describe())
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), StageError> {
        if spec.moe_layers().next().is_none() {
            return Err(self.params.error("the model has no routed experts").into());
        }
        for (_, moe) in spec.moe_layers() {
            let whole =
                |e: &moepress_model::Expert| e.segments == moe.experts[0].segments && e.segments.len() == 1;
            if any_chosen(spec) || !moe.experts.iter().all(whole) {
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
        Ok(self.low_rank.as_ref().map_or(Ok(()), |parts| parts.check(spec, &self.params.params))?)
    }

    fn needs(&self) -> Needs {
        self.grouping.needs()
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let mut decision = Decision::default();
        let (mut plain, mut all, mut left) = (0, 0, 0);
        for (layer, groups) in self.grouping.groups(evidence, self.ratio)? {
            let tokens = evidence.tokens(layer)?;
            (all, left) = (all + tokens.len(), left + groups.len());
            let count = groups.len();
            let stored = || self.low_rank.iter().flat_map(|parts| parts.edits(evidence.spec, layer, count));
            if count == tokens.len() {
                decision.edits.extend(stored());
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
            decision.edits.extend(stored());
        }
        if left < all {
            decision.notes.extend(evidence.unreached("weigh nothing in the means they join")?);
        }
        let why = "shares of experts are rounded down, and every layer keeps one at least";
        decision.notes.extend(other_share("experts", all - left, all, self.ratio, why));
        if plain > 0 {
            decision.notes.push(format!("{plain} groups of only unreached experts became plain means"));
        }
        Ok(decision)
    }
}

/// The names of all methods.
#[cfg(test)]
pub(crate) fn names() -> Vec<&'static str> {
    METHODS.iter().map(|(name, ..)| *name).collect()
}
