//! The experts of one task (PreMoe, arXiv 2505.17639): those that had most of the gate mass when texts of the task ran
//! before. The others are as good as pruned; the router chooses among what is left.

use super::Rule;
use crate::cache::{ExpertId, Trace};
use moepress_model::ModelSpec;
use std::collections::{BTreeMap, BTreeSet};

/// Which experts a task may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile(BTreeSet<ExpertId>);

impl Profile {
    /// Per layer the fewest experts that together had `share` of the gate mass of `uses`, ties to the lower index; at least
    /// as many as have the rows that a token goes to. Layers that `uses` says nothing about keep all.
    pub fn new(spec: &ModelSpec, uses: &Trace, share: f64) -> Self {
        let mut masses: BTreeMap<ExpertId, f64> = BTreeMap::new();
        for visit in &uses.visits {
            for (id, used) in visit.ids().zip(&visit.experts) {
                *masses.entry(id).or_default() += f64::from(used.gates);
            }
        }
        let mut allowed = BTreeSet::new();
        for (layer, moe) in spec.moe_layers() {
            let mass = |expert| masses.get(&ExpertId { layer, expert }).copied().unwrap_or(0.0);
            let mut order: Vec<usize> = (0..moe.experts.len()).collect();
            order.sort_by(|&a, &b| mass(b).total_cmp(&mass(a)).then(a.cmp(&b)));
            let all: f64 = order.iter().map(|&expert| mass(expert)).sum();
            let (mut reached, mut rows) = (0.0, 0);
            for expert in order {
                if all > 0.0 && reached >= share * all && rows >= moe.routing.top_k {
                    break;
                }
                reached += mass(expert);
                rows += moe.router.iter().filter(|&&to| to == expert).count();
                allowed.insert(ExpertId { layer, expert });
            }
        }
        Self(allowed)
    }

    /// Experts that are left.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is left, as in a model without experts.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Rule for Profile {
    fn allows(&self, layer: usize, expert: usize) -> bool {
        self.0.contains(&ExpertId { layer, expert })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Used, Visit};
    use crate::toy::Toy;

    #[test]
    fn the_fewest_that_reach_the_share() {
        // Two layers of four experts, two rows a token.
        let spec = Toy::new().spec;
        let visit =
            |(expert, gates)| Visit { experts: vec![Used { expert, tokens: 1, gates }], ..Visit::default() };
        let uses = Trace { visits: [(1, 0.5), (3, 2.0), (1, 0.75), (0, 0.75)].map(visit).to_vec() };
        let left = |share| {
            let profile = Profile::new(&spec, &uses, share);
            assert!((0..4).all(|expert| profile.allows(1, expert)));
            (0..4).filter(|&expert| profile.allows(0, expert)).collect::<Vec<_>>()
        };
        assert_eq!(left(0.1), [1, 3]);
        assert_eq!(left(0.8125), [1, 3]);
        assert_eq!(left(0.82), [0, 1, 3]);
        assert_eq!(left(1.0), [0, 1, 3]);
    }
}
