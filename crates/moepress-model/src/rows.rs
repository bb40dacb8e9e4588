//! Rows of routers, followed through edits: what of the original an expert stands for.

use crate::edit::Edit;
use crate::moe::Moe;
use crate::spec::ModelSpec;
use std::collections::{BTreeMap, BTreeSet};

/// For every layer with experts the router rows of `spec` that are left after `edits`, in order.
pub fn rows_left(spec: &ModelSpec, edits: &[Edit]) -> BTreeMap<usize, Vec<usize>> {
    // Each row with the expert that it leads to.
    let rows = |moe: &Moe| moe.router.iter().copied().enumerate().collect::<Vec<_>>();
    let mut left: BTreeMap<usize, Vec<(usize, usize)>> =
        spec.moe_layers().map(|(layer, moe)| (layer, rows(moe))).collect();
    for edit in edits {
        let Some(rows) = edit.layer().and_then(|layer| left.get_mut(&layer)) else { continue };
        let place = |expert: usize| match edit {
            Edit::MergeExperts { groups, .. } => {
                groups.iter().position(|group| group.members.contains(&expert))
            }
            Edit::KeepExperts { experts, .. } => experts.binary_search(&expert).ok(),
            _ => Some(expert),
        };
        *rows = rows.iter().filter_map(|&(row, expert)| Some((row, place(expert)?))).collect();
    }
    left.into_iter().map(|(layer, rows)| (layer, rows.into_iter().map(|(row, _)| row).collect())).collect()
}

impl Moe {
    /// For every expert those of a mixture that it stands for, ascending: row r of this router leads to expert `rows[r]` of
    /// that mixture.
    pub fn members(&self, rows: &[usize]) -> Vec<Vec<usize>> {
        let mut members = vec![BTreeSet::new(); self.experts.len()];
        for (&expert, &member) in self.router.iter().zip(rows) {
            members[expert].insert(member);
        }
        members.into_iter().map(|members| members.into_iter().collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::Group;
    use crate::edit::tests::toy;

    fn merge(groups: &[&[usize]]) -> Edit {
        let group = |members: &&[usize]| Group {
            members: members.to_vec(),
            weights: vec![1.0 / members.len() as f64; members.len()],
        };
        Edit::MergeExperts { layer: 1, groups: groups.iter().map(group).collect(), align: false }
    }

    fn keep(experts: &[usize]) -> Edit {
        Edit::KeepExperts { layer: 1, experts: experts.to_vec() }
    }

    #[test]
    fn members_are_followed_through_merging_and_dropping() {
        let spec = toy();
        for (edits, rows, members) in [
            (vec![], vec![0, 1, 2, 3], vec![vec![0], vec![1], vec![2], vec![3]]),
            (
                vec![merge(&[&[0, 2], &[1], &[3]]), Edit::DropCarried],
                vec![0, 1, 2, 3],
                vec![vec![0, 2], vec![1], vec![3]],
            ),
            // The expert that goes is the mean of 1 and 3.
            (vec![merge(&[&[3, 1], &[2], &[0]]), keep(&[1, 2])], vec![0, 2], vec![vec![2], vec![0]]),
            (vec![keep(&[0, 2, 3]), merge(&[&[2, 0], &[1]])], vec![0, 2, 3], vec![vec![0, 3], vec![2]]),
        ] {
            let left = rows_left(&spec, &edits);
            assert_eq!(left, BTreeMap::from([(1, rows.clone())]));
            let after = spec.after(&edits).unwrap();
            let moe = after.moe(1).unwrap();
            assert_eq!(moe.router.len(), rows.len());
            assert_eq!(
                moe.members(&rows),
                members,
                "rows of the original lead to experts of the same number"
            );
            for (expert, members) in moe.experts.iter().zip(&members) {
                assert_eq!(&expert.sources, members);
            }
        }
    }
}
