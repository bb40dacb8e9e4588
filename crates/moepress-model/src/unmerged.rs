//! A model as it was before experts were merged or cut, with the routing it has now.

use crate::edit::Edit;
use crate::moe::Moe;
use crate::spec::ModelSpec;
use std::collections::{BTreeMap, BTreeSet};

/// What of `edits` of `spec` is left when experts stay apart, whole and unrounded: those that drop experts, and what is
/// carried. The model after them has the same router rows, in the same order, as the one after `edits`.
pub fn unmerged(spec: &ModelSpec, edits: &[Edit]) -> Vec<Edit> {
    // By layer, for every expert the ones that it stands for.
    let mut members: BTreeMap<usize, Vec<BTreeSet<usize>>> = BTreeMap::new();
    let mut left = vec![];
    for edit in edits {
        let of = |layer: &usize| {
            let count = spec.moe(*layer).map_or(0, |moe| moe.experts.len());
            (0..count).map(|expert| BTreeSet::from([expert])).collect::<Vec<_>>()
        };
        let union = |of: &[BTreeSet<usize>], experts: &[usize]| -> BTreeSet<usize> {
            experts.iter().filter_map(|&expert| of.get(expert)).flatten().copied().collect()
        };
        match edit {
            Edit::DropCarried => left.push(Edit::DropCarried),
            Edit::MergeExperts { layer, groups, .. } => {
                let now = members.entry(*layer).or_insert_with(|| of(layer));
                *now = groups.iter().map(|group| union(now, &group.members)).collect();
            }
            Edit::KeepExperts { layer, experts } => {
                let now = members.entry(*layer).or_insert_with(|| of(layer));
                let kept: Vec<usize> = union(now, experts).into_iter().collect();
                let place = |expert: &usize| kept.binary_search(expert).ok();
                *now = experts
                    .iter()
                    .filter_map(|&expert| now.get(expert))
                    .map(|of| of.iter().filter_map(place).collect())
                    .collect();
                left.push(Edit::KeepExperts { layer: *layer, experts: kept });
            }
            _ => {}
        }
    }
    left
}

impl Moe {
    /// For every expert those of `apart`, a mixture whose router has the same rows, that it stands for, ascending.
    pub fn members(&self, apart: &Self) -> Vec<Vec<usize>> {
        let mut members = vec![BTreeSet::new(); self.experts.len()];
        for (&expert, &member) in self.router.iter().zip(&apart.router) {
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
        for (edits, apart, members) in [
            (vec![merge(&[&[0, 2], &[1], &[3]])], vec![], vec![vec![0, 2], vec![1], vec![3]]),
            // The expert that goes is the mean of 1 and 3.
            (vec![merge(&[&[3, 1], &[2], &[0]]), keep(&[1, 2])], vec![keep(&[0, 2])], vec![vec![1], vec![0]]),
            (
                vec![keep(&[0, 2, 3]), merge(&[&[2, 0], &[1]])],
                vec![keep(&[0, 2, 3])],
                vec![vec![0, 2], vec![1]],
            ),
            (
                vec![keep(&[1, 2]), Edit::DropCarried],
                vec![keep(&[1, 2]), Edit::DropCarried],
                vec![vec![0], vec![1]],
            ),
        ] {
            assert_eq!(unmerged(&spec, &edits), apart);
            let (after, apart) = (spec.after(&edits).unwrap(), spec.after(&apart).unwrap());
            let (after, apart) = (after.moe(1).unwrap(), apart.moe(1).unwrap());
            assert_eq!(after.members(apart), members);
            for (expert, members) in after.experts.iter().zip(&members) {
                let sources: BTreeSet<usize> =
                    members.iter().flat_map(|&e| apart.experts[e].sources.clone()).collect();
                assert_eq!(sources.into_iter().collect::<Vec<_>>(), expert.sources);
            }
        }
    }
}
