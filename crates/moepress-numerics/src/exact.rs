//! Multiple-choice knapsack by dynamic programming: the least total cost within a budget of bytes, exactly.
//!
//! Items take their choices from one list, and some of the list may have to be taken by one item at least (as in
//! MC-MoE, arXiv 2410.06270). The work grows with items × bytes, counted in their greatest common divisor; for many
//! items of many sizes [`knapsack::allocate`](crate::knapsack::allocate) is near enough.

use crate::knapsack::{Allocation, Choice, KnapsackError, check};

/// Most states of a table; beyond that bytes are counted in larger units, rounded up.
const STATES: u64 = 1 << 20;

/// Most choices that can be demanded.
pub const MOST_DEMANDED: usize = 8;

/// Chooses for every item so that the total stays within `budget` bytes at the least cost and every choice in
/// `demanded` is taken by one item at least. The gap is 0 unless the sizes have so many states that bytes are counted
/// in larger units, when it is not known: then it is infinite. Of equal costs the fewest bytes win, then the lower
/// choices of the last items.
///
/// # Errors
/// There is no such allocation, or a cost cannot be added up.
///
/// # Panics
/// When more than [`MOST_DEMANDED`] choices are demanded.
pub fn allocate(items: &[Vec<Choice>], budget: u64, demanded: &[usize]) -> Result<Allocation, ExactError> {
    assert!(demanded.len() <= MOST_DEMANDED, "{} choices are demanded", demanded.len());
    check(items)?;
    let least = |item: &Vec<Choice>| item.iter().map(|choice| choice.bytes).min().unwrap_or(0);
    let needed: u128 = items.iter().map(|item| u128::from(least(item))).sum();
    let Some(room) = u128::from(budget).checked_sub(needed) else {
        return Err(KnapsackError::TooSmall { needed, budget }.into());
    };
    let more: Vec<Vec<u64>> =
        items.iter().map(|item| item.iter().map(|choice| choice.bytes - least(item)).collect()).collect();
    let span: u128 = more.iter().map(|item| u128::from(item.iter().copied().max().unwrap_or(0))).sum();
    let room = u64::try_from(room.min(span)).unwrap_or(u64::MAX);
    let divisor = more.iter().flatten().fold(0, |a, &b| gcd(a, b)).max(1);
    let unit = divisor * (room / divisor).div_ceil(STATES).max(1);
    let table = Table::fill(items, &more, unit, (room / unit) as usize, demanded);
    let chosen = table.best(&more, unit).ok_or_else(|| ExactError::Demand { demanded: demanded.to_vec() })?;
    let taken = || items.iter().zip(&chosen).map(|(item, &choice)| item[choice]);
    let gap = if unit == divisor { 0.0 } else { f64::INFINITY };
    Ok(Allocation {
        bytes: taken().map(|choice| choice.bytes).sum(),
        cost: taken().map(|choice| choice.cost).sum(),
        gap,
        chosen,
    })
}

/// Why nothing can be allocated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExactError {
    /// As without demands.
    #[error(transparent)]
    Knapsack(#[from] KnapsackError),
    /// The budget, or the number of items, leaves no room for all choices demanded.
    #[error("no allocation within the budget takes each of the choices {demanded:?}")]
    Demand {
        /// Indices of choices.
        demanded: Vec<usize>,
    },
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The least cost of the items so far for every number of units spent and set of demanded choices taken.
struct Table {
    /// `[units, sets]` after the last item.
    costs: Vec<f64>,
    /// For every item `[units, sets]`: the choice that leads there, and the set it comes from.
    steps: Vec<Vec<(u8, u8)>>,
    sets: usize,
}

/// Most choices of an item.
const MOST_CHOICES: usize = 255;

impl Table {
    fn fill(items: &[Vec<Choice>], more: &[Vec<u64>], unit: u64, units: usize, demanded: &[usize]) -> Self {
        let sets = 1 << demanded.len();
        let bit = |choice| demanded.iter().position(|&d| d == choice).map_or(0, |place| 1 << place);
        let mut costs = vec![f64::INFINITY; (units + 1) * sets];
        costs[0] = 0.0;
        let mut steps = Vec::with_capacity(items.len());
        for (item, more) in items.iter().zip(more) {
            let mut next = vec![f64::INFINITY; costs.len()];
            let mut from = vec![(0, 0); costs.len()];
            for (choice, bytes) in more.iter().enumerate().take(MOST_CHOICES) {
                let (spent, cost) = (bytes.div_ceil(unit) as usize, item[choice].cost);
                for before in 0..(units + 1).saturating_sub(spent) {
                    for set in 0..sets {
                        let cost = costs[before * sets + set] + cost;
                        let to = (before + spent) * sets + (set | bit(choice));
                        if cost < next[to] {
                            (next[to], from[to]) = (cost, (choice as u8, set as u8));
                        }
                    }
                }
            }
            costs = next;
            steps.push(from);
        }
        Self { costs, steps, sets }
    }

    /// The choices that lead to the least cost with everything demanded.
    fn best(&self, more: &[Vec<u64>], unit: u64) -> Option<Vec<usize>> {
        let (mut set, units) = (self.sets - 1, self.costs.len() / self.sets);
        let cost = |spent: usize| self.costs[spent * self.sets + self.sets - 1];
        let mut spent = (0..units).reduce(|a, b| if cost(b) < cost(a) { b } else { a })?;
        if cost(spent).is_infinite() {
            return None;
        }
        let mut chosen = vec![0; self.steps.len()];
        for (item, steps) in self.steps.iter().enumerate().rev() {
            let (choice, before) = steps[spent * self.sets + set];
            chosen[item] = usize::from(choice);
            spent -= more[item][chosen[item]].div_ceil(unit) as usize;
            set = usize::from(before);
        }
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The least cost over all ways to choose, and the fewest bytes at that cost.
    fn brute_force(items: &[Vec<Choice>], budget: u64, demanded: &[usize]) -> Option<(f64, u64)> {
        let ways = items.iter().map(Vec::len).product::<usize>();
        let way = |mut number: usize| -> Vec<usize> {
            let digit = |item: &Vec<Choice>| {
                let digit = number % item.len();
                number /= item.len();
                digit
            };
            items.iter().map(digit).collect()
        };
        let valid = |chosen: &Vec<usize>| demanded.iter().all(|choice| chosen.contains(choice));
        let total = |chosen: Vec<usize>| {
            let taken = || items.iter().zip(&chosen).map(|(item, &choice)| item[choice]);
            (taken().map(|c| c.cost).sum::<f64>(), taken().map(|c| c.bytes).sum::<u64>())
        };
        let totals = (0..ways).map(way).filter(valid).map(total).filter(|(_, bytes)| *bytes <= budget);
        totals.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn eight_experts_of_three_widths_are_those_of_all_6561_ways(
            costs in prop::collection::vec(prop::collection::vec(0u32..1000, 3), 8), budget in 8u64..26, demand: bool
        ) {
            // Sums of eighths are exact, in whatever order.
            let item = |costs: &Vec<u32>| -> Vec<Choice> {
                let cost = |k: usize| f64::from(costs[k]) / 8.0;
                (0..3).map(|k| Choice { bytes: k as u64 + 1, cost: cost(k) }).collect()
            };
            let items: Vec<_> = costs.iter().map(item).collect();
            let demanded: &[usize] = if demand { &[1, 2] } else { &[] };
            match (allocate(&items, budget, demanded), brute_force(&items, budget, demanded)) {
                (Ok(found), Some((cost, bytes))) => {
                    prop_assert_eq!((found.cost, found.bytes, found.gap), (cost, bytes, 0.0));
                    prop_assert!(demanded.iter().all(|choice| found.chosen.contains(choice)));
                }
                (Err(ExactError::Demand { .. }), None) => {}
                (found, wanted) => prop_assert!(false, "{:?} where {:?} is right", found, wanted),
            }
            // What costs are measured in decides nothing.
            let scaled: Vec<Vec<Choice>> = items
                .iter()
                .map(|item| item.iter().map(|c| Choice { cost: 4.0 * c.cost, ..*c }).collect())
                .collect();
            let chosen = |items: &[Vec<Choice>]| allocate(items, budget, demanded).ok().map(|found| found.chosen);
            prop_assert_eq!(chosen(&scaled), chosen(&items));
        }
    }

    #[test]
    fn costs_that_fall_with_every_bit_spend_the_whole_budget() {
        let items: Vec<Vec<Choice>> = (0..8)
            .map(|i| (1..=3).map(|b| Choice { bytes: b, cost: f64::from(i + 1) / b as f64 }).collect())
            .collect();
        for budget in 8..=24 {
            assert_eq!(allocate(&items, budget, &[]).unwrap().bytes, budget);
        }
        assert_eq!(allocate(&items, 99, &[]).unwrap().bytes, 24);
        let found = allocate(&items, 12, &[1, 2]).unwrap();
        assert!(found.chosen.contains(&1) && found.chosen.contains(&2) && found.bytes == 12);
    }

    #[test]
    fn sizes_are_counted_in_their_divisor() {
        let choice = |bytes, cost| Choice { bytes, cost };
        // Least sizes differ; what is more than those comes in thousands.
        let items = vec![
            vec![choice(7, 5.0), choice(3_000_007, 1.0)],
            vec![choice(500_000_000_000, 9.0), choice(500_002_000_000, 2.0)],
        ];
        let found = allocate(&items, 500_003_000_007, &[]).unwrap();
        assert_eq!((found.chosen, found.gap), (vec![0, 1], 0.0));
        let found = allocate(&items, 500_005_000_007, &[]).unwrap();
        assert_eq!((found.chosen, found.cost), (vec![1, 1], 3.0));
    }

    #[test]
    fn too_many_sizes_are_rounded_up() {
        let items: Vec<Vec<Choice>> = (0..4)
            .map(|i| {
                let large = Choice { bytes: 1_000_000_000_000 + i, cost: 0.0 };
                vec![Choice { bytes: 0, cost: 1.0 }, large]
            })
            .collect();
        let found = allocate(&items, 3_000_000_000_001, &[]).unwrap();
        assert!(found.gap.is_infinite() && found.bytes <= 3_000_000_000_001);
        assert_eq!(found.cost, 2.0);
    }

    #[test]
    fn says_what_does_not_fit() {
        let item = vec![Choice { bytes: 2, cost: 0.0 }, Choice { bytes: 3, cost: 1.0 }];
        let items = vec![item.clone(), item];
        assert!(matches!(
            allocate(&items, 3, &[]),
            Err(ExactError::Knapsack(KnapsackError::TooSmall { needed: 4, budget: 3 }))
        ));
        assert_eq!(allocate(&items, 4, &[1]), Err(ExactError::Demand { demanded: vec![1] }));
        assert_eq!(allocate(&items, 5, &[0, 1]).unwrap().cost, 1.0);
        assert_eq!(allocate(&items[..1], 9, &[0, 1]), Err(ExactError::Demand { demanded: vec![0, 1] }));
        assert_eq!(allocate(&[], 0, &[]).unwrap().cost, 0.0);
    }
}
