//! Which atoms stay, given their scores.

use std::collections::BTreeMap;

/// Consecutive atoms of one expert, in the order of their scores, that stay or go together.
pub(super) struct Run {
    /// Atoms of one scope are ranked together.
    pub(super) scope: (usize, usize),
    /// Layer and index.
    pub(super) expert: (usize, usize),
    pub(super) atoms: Vec<usize>,
    /// Mean score.
    pub(super) mean: f64,
    /// Whether it stays whatever its score.
    pub(super) fixed: bool,
}

/// A scope in which more atoms must stay than there is room for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) scope: (usize, usize),
    pub(super) room: usize,
    pub(super) fixed: usize,
}

/// The atoms of an expert by falling score (ties: lower index first), in runs of `align`.
pub(super) fn cut(scores: &[f64], align: usize) -> impl Iterator<Item = Vec<usize>> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.chunks(align).map(<[usize]>::to_vec).collect::<Vec<_>>().into_iter()
}

/// The kept atoms of every expert, ascending: within each scope the fixed runs, then the best that fit into
/// floor((1 − ratio) · atoms); ties by layer, expert, atom.
pub(super) fn keep(mut runs: Vec<Run>, ratio: f64) -> Result<BTreeMap<(usize, usize), Vec<usize>>, Shortage> {
    // All atoms of a scope, and those that must stay.
    let mut atoms: BTreeMap<(usize, usize), (usize, usize)> = BTreeMap::new();
    for run in &runs {
        let (all, fixed) = atoms.entry(run.scope).or_default();
        *all += run.atoms.len();
        *fixed += if run.fixed { run.atoms.len() } else { 0 };
    }
    let mut rooms: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (scope, (all, fixed)) in atoms {
        // The small term keeps 0.7 · 10 from being 6.999….
        let room = (all as f64 * (1.0 - ratio) + 1e-9).floor() as usize;
        if fixed > room {
            return Err(Shortage { scope, room, fixed });
        }
        rooms.insert(scope, room);
    }
    runs.sort_by(|a, b| {
        let by_score = b.fixed.cmp(&a.fixed).then(b.mean.total_cmp(&a.mean));
        by_score.then_with(|| (a.expert, &a.atoms).cmp(&(b.expert, &b.atoms)))
    });
    let mut kept: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for run in runs {
        if let Some(room) = rooms.get_mut(&run.scope).filter(|room| **room >= run.atoms.len()) {
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
    use proptest::prelude::*;

    /// One scope per expert or one for all; scores from few values, so that ties abound.
    fn runs(experts: &[Vec<u8>], align: usize, apart: bool, floor: usize) -> Vec<Run> {
        let of = |(expert, scores): (usize, &Vec<u8>)| {
            let scores: Vec<f64> = scores.iter().map(|&score| f64::from(score)).collect();
            let scope = (if apart { expert } else { 0 }, 0);
            let run = |(index, atoms): (usize, Vec<usize>)| Run {
                scope,
                expert: (0, expert),
                mean: atoms.iter().map(|&atom| scores[atom]).sum::<f64>() / atoms.len() as f64,
                atoms,
                fixed: index * align < floor,
            };
            cut(&scores, align).enumerate().map(run).collect::<Vec<_>>()
        };
        experts.iter().enumerate().flat_map(of).collect()
    }

    proptest! {
        #[test]
        fn single_atoms_are_the_best_of_all_and_exactly_as_many_as_asked(
            experts in prop::collection::vec(prop::collection::vec(0u8..4, 1..9), 1..6),
            ratio in 0.0f64..1.0,
        ) {
            let kept = keep(runs(&experts, 1, false, 0), ratio).unwrap();
            // Brute force: all atoms by falling score, then expert, then atom.
            let mut all: Vec<(u8, usize, usize)> = Vec::new();
            for (expert, scores) in experts.iter().enumerate() {
                all.extend(scores.iter().enumerate().map(|(atom, &score)| (u8::MAX - score, expert, atom)));
            }
            all.sort_unstable();
            all.truncate((all.len() as f64 * (1.0 - ratio) + 1e-9).floor() as usize);
            let mut wanted: Vec<(usize, usize)> = all.into_iter().map(|(_, e, atom)| (e, atom)).collect();
            wanted.sort_unstable();
            let found: Vec<(usize, usize)> =
                kept.iter().flat_map(|((_, e), atoms)| atoms.iter().map(|&atom| (*e, atom))).collect();
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn runs_and_floors_hold_in_every_scope(
            experts in prop::collection::vec(prop::collection::vec(0u8..4, 1..9), 1..6),
            ratio in 0.0f64..1.0, align in 1usize..4, floor in 0usize..5, apart: bool,
        ) {
            let room = |atoms: usize| (atoms as f64 * (1.0 - ratio) + 1e-9).floor() as usize;
            let stays = |e: &Vec<u8>| floor.next_multiple_of(align).min(e.len());
            match keep(runs(&experts, align, apart, floor), ratio) {
                Err(short) => prop_assert!(short.fixed > short.room),
                Ok(kept) => {
                    let width = |e: usize| kept.get(&(0, e)).map_or(0, Vec::len);
                    for (e, scores) in experts.iter().enumerate() {
                        prop_assert!(width(e) >= stays(scores));
                        prop_assert!(!apart || width(e) <= room(scores.len()));
                    }
                    let all = experts.iter().map(Vec::len).sum();
                    prop_assert!((0..experts.len()).map(width).sum::<usize>() <= room(all));
                }
            }
        }
    }
}
