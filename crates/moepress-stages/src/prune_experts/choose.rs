//! Which experts go, given their scores.

use crate::coverage::Standing;
use moepress_model::Moe;

/// The experts that go next in every group of router rows, one of each: a group-limited router needs groups of
/// one size. Without groups a round is one expert.
pub(super) struct Round {
    pub(super) experts: Vec<usize>,
    /// What losing them is worth beside rounds of other layers: their mean share of the sum of scores of the
    /// layer; below everything where all of them go before the others anyhow.
    worth: f64,
}

/// The experts of a layer that may go, as rounds.
pub(super) struct Candidates {
    /// Experts of the layer.
    pub(super) experts: usize,
    /// Groups of router rows, which is the number of experts in a round.
    pub(super) groups: usize,
    /// The first to go first.
    pub(super) rounds: Vec<Round>,
}

impl Candidates {
    /// In every group those with the standing [`Standing::First`], then by rising score; of equals the later.
    /// Rounds end with the last expert of any group that may go.
    pub(super) fn of(moe: &Moe, standings: &[Standing], scores: &[f64]) -> Self {
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); moe.routing.group_count()];
        // Merged experts have several rows, but never behind grouped routers.
        for (row, &expert) in moe.router.iter().enumerate() {
            let group = &mut members[moe.group_of(row)];
            if standings[expert] != Standing::Keep && !group.contains(&expert) {
                group.push(expert);
            }
        }
        for group in &mut members {
            group.sort_by(|&a, &b| {
                standings[a].cmp(&standings[b]).then(scores[a].total_cmp(&scores[b])).then(b.cmp(&a))
            });
        }
        let sum: f64 = scores.iter().sum();
        let share = |&expert: &usize| match standings[expert] {
            Standing::First => 0.0,
            _ if sum > 0.0 => scores[expert] / sum,
            _ => 0.0,
        };
        let round = |round: usize| {
            let experts: Vec<usize> = members.iter().map(|group| group[round]).collect();
            let worth = match experts.iter().all(|&expert| standings[expert] == Standing::First) {
                true => f64::NEG_INFINITY,
                false => experts.iter().map(share).sum::<f64>() / experts.len() as f64,
            };
            Round { experts, worth }
        };
        let rounds = members.iter().map(Vec::len).min().unwrap_or(0);
        Self { experts: moe.experts.len(), groups: members.len(), rounds: (0..rounds).map(round).collect() }
    }
}

/// How many rounds go from every layer when `asked` experts are to go in all and every layer keeps as many as
/// `floors` says: the least worth first; of equals those of the layer that has lost fewer, then the later layer.
pub(super) fn globally(layers: &[Candidates], floors: &[usize], asked: usize) -> Vec<usize> {
    let mut order: Vec<(usize, usize)> = Vec::new();
    for (layer, candidates) in layers.iter().enumerate() {
        order.extend((0..candidates.rounds.len()).map(|round| (layer, round)));
    }
    let worth = |(layer, round): (usize, usize)| layers[layer].rounds[round].worth;
    // Within a layer worth rises, so that its rounds keep their order.
    order.sort_by(|&a, &b| worth(a).total_cmp(&worth(b)).then(a.1.cmp(&b.1)).then(b.0.cmp(&a.0)));
    let (mut taken, mut left) = (vec![0; layers.len()], asked);
    for (layer, _) in order {
        let Candidates { experts, groups, .. } = layers[layer];
        if groups <= left && experts >= floors[layer] + (taken[layer] + 1) * groups {
            taken[layer] += 1;
            left -= groups;
        }
    }
    taken
}
