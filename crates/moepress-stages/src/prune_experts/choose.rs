//! Which experts of a layer go, given their scores.

use crate::coverage::Standing;
use moepress_model::Moe;

/// The experts that go next in every group of router rows, one of each: a group-limited router needs groups of
/// one size. Without groups a round is one expert.
pub(super) struct Round {
    pub(super) experts: Vec<usize>,
}

/// The experts that may go as rounds, the first to go first: in every group those with the standing
/// [`Standing::First`], then by rising score; of equals the later. Ends with the last expert of any group that
/// may go.
pub(super) fn rounds(moe: &Moe, standings: &[Standing], scores: &[f64]) -> Vec<Round> {
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); moe.routing.group_count()];
    // Every expert has one row: merged experts behind grouped routers are refused.
    for (row, &expert) in moe.router.iter().enumerate().filter(|(_, e)| standings[**e] != Standing::Keep) {
        let group = &mut groups[moe.group_of(row)];
        if !group.contains(&expert) {
            group.push(expert);
        }
    }
    for group in &mut groups {
        group.sort_by(|&a, &b| {
            standings[a].cmp(&standings[b]).then(scores[a].total_cmp(&scores[b])).then(b.cmp(&a))
        });
    }
    let count = groups.iter().map(Vec::len).min().unwrap_or(0);
    (0..count).map(|round| Round { experts: groups.iter().map(|group| group[round]).collect() }).collect()
}
