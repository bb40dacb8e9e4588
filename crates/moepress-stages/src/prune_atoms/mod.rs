//! `prune_atoms`: removes the least salient atoms of the routed experts.
//!
//! Parameters: `method`, `ratio` (share of all routed atoms to remove), `ranking` (global | per_layer |
//! per_expert), `align` (atoms are kept or removed in runs of that many), and those of the method.

mod heapr;

use crate::coverage::Standing;
use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError, percent};
use crate::targets::any_grouped;
use moepress_model::{Edit, ModelSpec};
use moepress_recipe::{Params, RecipeError, StageSpec};
use moepress_stats::{Needs, StatisticsError};
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
}

type Build = fn(&Params) -> Result<Box<dyn Saliency>, RecipeError>;
const METHODS: &[(&str, Build, &[&str])] = &[("heapr", heapr::build, heapr::KEYS)];

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
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    let names: Vec<&str> = METHODS.iter().map(|(name, ..)| *name).collect();
    let method = params.word("method", Some("heapr"), &names)?;
    let (_, saliency, keys) = METHODS.iter().find(|(name, ..)| *name == method).unwrap_or(&METHODS[0]);
    params.only(&[&["method", "ratio", "ranking", "align"], *keys].concat())?;
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
        params: spec.clone(),
    }))
}

impl PruneAtoms {
    fn shortage(&self, short: &Shortage) -> StageError {
        let place = match self.ranking {
            Ranking::Global => String::new(),
            Ranking::PerLayer => format!(" in layer {}", short.scope.0),
            Ranking::PerExpert => format!(" in expert {} of layer {}", short.scope.1, short.scope.0),
        };
        let message = format!(
            "leaves room for {} atoms{place}, but {} must stay while calibration.below_min_tokens keeps experts with too few tokens; lower it, rank over more experts, or measure on more text",
            short.room, short.fixed
        );
        self.params.params.error("ratio", message).into()
    }
}

/// A scope in which more atoms must stay than there is room for.
struct Shortage {
    scope: (usize, usize),
    room: usize,
    fixed: usize,
}

/// Consecutive atoms of one expert, in the order of their scores, that stay or go together.
struct Run {
    scope: (usize, usize),
    standing: Standing,
    expert: (usize, usize),
    atoms: Vec<usize>,
    mean: f64,
}

impl Stage for PruneAtoms {
    fn describe(&self) -> String {
        let ranking = match self.ranking {
            Ranking::Global => "globally",
            Ranking::PerLayer => "per layer",
            Ranking::PerExpert => "per expert",
        };
        let align = if self.align > 1 { format!(", in runs of {}", self.align) } else { String::new() };
        format!("prune_atoms {}: {} ranked {ranking}{align}", self.saliency.describe(), percent(self.ratio))
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), StageError> {
        if spec.moe_layers().next().is_none() {
            return Err(self.params.error("the model has no routed experts").into());
        }
        let cut = spec.moe_layers().any(|(_, moe)| moe.experts.iter().any(|e| e.segments.len() > 1));
        if cut || any_grouped(spec) {
            let message = "atoms can only be pruned before formats are chosen; put this stage before assign_bits and quantize";
            return Err(self.params.error(message).into());
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        self.saliency.needs()
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let mut runs = Vec::new();
        for (layer, moe) in evidence.spec.moe_layers() {
            let standings = evidence.standings(layer)?;
            for (expert, e) in moe.experts.iter().enumerate().filter(|(_, e)| e.width() > 0) {
                let standing = standings[expert];
                let scores = match standing {
                    Standing::Measured => self.saliency.score(evidence, layer, expert)?,
                    Standing::First | Standing::Keep => vec![0.0; e.width()],
                };
                let scope = match self.ranking {
                    Ranking::Global => (0, 0),
                    Ranking::PerLayer => (layer, 0),
                    Ranking::PerExpert => (layer, expert),
                };
                runs.extend(cut_runs(&scores, self.align).map(|atoms| {
                    let sum: f64 = atoms.iter().map(|&atom| scores[atom]).sum();
                    Run { scope, standing, expert: (layer, expert), mean: sum / atoms.len() as f64, atoms }
                }));
            }
        }
        let kept = keep(runs, self.ratio).map_err(|short| self.shortage(&short))?;
        let mut decision = Decision::default();
        for (layer, moe) in evidence.spec.moe_layers() {
            for (expert, e) in moe.experts.iter().enumerate() {
                let atoms = kept.get(&(layer, expert)).cloned().unwrap_or_default();
                if atoms.len() < e.width() {
                    decision.edits.push(Edit::KeepAtoms { layer, expert, atoms });
                }
            }
        }
        if !decision.edits.is_empty() {
            decision.notes.extend(evidence.coverage_notes("lost their atoms first", "kept all their atoms")?);
        }
        let empty = |edit: &&Edit| matches!(edit, Edit::KeepAtoms { atoms, .. } if atoms.is_empty());
        let emptied = decision.edits.iter().filter(empty).count();
        if emptied > 0 {
            decision.notes.push(format!(
                "{emptied} experts have no atoms left; they stay in the router and contribute zero"
            ));
        }
        Ok(decision)
    }
}

/// The atoms of an expert by falling score (ties: lower index first), in runs of `align`.
fn cut_runs(scores: &[f64], align: usize) -> impl Iterator<Item = Vec<usize>> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.chunks(align).map(<[usize]>::to_vec).collect::<Vec<_>>().into_iter()
}

/// The kept atoms of every expert, ascending: within each scope the best runs that fit into
/// floor((1 − ratio) · atoms); ties by layer, expert, atom. All runs of experts that stay as they are are kept.
fn keep(mut runs: Vec<Run>, ratio: f64) -> Result<BTreeMap<(usize, usize), Vec<usize>>, Shortage> {
    // All atoms, and those that must stay.
    let mut atoms: BTreeMap<(usize, usize), (usize, usize)> = BTreeMap::new();
    for run in &runs {
        let (all, fixed) = atoms.entry(run.scope).or_default();
        *all += run.atoms.len();
        *fixed += if run.standing == Standing::Keep { run.atoms.len() } else { 0 };
    }
    let mut room: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (scope, (all, fixed)) in atoms {
        // The small term keeps 0.7 · 10 from being 6.999….
        let room_here = (all as f64 * (1.0 - ratio) + 1e-9).floor() as usize;
        if fixed > room_here {
            return Err(Shortage { scope, room: room_here, fixed });
        }
        room.insert(scope, room_here);
    }
    runs.sort_by(|a, b| {
        let by_score = b.standing.cmp(&a.standing).then(b.mean.total_cmp(&a.mean));
        by_score.then_with(|| (a.expert, &a.atoms).cmp(&(b.expert, &b.atoms)))
    });
    let mut kept: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for run in runs {
        if let Some(room) = room.get_mut(&run.scope).filter(|room| **room >= run.atoms.len()) {
            *room -= run.atoms.len();
            kept.entry(run.expert).or_default().extend(run.atoms);
        }
    }
    kept.values_mut().for_each(|atoms| atoms.sort_unstable());
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{decide, decide_on, toy};
    use moepress_recipe::{BelowMinTokens, Coverage};
    use moepress_stats::{Of, Quantity, Statistics};

    fn stats() -> Statistics {
        let mut stats = Statistics::default();
        for layer in 0..2 {
            stats.add(Of::Layer(layer), Quantity::Tokens, vec![2.0, 4.0, 0.0, 1.0]).unwrap();
            for expert in 0..4 {
                let base = (layer * 40 + expert * 8) as f64;
                let values: Vec<f64> = (0..6).map(|atom| base + f64::from((atom * 5) % 6)).collect();
                for quantity in [Quantity::AtomEnergy, Quantity::AtomGradient, Quantity::AtomCoupled] {
                    stats.add(Of::Expert(layer, expert), quantity, values.clone()).unwrap();
                }
            }
        }
        stats
    }

    fn widths(edits: &[Edit]) -> Vec<usize> {
        let spec = toy().after(edits).unwrap();
        spec.moe_layers()
            .flat_map(|(_, moe)| moe.experts.iter().map(moepress_model::Expert::width).collect::<Vec<_>>())
            .collect()
    }

    #[test]
    fn keeps_exactly_the_share_and_loses_unreached_experts_first() {
        let decision = decide("prune_atoms: {ratio: 0.25, score: coupled}", &stats());
        let kept = widths(&decision.edits);
        assert_eq!(kept.iter().sum::<usize>(), 36);
        assert_eq!((kept[2], kept[6]), (0, 0));
        assert!(decision.notes[0].contains("0.2 1.2"), "{:?}", decision.notes);
        for (ratio, total) in [(0.0, 48), (0.3, 33), (0.99, 0)] {
            let decision = decide(&format!("prune_atoms: {{ratio: {ratio}}}"), &stats());
            assert_eq!(widths(&decision.edits).iter().sum::<usize>(), total);
        }
    }

    #[test]
    fn ranking_scopes_hold_the_share_within_them() {
        let per_layer = widths(&decide("prune_atoms: {ratio: 0.5, ranking: per_layer}", &stats()).edits);
        assert_eq!(per_layer[..4].iter().sum::<usize>(), 12);
        let per_expert = widths(&decide("prune_atoms: {ratio: 0.5, ranking: per_expert}", &stats()).edits);
        assert_eq!(per_expert, [3; 8]);
        let aligned = widths(&decide("prune_atoms: {ratio: 0.4, align: 4}", &stats()).edits);
        assert!(aligned.iter().all(|w| [0, 2, 4, 6].contains(w)) && aligned.iter().sum::<usize>() <= 28);
    }
    #[test]
    fn the_policy_for_too_few_tokens_decides_who_loses_atoms() {
        // Tokens 2, 4, 0, 1 in both layers.
        let decide = |yaml: &str, min_tokens, below| {
            let decision = decide_on(&toy(), yaml, &stats(), Coverage { min_tokens, below });
            decision.map(|decision| (widths(&decision.edits), decision.notes))
        };
        let (kept, notes) = decide("prune_atoms: {ratio: 0.5}", 2, BelowMinTokens::Keep).unwrap();
        assert_eq!(kept.iter().sum::<usize>(), 24);
        assert_eq!([kept[2], kept[3], kept[6], kept[7]], [6; 4]);
        assert!(notes.len() >= 2 && notes[..2].iter().all(|note| note.contains("kept all their atoms")));
        let (kept, _) = decide("prune_atoms: {ratio: 0.5}", 2, BelowMinTokens::Prune).unwrap();
        assert_eq!(kept, [6, 6, 0, 0, 6, 6, 0, 0]);
        let (ranked, notes) = decide("prune_atoms: {ratio: 0.5}", 2, BelowMinTokens::Rank).unwrap();
        assert_eq!(ranked, widths(&super::tests::decide("prune_atoms: {ratio: 0.5}", &stats()).edits));
        assert!(notes[1].contains("0.3 1.3"), "{notes:?}");
        for (yaml, place) in [
            ("prune_atoms: {ratio: 0.6}", "for 19 atoms, but 24"),
            ("prune_atoms: {ratio: 0.6, ranking: per_layer}", "for 9 atoms in layer 0, but 12"),
            ("prune_atoms: {ratio: 0.1, ranking: per_expert}", "for 5 atoms in expert 2 of layer 0, but 6"),
        ] {
            let error = decide(yaml, 2, BelowMinTokens::Keep).unwrap_err();
            assert!(error.starts_with("r.yaml:4:") && error.contains(place), "{error}");
        }
    }
}
