//! Experts without atoms: which of them a router can lose.

use moepress_model::Moe;

/// Of the `empty` experts, ascending, the first ones whose rows the router can do without: equally many of every
/// group of rows, and none below what it chooses from.
pub(super) fn droppable(moe: &Moe, empty: &[usize]) -> Vec<usize> {
    let (groups, least) = (moe.routing.group_count(), moe.routing.least_rows());
    let mut left = moe.router.len();
    if groups == 1 {
        let fits = |expert: &usize| {
            let rows = moe.router.iter().filter(|row| *row == expert).count();
            let fits = left - rows >= least;
            left -= if fits { rows } else { 0 };
            fits
        };
        return empty.iter().copied().filter(fits).collect();
    }
    if moe.router.len() != moe.experts.len() {
        // Merged experts lie in several groups.
        return vec![];
    }
    let mut members = vec![Vec::new(); groups];
    for (row, expert) in moe.router.iter().enumerate().filter(|(_, expert)| empty.contains(expert)) {
        members[moe.group_of(row)].push(*expert);
    }
    let most = left.saturating_sub(least) / groups;
    let each = members.iter().map(Vec::len).min().unwrap_or(0).min(most);
    let mut drop: Vec<usize> = members.iter().flat_map(|group| &group[..each]).copied().collect();
    drop.sort_unstable();
    drop
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{grouped, toy};

    #[test]
    fn routers_keep_what_they_need() {
        let moe = toy().moe(0).unwrap().clone();
        assert!(droppable(&moe, &[]).is_empty());
        assert_eq!(droppable(&moe, &[1, 3]), [1, 3]);
        assert_eq!(droppable(&moe, &[0, 1, 3]), [0, 1]);
        // After merging, rows 0, 2 and 3 lead to the first expert: it cannot go, the other can.
        let merged = Moe { router: vec![0, 1, 0, 0], experts: moe.experts[..2].to_vec(), ..moe };
        assert_eq!(droppable(&merged, &[0, 1]), [1]);
    }

    #[test]
    fn groups_lose_equally_many() {
        let moe = grouped().moe(0).unwrap().clone();
        assert!(droppable(&moe, &[0, 1, 4, 5, 6]).is_empty());
        assert_eq!(droppable(&moe, &[0, 1, 4, 5, 6, 11]), [0, 4, 11]);
        assert_eq!(droppable(&moe, &(0..12).collect::<Vec<_>>()), [0, 1, 4, 5, 8, 9]);
        let merged = Moe { router: vec![0, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1], ..moe };
        let merged = Moe { experts: merged.experts[..11].to_vec(), ..merged };
        assert!(droppable(&merged, &(0..11).collect::<Vec<_>>()).is_empty());
    }
}
