//! M-SMoE (arXiv 2310.01334): others join the dominant expert whose router logits are most like theirs.

use super::Groups;
use crate::evidence::Evidence;
use moepress_numerics::linalg::cosine_similarity_from_gram;
use moepress_stats::{Of, Quantity, StatisticsError};
use std::collections::BTreeSet;

/// Usage fₑ = Nₑ / Σ N decides who is dominant: the most used expert of every layer, then the most used of
/// all layers (or of each layer) until the groups are as many as asked. Similarity is the cosine of router
/// logits over the calibration tokens. Ties go to the lower layer, then expert.
pub(super) fn groups(evidence: &Evidence<'_>, ratio: f64, global: bool) -> Result<Groups, StatisticsError> {
    let mut usage = Vec::new();
    for (layer, moe) in evidence.spec.moe_layers() {
        let tokens = evidence.tokens(layer)?;
        let sum = tokens.iter().sum::<f64>().max(1.0);
        let most = (0..tokens.len()).reduce(|a, b| if tokens[b] > tokens[a] { b } else { a });
        for (expert, n) in tokens.iter().enumerate() {
            let f = if Some(expert) == most { f64::INFINITY } else { n / sum };
            usage.push((f, layer, expert));
        }
        debug_assert_eq!(tokens.len(), moe.experts.len());
    }
    usage.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let layers = evidence.spec.moe_layers().count();
    let count = |experts: usize| ((experts as f64 * (1.0 - ratio) + 0.5).floor() as usize).max(1);
    let total = count(usage.len()).max(layers);
    let dominant: BTreeSet<(usize, usize)> = match global {
        true => usage.iter().take(total).map(|&(_, layer, expert)| (layer, expert)).collect(),
        false => evidence
            .spec
            .moe_layers()
            .flat_map(|(layer, moe)| {
                let own = usage.iter().filter(move |&&(_, l, _)| l == layer);
                own.take(count(moe.experts.len())).map(|&(_, layer, expert)| (layer, expert))
            })
            .collect(),
    };
    let mut all = Vec::new();
    for (layer, moe) in evidence.spec.moe_layers() {
        let experts = moe.experts.len();
        let similarity =
            cosine_similarity_from_gram(evidence.stats.get(Of::Layer(layer), Quantity::RouterGram)?, experts);
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

#[cfg(test)]
mod tests {
    use crate::toy::decide;
    use moepress_model::Edit;
    use moepress_stats::{Of, Quantity, Statistics};

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
}
