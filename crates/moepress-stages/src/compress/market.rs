//! What a budget is spent on, and the price of a byte at which it is.

use super::choices::{Expert, Plan};
use moepress_numerics::knapsack::{Choice, KnapsackError, allocate};
use moepress_stats::RunLadder;
use rayon::prelude::*;

/// An expert that may change, or two as one.
pub(super) struct Candidate<'a> {
    pub(super) layer: usize,
    pub(super) expert: usize,
    /// The expert that it is one with, and the weights of both in their mean.
    pub(super) with: Option<(usize, [f64; 2])>,
    pub(super) runs: &'a [RunLadder],
    pub(super) planned: Expert,
    /// What becomes of it at any price.
    pub(super) fixed: Option<Plan>,
}

impl Candidate<'_> {
    /// "layer.expert", of two as one "layer.expert+expert".
    pub(super) fn name(&self) -> String {
        let with = self.with.map(|(second, _)| format!("+{second}")).unwrap_or_default();
        format!("{}.{}{with}", self.layer, self.expert)
    }

    pub(super) fn plan(&self, price: f64) -> Plan {
        self.fixed.clone().unwrap_or_else(|| self.planned.plan(price))
    }

    /// Cost + price · bytes of the best plan.
    pub(super) fn score(&self, price: f64) -> f64 {
        self.plan(price).choice().score(price)
    }
}

/// Everything that the budget is spent on.
pub(super) struct Market<'a> {
    pub(super) experts: Vec<&'a Candidate<'a>>,
    /// Choices of every other matrix.
    pub(super) matrices: &'a [Vec<Choice>],
}

/// How it was spent.
pub(super) struct Spent<'a> {
    /// What becomes of every expert.
    pub(super) experts: Vec<(&'a Candidate<'a>, Plan)>,
    /// Of every other matrix the index of its choice.
    pub(super) matrices: Vec<usize>,
    pub(super) bytes: u64,
    pub(super) cost: f64,
    /// No way to spend the budget on these experts and matrices costs less.
    pub(super) bound: f64,
    /// Of a byte, nats.
    pub(super) price: f64,
}

/// Nats per byte below which nothing is worth less.
const LOWEST_PRICE: f64 = 1e-18;

/// At which nothing is worth its bytes.
pub(super) const HIGHEST_PRICE: f64 = 1e9;

/// How far a price may be from the one it is looked for near.
const NEAR: f64 = 1.05;

/// Prices beside the one that meets the budget, as powers of two, at which experts are planned: what is left of the
/// budget is spent between them.
const NEARBY: [f64; 9] = [-1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0];

trait Score {
    fn score(&self, price: f64) -> f64;
}

impl Score for Choice {
    fn score(&self, price: f64) -> f64 {
        self.cost + price * self.bytes as f64
    }
}

impl<'a> Market<'a> {
    /// Bytes of what is best at that price, and its cost + price · bytes.
    pub(super) fn at(&self, price: f64) -> (u64, f64) {
        let best = |choices: &Vec<Choice>| {
            let order = |a: &&Choice, b: &&Choice| {
                a.score(price).total_cmp(&b.score(price)).then(a.bytes.cmp(&b.bytes))
            };
            choices.iter().min_by(order).copied().unwrap_or(Choice { bytes: 0, cost: 0.0 })
        };
        let plans: Vec<Choice> = self.experts.par_iter().map(|expert| expert.plan(price).choice()).collect();
        let chosen = plans.into_iter().chain(self.matrices.iter().map(best));
        chosen.fold((0, 0.0), |(bytes, sum), choice| (bytes + choice.bytes, sum + choice.score(price)))
    }

    /// The lowest price at which what is best fits, to a part in a thousand; quicker where it is near the one given.
    fn price(&self, budget: u64, near: Option<f64>) -> f64 {
        let fits = |price: f64| self.at(price).0 <= budget;
        let around =
            near.map(|near| (near / NEAR, near * NEAR)).filter(|&(low, high)| !fits(low) && fits(high));
        let (mut low, mut high) = around.unwrap_or((LOWEST_PRICE, 1.0));
        if around.is_none() {
            if fits(low) {
                return low;
            }
            while high < HIGHEST_PRICE && !fits(high) {
                high *= 1e3;
            }
        }
        while high / low > 1.001 {
            let middle = (low * high).sqrt();
            if fits(middle) { high = middle } else { low = middle }
        }
        high
    }

    /// The cheapest choices within the budget; the price of a byte may be near the one given.
    ///
    /// # Errors
    /// There are none.
    pub(super) fn spend(self, budget: u64, near: Option<f64>) -> Result<Spent<'a>, KnapsackError> {
        let price = self.price(budget, near);
        let bound = self.at(price).1 - price * budget as f64;
        let plans = |expert: &&Candidate<'_>| {
            let prices = NEARBY.iter().map(|by| (price * by.exp2()).min(HIGHEST_PRICE));
            let mut plans: Vec<Plan> = prices.map(|price| expert.plan(price)).collect();
            plans.dedup();
            plans
        };
        let plans: Vec<Vec<Plan>> = self.experts.par_iter().map(plans).collect();
        let of_plans = |plans: &Vec<Plan>| plans.iter().map(Plan::choice).collect();
        let items: Vec<Vec<Choice>> =
            plans.iter().map(of_plans).chain(self.matrices.iter().cloned()).collect();
        let found = allocate(&items, budget)?;
        let (of_experts, of_matrices) = found.chosen.split_at(plans.len());
        let chosen = plans.into_iter().zip(of_experts).map(|(mut plans, &at)| plans.swap_remove(at));
        Ok(Spent {
            experts: self.experts.into_iter().zip(chosen).collect(),
            matrices: of_matrices.to_vec(),
            bytes: found.bytes,
            cost: found.cost,
            bound,
            price,
        })
    }
}
