//! HC-SMoE (arXiv 2410.08589): hierarchical clustering of experts by what they answer.
//!
//! Every expert is the point cₑ = E[Eₑ(x)], its mean output over all calibration tokens, also those not routed to it.
//! In every layer the nearest two clusters join until as many are left as asked; `linkage` says what the distance of
//! clusters is. The member nearest the mean of its cluster is the one that the atoms of the others are aligned to.

use super::{Alike, Grouping, Groups, left};
use crate::evidence::Evidence;
use moepress_numerics::linalg::distances_from_gram;
use moepress_numerics::linkage::{Linkage, clusters};
use moepress_recipe::{Params, RecipeError};
use moepress_stats::{Needs, StatisticsError};

pub(super) const KEYS: &[&str] = &["linkage"];

const LINKAGES: [(&str, Linkage); 3] =
    [("average", Linkage::Average), ("complete", Linkage::Complete), ("ward", Linkage::Ward)];

struct HcSmoe {
    alike: Alike,
    linkage: (&'static str, Linkage),
}

pub(super) fn build(params: &Params) -> Result<Box<dyn Grouping>, RecipeError> {
    let word = params.word("linkage", Some("average"), &LINKAGES.map(|(word, _)| word))?;
    let linkage = *LINKAGES.iter().find(|(known, _)| *known == word).unwrap_or(&LINKAGES[0]);
    Ok(Box::new(HcSmoe { alike: Alike::read(params, "outputs")?, linkage }))
}

impl Grouping for HcSmoe {
    fn describe(&self) -> String {
        format!("hc_smoe by {}, {} linkage", self.alike.word(), self.linkage.0)
    }

    fn needs(&self) -> Needs {
        self.alike.needs()
    }

    fn groups(&self, evidence: &Evidence<'_>, ratio: f64) -> Result<Groups, StatisticsError> {
        let mut all = Vec::new();
        for (layer, moe) in evidence.spec.moe_layers() {
            let experts = moe.experts.len();
            let gram = self.alike.gram(evidence, layer)?;
            let distances = distances_from_gram(&gram, experts);
            let mut groups = clusters(&distances, experts, self.linkage.1, left(experts, ratio));
            groups.iter_mut().for_each(|group| lead_with_the_middle(group, &gram, experts));
            all.push((layer, groups));
        }
        Ok(all)
    }
}

/// Puts the member nearest the mean of the group first; of equals the lowest.
fn lead_with_the_middle(group: &mut [usize], gram: &[f64], experts: usize) {
    // ‖v − mean‖² but for what all members share.
    let distance = |&member: &usize| {
        let products: f64 = group.iter().map(|other| gram[member * experts + other]).sum();
        gram[member * experts + member] - 2.0 * products / group.len() as f64
    };
    let distances: Vec<f64> = group.iter().map(distance).collect();
    let middle = (0..group.len()).reduce(|a, b| if distances[b] < distances[a] { b } else { a });
    group[..=middle.unwrap_or(0)].rotate_right(1);
}

#[cfg(test)]
mod tests {
    use crate::toy::decide;
    use moepress_model::Edit;
    use moepress_stats::{Of, Quantity, Statistics};

    /// Mean outputs of the four experts of both layers along the first channel, over two tokens.
    fn stats(points: [f64; 4]) -> Statistics {
        let mut stats = Statistics::default();
        stats.add(Of::Model, Quantity::Tokens, vec![2.0]).unwrap();
        for layer in 0..2 {
            stats.add(Of::Layer(layer), Quantity::Tokens, vec![1.0, 0.0, 3.0, 0.0]).unwrap();
            for (expert, point) in points.into_iter().enumerate() {
                let mut sum = vec![0.0; 8];
                sum[0] = 2.0 * point;
                stats.add(Of::Expert(layer, expert), Quantity::AnyOutputSum, sum).unwrap();
            }
        }
        stats
    }

    fn groups(keys: &str, stats: &Statistics) -> Vec<Vec<usize>> {
        match &decide(&format!("merge_experts: {{method: hc_smoe, {keys}}}"), stats).edits[0] {
            Edit::MergeExperts { groups, .. } => groups.iter().map(|group| group.members.clone()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn experts_that_answer_alike_join() {
        for linkage in ["average", "complete", "ward"] {
            let keys = format!("ratio: 0.5, linkage: {linkage}");
            assert_eq!(groups(&keys, &stats([0.0, 10.0, 1.0, 11.0])), [[0, 2], [1, 3]]);
        }
        let decision = decide("merge_experts: {method: hc_smoe, ratio: 0.5}", &stats([0.0, 10.0, 1.0, 11.0]));
        let Edit::MergeExperts { groups, .. } = &decision.edits[1] else { panic!("{decision:?}") };
        assert_eq!(groups[0].weights, [0.25, 0.75]);
        // Nobody was routed to either: the plain mean.
        assert_eq!(groups[1].weights, [0.5, 0.5]);
        assert!(decision.notes.iter().any(|note| note.contains("2 groups of only unreached experts")));
    }

    #[test]
    fn the_middle_of_a_group_leads() {
        assert_eq!(groups("ratio: 0.75", &stats([0.0, 6.0, 3.0, 2.9])), [[2, 0, 1, 3]]);
        assert_eq!(groups("ratio: 0.5", &stats([1.0, 90.0, 5.0, 4.0])), [vec![3, 0, 2], vec![1]]);
        // Of equals the lowest.
        assert_eq!(groups("ratio: 0.75", &stats([1.0; 4])), [[0, 1, 2, 3]]);
    }

    #[test]
    fn duplicates_join_first() {
        assert_eq!(groups("ratio: 0.25", &stats([0.5, 0.7, 0.1, 0.7])), [vec![0], vec![1, 3], vec![2]]);
    }
}
