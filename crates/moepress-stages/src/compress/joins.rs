//! Merging as a choice: two experts become their mean where, at the price of a byte, what that costs and the best plan
//! for the mean cost less than the best plans of both.

use super::market::{Candidate, Market, Spent};
use moepress_model::{Edit, Group, ModelSpec};
use moepress_numerics::knapsack::{Choice, KnapsackError};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What a pair must save of what its experts come to apart, cost + price · bytes: less is within what predictions are
/// wrong by. Measured on the demo model: without it pairs are taken that save a ten-thousandth.
const WORTH: f64 = 0.05;

/// Prices that are tried at most until no pair changes.
const ROUNDS: usize = 8;

/// How a budget is spent on experts, some of which are joined, and other matrices.
pub(super) struct Joined<'a> {
    pub(super) spent: Spent<'a>,
    /// Predicted cost without any pair.
    pub(super) apart: f64,
}

impl Joined<'_> {
    /// Which experts became one, and what the candidates would cost.
    pub(super) fn story(&self, pairs: &[Candidate<'_>]) -> Vec<String> {
        let cheapest = pairs.iter().map(|pair| (pair.planned.kept().cost, pair));
        let Some((cost, pair)) = cheapest.min_by(|a, b| a.0.total_cmp(&b.0)) else {
            return vec![
                "compress: no two experts are so alike that to merge them costs less than to drop one"
                    .to_owned(),
            ];
        };
        let taken: Vec<&Candidate<'_>> =
            self.spent.experts.iter().map(|(of, _)| *of).filter(|of| of.with.is_some()).collect();
        let mut note = format!(
            "compress: {} of {} pairs of experts that are alike were merged; the cheapest, {}, costs {cost:.1e} nats per token by being a mean",
            taken.len(),
            pairs.len(),
            pair.name(),
        );
        if !taken.is_empty() {
            let names: Vec<String> = taken.iter().map(|of| of.name()).collect();
            note += &format!(
                "; without them {:.5} nats per token are predicted (layer.expert+expert): {}",
                self.apart,
                names.join(" ")
            );
        }
        vec![note]
    }
}

/// The cheapest way found to spend a budget on `experts`, or on some of `pairs` in their place, and on `matrices`. Pairs
/// are chosen at the price of a byte, which then is another, until they stay the same.
///
/// # Errors
/// The budget is too small.
pub(super) fn spend<'a>(
    experts: &'a [Candidate<'a>],
    pairs: &'a [Candidate<'a>],
    matrices: &'a [Vec<Choice>],
    budget: u64,
) -> Result<Joined<'a>, KnapsackError> {
    let market = |taken: &[usize]| {
        let joined: Vec<&Candidate<'_>> = taken.iter().map(|&pair| &pairs[pair]).collect();
        let gone: BTreeSet<(usize, usize)> = joined.iter().flat_map(|pair| members(pair)).collect();
        let alone = experts.iter().filter(|expert| !gone.contains(&(expert.layer, expert.expert)));
        let mut experts: Vec<&Candidate<'_>> = alone.chain(joined).collect();
        experts.sort_by_key(|expert| (expert.layer, expert.expert));
        Market { experts, matrices }
    };
    let mut best = market(&[]).spend(budget, None)?;
    let apart = best.cost;
    let mut tried = BTreeSet::from([vec![]]);
    let mut price = best.price;
    for _ in 0..ROUNDS {
        let taken = worth(experts, pairs, price);
        if !tried.insert(taken.clone()) {
            break;
        }
        let spent = market(&taken).spend(budget, Some(price))?;
        price = spent.price;
        if spent.cost < best.cost {
            best = spent;
        }
    }
    // At a price no choice of pairs saves more than all that save anything.
    let saved: f64 = gains(experts, pairs, best.price, 0.0).into_iter().map(|(_, gain)| gain).sum();
    let apart_score = Market { experts: experts.iter().collect(), matrices }.at(best.price).1;
    best.bound = best.bound.min(apart_score - best.price * budget as f64 - saved);
    Ok(Joined { spent: best, apart })
}

/// Layer and index of the experts that a candidate stands for.
fn members(of: &Candidate<'_>) -> Vec<(usize, usize)> {
    [Some(of.expert), of.with.map(|(expert, _)| expert)]
        .into_iter()
        .flatten()
        .map(|e| (of.layer, e))
        .collect()
}

/// The pairs that save at that price more than `least` of what their experts come to apart, with what they save.
fn gains(experts: &[Candidate<'_>], pairs: &[Candidate<'_>], price: f64, least: f64) -> Vec<(usize, f64)> {
    let wanted: BTreeSet<(usize, usize)> = pairs.iter().flat_map(members).collect();
    let alone: BTreeMap<(usize, usize), f64> = experts
        .par_iter()
        .filter(|expert| wanted.contains(&(expert.layer, expert.expert)))
        .map(|expert| ((expert.layer, expert.expert), expert.score(price)))
        .collect();
    let gain = |(at, pair): (usize, &Candidate<'_>)| {
        let apart: f64 = members(pair).iter().filter_map(|member| alone.get(member)).sum();
        let gain = apart - pair.score(price);
        (gain > least * apart).then_some((at, gain))
    };
    pairs.par_iter().enumerate().filter_map(gain).collect()
}

/// Pairs that are worth it, without a common expert, those that save most first; ties go to the lower pair. Ascending.
pub(super) fn worth(experts: &[Candidate<'_>], pairs: &[Candidate<'_>], price: f64) -> Vec<usize> {
    let mut gains = gains(experts, pairs, price, WORTH);
    gains.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let (mut gone, mut taken) = (BTreeSet::new(), vec![]);
    for (pair, _) in gains {
        let members = members(&pairs[pair]);
        if members.iter().all(|member| !gone.contains(member)) {
            gone.extend(members);
            taken.push(pair);
        }
    }
    taken.sort_unstable();
    taken
}

/// The edits that join experts, and the numbers that experts have afterwards, by layer and number before.
pub(super) fn join(
    spec: &ModelSpec,
    experts: &[(&Candidate<'_>, super::Plan)],
) -> (Vec<Edit>, BTreeMap<(usize, usize), usize>) {
    let mut pairs: BTreeMap<usize, BTreeMap<usize, (usize, [f64; 2])>> = BTreeMap::new();
    for (of, _) in experts {
        if let Some(with) = of.with {
            pairs.entry(of.layer).or_default().insert(of.expert, with);
        }
    }
    let (mut edits, mut numbers) = (vec![], BTreeMap::new());
    for (layer, moe) in spec.moe_layers() {
        let pairs = pairs.remove(&layer).unwrap_or_default();
        let gone: BTreeSet<usize> = pairs.values().map(|(second, _)| *second).collect();
        let mut groups = vec![];
        for expert in (0..moe.experts.len()).filter(|expert| !gone.contains(expert)) {
            numbers.insert((layer, expert), groups.len());
            groups.push(match pairs.get(&expert) {
                Some((second, weights)) => {
                    Group { members: vec![expert, *second], weights: weights.to_vec() }
                }
                None => Group { members: vec![expert], weights: vec![1.0] },
            });
        }
        if !gone.is_empty() {
            edits.push(Edit::MergeExperts { layer, groups, align: true });
        }
    }
    (edits, numbers)
}
