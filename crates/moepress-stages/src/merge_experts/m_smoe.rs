//! M-SMoE (arXiv 2310.01334): the others join the dominant expert that is most like them.
//!
//! Usage fₑ = Nₑ / Σ N decides who is dominant: the most used expert of every layer, then the most used of all layers
//! (or of each layer) until the groups are as many as asked. Experts are compared by the cosine of what `grouping`
//! says, router logits over the calibration tokens in the paper. Ties go to the lower layer, then expert.

use super::{Alike, Grouping, Groups, left};
use crate::evidence::Evidence;
use moepress_model::Moe;
use moepress_numerics::linalg::cosine_similarity_from_gram;
use moepress_recipe::{Params, RecipeError};
use moepress_stats::{Needs, StatisticsError};
use std::collections::BTreeSet;

pub(super) const KEYS: &[&str] = &["dominant"];

struct MSmoe {
    alike: Alike,
    /// Whether dominant experts are chosen over all layers.
    global: bool,
}

pub(super) fn build(params: &Params) -> Result<Box<dyn Grouping>, RecipeError> {
    let global = params.word("dominant", Some("global"), &["global", "per_layer"])? == "global";
    Ok(Box::new(MSmoe { alike: Alike::read(params, "router_logits")?, global }))
}

impl Grouping for MSmoe {
    fn describe(&self) -> String {
        let scope = if self.global { "globally" } else { "per layer" };
        format!("m_smoe by {}, dominant {scope}", self.alike.word())
    }

    fn needs(&self) -> Needs {
        self.alike.needs()
    }

    fn groups(&self, evidence: &Evidence<'_>, ratio: f64) -> Result<Groups, StatisticsError> {
        let dominant = self.dominant(evidence, ratio)?;
        let mut all = Vec::new();
        for (layer, moe) in evidence.spec.moe_layers() {
            let experts = moe.experts.len();
            let similarity = cosine_similarity_from_gram(&self.alike.gram(evidence, layer)?, experts);
            let leads: Vec<usize> = (0..experts).filter(|&e| dominant.contains(&(layer, e))).collect();
            let mut groups: Vec<Vec<usize>> = leads.iter().map(|&e| vec![e]).collect();
            for expert in (0..experts).filter(|e| !leads.contains(e)) {
                let like = |index: usize| similarity[expert * experts + leads[index]];
                let best = (0..leads.len()).reduce(|a, b| if like(b) > like(a) { b } else { a });
                if let Some(best) = best {
                    groups[best].push(expert);
                }
            }
            all.push((layer, groups));
        }
        Ok(all)
    }
}

impl MSmoe {
    /// Layer and index of every expert that others join.
    fn dominant(
        &self,
        evidence: &Evidence<'_>,
        ratio: f64,
    ) -> Result<BTreeSet<(usize, usize)>, StatisticsError> {
        let mut usage = Vec::new();
        for (layer, _) in evidence.spec.moe_layers() {
            let tokens = evidence.tokens(layer)?;
            let sum = tokens.iter().sum::<f64>().max(1.0);
            let most = (0..tokens.len()).reduce(|a, b| if tokens[b] > tokens[a] { b } else { a });
            for (expert, n) in tokens.iter().enumerate() {
                let f = if Some(expert) == most { f64::INFINITY } else { n / sum };
                usage.push((f, layer, expert));
            }
        }
        usage.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let place = |&(_, layer, expert): &(f64, usize, usize)| (layer, expert);
        if self.global {
            let layers = evidence.spec.moe_layers().count();
            return Ok(usage.iter().take(left(usage.len(), ratio).max(layers)).map(place).collect());
        }
        let of_layer = |(layer, moe): (usize, &Moe)| {
            let own = usage.iter().filter(move |&&(_, l, _)| l == layer);
            own.take(left(moe.experts.len(), ratio)).map(place).collect::<Vec<_>>()
        };
        Ok(evidence.spec.moe_layers().flat_map(of_layer).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::evidence::Evidence;
    use crate::toy::{decide, stage, toy};
    use moepress_model::Edit;
    use moepress_stats::{Of, Quantity, Statistics, WeightStatistics};

    fn stats() -> Statistics {
        let mut stats = Statistics::default();
        // Logits of experts 0 and 2 point one way, those of 1 and 3 another.
        let direction = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]];
        let dot = |a: [f64; 2], b: [f64; 2]| a[0] * b[0] + a[1] * b[1];
        let gram: Vec<f64> = direction.iter().flat_map(|a| direction.map(|b| dot(*a, b))).collect();
        for (layer, tokens) in [(0, [8.0, 4.0, 2.0, 2.0]), (1, [1.0, 1.0, 1.0, 0.0])] {
            stats.add(Of::Layer(layer), Quantity::Tokens, tokens.to_vec()).unwrap();
            stats.add(Of::Layer(layer), Quantity::RouterGram, gram.clone()).unwrap();
        }
        stats
    }

    #[test]
    fn group_counts_sum_to_the_budget_and_weights_are_usage() {
        let decision = decide("merge_experts: {ratio: 0.5}", &stats());
        // Four groups in all: one per layer is given, then the experts with f = 1/3 of layer 1.
        let groups = |edit: &Edit| match edit {
            Edit::MergeExperts { groups, .. } => groups.clone(),
            _ => vec![],
        };
        let counts: Vec<usize> = decision.edits.iter().map(|edit| groups(edit).len()).collect();
        assert_eq!(counts, [1, 3]);
        assert_eq!(groups(&decision.edits[0])[0].members, [0, 1, 2, 3]);
        assert_eq!(groups(&decision.edits[0])[0].weights, [0.5, 0.25, 0.125, 0.125]);
        let per_layer = decide("merge_experts: {ratio: 0.5, dominant: per_layer}", &stats());
        let members: Vec<_> = groups(&per_layer.edits[0]).into_iter().map(|group| group.members).collect();
        assert_eq!(members, [vec![0, 2], vec![1, 3]]);
    }

    #[test]
    fn outputs_and_weights_group_as_logits_do() {
        let mut stats = stats();
        stats.add(Of::Model, Quantity::Tokens, vec![8.0]).unwrap();
        // Outputs of 0 and 3 point one way, those of 1 and 2 another; by weights 0 and 1 are alike.
        for layer in 0..2 {
            for (expert, channel) in [0, 5, 5, 0].into_iter().enumerate() {
                let mut sum = vec![0.0; 8];
                sum[channel] = 1.0 + expert as f64;
                stats.add(Of::Expert(layer, expert), Quantity::AnyOutputSum, sum).unwrap();
            }
        }
        let same = |a: usize, b: usize| f64::from(u8::from(a / 2 == b / 2));
        let gram: Vec<f64> = (0..4).flat_map(|a| (0..4).map(move |b| same(a, b))).collect();
        let grams = (0..2).map(|layer| (layer, gram.clone())).collect();
        let weights = WeightStatistics { grams, ..Default::default() };
        let members = |grouping: &str| {
            let keys = format!("ratio: 0.5, dominant: per_layer, grouping: {grouping}");
            let spec = toy();
            let evidence = Evidence { weights: &weights, ..Evidence::new(&spec, &stats) };
            let edits = stage(&format!("merge_experts: {{{keys}}}")).decide(&evidence).unwrap().edits;
            let Edit::MergeExperts { groups, .. } = edits[0].clone() else { panic!("{edits:?}") };
            groups.into_iter().map(|group| group.members).collect::<Vec<_>>()
        };
        assert_eq!(members("router_logits"), [[0, 2], [1, 3]]);
        assert_eq!(members("outputs"), [[0, 3], [1, 2]]);
        // 0 and 1 lead both; 2 and 3 are like neither and join the lower.
        assert_eq!(members("weights"), [vec![0, 2, 3], vec![1]]);
    }
}
