//! `prune_experts`: removes the least salient experts, with their router rows.
//!
//! Parameters: `method`, `ratio` (share of the experts to remove, rounded down), `ranking` (per_layer: that share
//! of each layer's experts; global: of all experts, wherever the least salient are), `floor` (least experts a
//! layer keeps under global ranking; never fewer than its router needs), `protect`, and those of the method.
//!
//! Scores of different layers are not of one scale, so globally an expert counts by its share of the sum of its
//! layer's scores, as M-SMoE (arXiv 2310.01334) does with the usage of experts.
//!
//! Where a router chooses from groups of rows, as many experts go from every group, so that the number is rounded
//! down to a multiple of the groups.

mod choose;
mod ean;
mod frequency;
mod heapr;
mod protect;
mod reap;
mod tcess;
mod weighted_frequency;

use crate::coverage::Standing;
use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError, other_share, percent};
use crate::targets::any_chosen;
use choose::{Candidates, globally};
use moepress_model::{Edit, ModelSpec, Moe};
use moepress_recipe::{Params, RecipeError, StageSpec};
use moepress_stats::{Need, Needs};
use protect::Protect;

/// Scores of the experts of a layer; the larger, the more it hurts to lose one.
type Score = Box<dyn Fn(&Evidence<'_>, usize) -> Result<Vec<f64>, StageError> + Send + Sync>;

/// A method with what it was told.
struct Criterion {
    name: String,
    needs: Needs,
    score: Score,
    /// Whether scores may be below 0, so that shares of their sum mean nothing.
    signed: bool,
}

impl Criterion {
    /// One of sums that are never below 0.
    fn new(
        name: &str,
        need: Need,
        score: impl Fn(&Evidence<'_>, usize) -> Result<Vec<f64>, StageError> + Send + Sync + 'static,
    ) -> Self {
        let needs = Needs::of([Need::Routing, need]);
        Self { name: name.to_owned(), needs, score: Box::new(score), signed: false }
    }
}

type Build = fn(&Params) -> Result<Criterion, RecipeError>;
const METHODS: &[(&str, Build, &[&str])] = &[
    ("reap", reap::build, reap::KEYS),
    ("frequency", |_| Ok(Criterion::new("frequency", Need::Routing, frequency::score)), &[]),
    (
        "weighted_frequency",
        |_| Ok(Criterion::new("weighted_frequency", Need::Routing, weighted_frequency::score)),
        &[],
    ),
    ("ean", ean::build, ean::KEYS),
    ("heapr", |_| Ok(Criterion::new("heapr", Need::Atoms, heapr::score)), &[]),
    ("tcess", tcess::build, tcess::KEYS),
];

#[derive(Clone, Copy)]
enum Ranking {
    PerLayer,
    /// With the least experts that a layer keeps.
    Global(usize),
}

struct PruneExperts {
    criterion: Criterion,
    protect: Protect,
    ratio: f64,
    ranking: Ranking,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    let names: Vec<&str> = METHODS.iter().map(|(name, ..)| *name).collect();
    let method = params.word("method", Some("reap"), &names)?;
    let (_, build, keys) = METHODS.iter().find(|(name, ..)| *name == method).unwrap_or(&METHODS[0]);
    params.only(&[&["method", "ratio", "ranking", "floor", "protect"], *keys].concat())?;
    let criterion = build(params)?;
    let ranking = match params.word("ranking", Some("per_layer"), &["per_layer", "global"])?.as_str() {
        "global" => Ranking::Global(params.usize_in("floor", Some(1), 1..)?),
        _ if params.has("floor") => {
            return Err(
                params.error("floor", "is for ranking: global; per layer every layer loses its share")
            );
        }
        _ => Ranking::PerLayer,
    };
    if criterion.signed && matches!(ranking, Ranking::Global(_)) {
        let message = "scores that may be below 0 are not comparable between layers; rank per_layer";
        return Err(params.error("ranking", message));
    }
    let ratio = params.f64_in("ratio", None, 0.0..1.0)?;
    let protect = Protect::read(params)?;
    Ok(Box::new(PruneExperts { criterion, protect, ratio, ranking, params: spec.clone() }))
}

impl PruneExperts {
    /// Experts that go from a layer when every layer loses its share: a multiple of its groups of router rows.
    fn removed(&self, moe: &Moe) -> usize {
        let groups = moe.routing.group_count();
        asked(moe.experts.len(), self.ratio) / groups * groups
    }

    fn ratio_error(&self, message: String) -> StageError {
        self.params.params.error("ratio", message).into()
    }

    fn check_each(&self, spec: &ModelSpec) -> Result<(), StageError> {
        for (layer, moe) in spec.moe_layers() {
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

    fn check_all(&self, spec: &ModelSpec, floor: usize) -> Result<(), StageError> {
        let (mut all, mut may_go, mut most_groups) = (0, 0, 1);
        for (_, moe) in spec.moe_layers() {
            let (experts, groups) = (moe.experts.len(), moe.routing.group_count());
            all += experts;
            may_go += experts.saturating_sub(floor.max(moe.routing.least_rows())) / groups * groups;
            most_groups = most_groups.max(groups);
        }
        let asked = asked(all, self.ratio);
        match asked >= may_go + most_groups {
            true => Err(self.ratio_error(format!(
                "takes {asked} of {all} experts, but {} only {may_go} may go; lower it",
                if self.params.params.has("floor") {
                    format!("with a floor of {floor}, and what routers choose from,")
                } else {
                    "with what routers choose from".to_owned()
                }
            ))),
            false => Ok(()),
        }
    }

    /// How many rounds of candidates go from every layer.
    fn rounds(&self, spec: &ModelSpec, layers: &[Candidates]) -> Result<Vec<usize>, StageError> {
        let kept = "may go while the others stay, protected or kept by calibration.below_min_tokens; lower it, protect fewer, or measure on more text";
        let Ranking::Global(floor) = self.ranking else {
            let each = spec.moe_layers().zip(layers).map(|((layer, moe), candidates)| {
                let (wanted, may_go) = (self.removed(moe), candidates.rounds.len() * candidates.groups);
                match wanted > may_go {
                    true => Err(self.ratio_error(format!(
                        "takes {wanted} of the {} experts of layer {layer}, but only {may_go} {kept}",
                        candidates.experts
                    ))),
                    false => Ok(wanted / candidates.groups),
                }
            });
            return each.collect();
        };
        let floors: Vec<usize> =
            spec.moe_layers().map(|(_, moe)| floor.max(moe.routing.least_rows())).collect();
        let all: usize = layers.iter().map(|candidates| candidates.experts).sum();
        let asked = asked(all, self.ratio);
        let rounds = globally(layers, &floors, asked);
        let removed: usize = rounds.iter().zip(layers).map(|(n, candidates)| n * candidates.groups).sum();
        let most_groups = layers.iter().map(|candidates| candidates.groups).max().unwrap_or(1);
        match asked >= removed + most_groups {
            true => {
                Err(self.ratio_error(format!("takes {asked} of {all} experts, but only {removed} {kept}")))
            }
            false => Ok(rounds),
        }
    }

    /// How many experts fewer go than were asked for, because groups of router rows must stay of one size.
    fn fewer(&self, layers: &[Candidates], rounds: &[usize]) -> usize {
        let removed: usize = rounds.iter().zip(layers).map(|(n, candidates)| n * candidates.groups).sum();
        let experts = layers.iter().map(|candidates| candidates.experts);
        let wanted = match self.ranking {
            Ranking::PerLayer => experts.map(|experts| asked(experts, self.ratio)).sum(),
            Ranking::Global(_) => asked(experts.sum(), self.ratio),
        };
        wanted - removed
    }
}

/// That share of a number of experts, rounded down.
fn asked(experts: usize, ratio: f64) -> usize {
    // The small term keeps 0.7 · 10 from being 6.999….
    (experts as f64 * ratio + 1e-9).floor() as usize
}

impl Stage for PruneExperts {
    fn describe(&self) -> String {
        let share = percent(self.ratio);
        match self.ranking {
            Ranking::PerLayer => format!("prune_experts {}: {share} of each layer", self.criterion.name),
            Ranking::Global(1) => format!("prune_experts {}: {share} ranked globally", self.criterion.name),
            Ranking::Global(floor) => {
                format!(
                    "prune_experts {}: {share} ranked globally, {floor} of each layer stay",
                    self.criterion.name
                )
            }
        }
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), StageError> {
        if spec.moe_layers().next().is_none() {
            return Err(self.params.error("the model has no routed experts").into());
        }
        if any_chosen(spec) {
            let message = "experts can only be pruned before formats are chosen; put this stage before assign_bits and quantize";
            return Err(self.params.error(message).into());
        }
        let merged = |moe: &Moe| moe.routing.groups.is_some() && moe.router.len() != moe.experts.len();
        if spec.moe_layers().any(|(_, moe)| merged(moe)) {
            let message = "merged experts lie in several groups of the router, which must stay of one size; put this stage before merge_experts";
            return Err(self.params.error(message).into());
        }
        self.protect.check(spec, &self.params.params)?;
        match self.ranking {
            Ranking::PerLayer => self.check_each(spec),
            Ranking::Global(floor) => self.check_all(spec, floor),
        }
    }

    fn needs(&self) -> Needs {
        self.criterion.needs.clone()
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let (protected, note) = self.protect.places(evidence)?;
        let mut layers = Vec::new();
        for (layer, moe) in evidence.spec.moe_layers() {
            let (mut standings, scores) =
                (evidence.standings(layer)?, (self.criterion.score)(evidence, layer)?);
            for &(_, expert) in protected.iter().filter(|(of, _)| *of == layer) {
                standings[expert] = Standing::Keep;
            }
            layers.push(Candidates::of(moe, &standings, &scores));
        }
        let rounds = self.rounds(evidence.spec, &layers)?;
        let mut decision = Decision { notes: note.into_iter().collect(), ..Decision::default() };
        let fewer = self.fewer(&layers, &rounds);
        if fewer > 0 {
            let fewer = match fewer {
                1 => "1 expert fewer was".to_owned(),
                _ => format!("{fewer} experts fewer were"),
            };
            let why = "the groups of a router must stay of one size";
            decision.notes.push(format!("{fewer} removed than asked for: {why}"));
        }
        let all = layers.iter().map(|candidates| candidates.experts).sum();
        let mut removed = 0;
        for (((layer, _), candidates), rounds) in evidence.spec.moe_layers().zip(layers).zip(rounds) {
            let going = candidates.rounds.into_iter().take(rounds);
            let gone: Vec<usize> = going.flat_map(|round| round.experts).collect();
            removed += gone.len();
            if !gone.is_empty() {
                let experts = (0..candidates.experts).filter(|expert| !gone.contains(expert)).collect();
                decision.edits.push(Edit::KeepExperts { layer, experts });
            }
        }
        if fewer == 0 {
            let why = "shares of experts are rounded down";
            decision.notes.extend(other_share("experts", removed, all, self.ratio, why));
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

/// The names of all methods.
#[cfg(test)]
pub(crate) fn names() -> Vec<&'static str> {
    METHODS.iter().map(|(name, ..)| *name).collect()
}

#[cfg(test)]
mod tests;
