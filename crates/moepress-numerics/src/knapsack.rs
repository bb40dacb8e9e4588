//! Multiple-choice knapsack: one choice per item, least total cost within a budget of bytes.
//!
//! The linear relaxation is solved exactly by walking the lower convex hull of every item (Sinha and Zoltners,
//! "The multiple-choice knapsack problem", Operations Research 27, 1979); its value bounds the optimum from below.
//! Single and paired moves then spend what is left of the budget.

/// One way to store an item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Size in bytes.
    pub bytes: u64,
    /// What this choice costs in quality; any finite number.
    pub cost: f64,
}

/// One choice for every item.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// For each item, the index of its choice.
    pub chosen: Vec<usize>,
    /// Bytes of all choices together, never above the budget.
    pub bytes: u64,
    /// Cost of all choices together.
    pub cost: f64,
    /// No allocation within the budget is cheaper than `cost - gap`.
    pub gap: f64,
}

/// Why nothing can be allocated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KnapsackError {
    /// Even the smallest choices are too large together.
    #[error("the smallest choices need {needed} bytes, {} more than the budget of {budget}", .needed - u128::from(*.budget))]
    TooSmall {
        /// Bytes of the smallest choices.
        needed: u128,
        /// Bytes allowed.
        budget: u64,
    },
    /// An item without a choice.
    #[error("item {item} has no choices")]
    NoChoice {
        /// Index of the item.
        item: usize,
    },
    /// A cost that cannot be added up.
    #[error("the cost of choice {choice} of item {item} is not finite, or too large to add up")]
    Cost {
        /// Index of the item.
        item: usize,
        /// Index of the choice.
        choice: usize,
    },
}

/// Chooses for every item so that the total stays within `budget` bytes at nearly the least cost.
///
/// The answer is within [`Allocation::gap`] of the optimum. A larger budget can therefore cost more by that gap at
/// most. Ties go to the lower item, then the lower choice.
pub fn allocate(items: &[Vec<Choice>], budget: u64) -> Result<Allocation, KnapsackError> {
    check(items)?;
    let hulls: Vec<Vec<usize>> = items.iter().map(|choices| lower_hull(choices)).collect();
    let chosen: Vec<usize> = hulls.iter().map(|hull| hull[0]).collect();
    let needed = items.iter().zip(&chosen).map(|(item, &c)| u128::from(item[c].bytes)).sum();
    let left = u64::try_from(u128::from(budget).saturating_sub(needed)).unwrap_or(budget);
    if needed > u128::from(budget) {
        return Err(KnapsackError::TooSmall { needed, budget });
    }
    let mut state = State { items, chosen, left };
    let bound = state.walk_hulls(&hulls);
    state.improve();
    let cost = state.cost();
    Ok(Allocation { bytes: budget - state.left, cost, gap: (cost - bound).max(0.0), chosen: state.chosen })
}

/// Checks that every item has a choice and costs can be added up.
pub(crate) fn check(items: &[Vec<Choice>]) -> Result<(), KnapsackError> {
    let mut size = 0.0;
    for (item, choices) in items.iter().enumerate() {
        if choices.is_empty() {
            return Err(KnapsackError::NoChoice { item });
        }
        for (choice, c) in choices.iter().enumerate() {
            size += 4.0 * c.cost.abs();
            if !f64::is_finite(size) {
                return Err(KnapsackError::Cost { item, choice });
            }
        }
    }
    Ok(())
}

/// The choices on the lower convex hull of (bytes, cost): ever larger, ever cheaper, saving ever less per byte.
fn lower_hull(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|&a, &b| {
        let (x, y) = (choices[a], choices[b]);
        x.bytes.cmp(&y.bytes).then(x.cost.total_cmp(&y.cost)).then(a.cmp(&b))
    });
    let mut hull: Vec<usize> = Vec::new();
    for c in order {
        if hull.last().is_some_and(|&last| choices[c].cost >= choices[last].cost) {
            continue;
        }
        while let [.., before, last] = hull[..]
            && Step::new(choices, before, last).rate() <= Step::new(choices, last, c).rate()
        {
            hull.pop();
        }
        hull.push(c);
    }
    hull
}

/// From one choice of an item to a larger and cheaper one.
#[derive(Clone, Copy)]
struct Step {
    to: usize,
    bytes: u64,
    saved: f64,
}

impl Step {
    fn new(choices: &[Choice], from: usize, to: usize) -> Self {
        let (a, b) = (choices[from], choices[to]);
        Self { to, bytes: b.bytes - a.bytes, saved: a.cost - b.cost }
    }

    fn rate(self) -> f64 {
        self.saved / self.bytes as f64
    }
}

/// Gives bytes back: item, its smaller choice, bytes freed, cost added.
#[derive(Clone, Copy)]
struct Downgrade {
    item: usize,
    to: usize,
    freed: u64,
    added: f64,
}

struct State<'a> {
    items: &'a [Vec<Choice>],
    chosen: Vec<usize>,
    left: u64,
}

impl State<'_> {
    fn cost(&self) -> f64 {
        self.items.iter().zip(&self.chosen).map(|(item, &c)| item[c].cost).sum()
    }

    /// Takes hull steps in order of cost saved per byte, passing over items whose next step does not fit.
    /// Returns the optimum of the linear relaxation: the cost where the first step had to be cut, less its part
    /// that fits.
    fn walk_hulls(&mut self, hulls: &[Vec<usize>]) -> f64 {
        let mut steps: Vec<(usize, Step)> = Vec::new();
        for (item, hull) in hulls.iter().enumerate() {
            steps.extend(hull.windows(2).map(|w| (item, Step::new(&self.items[item], w[0], w[1]))));
        }
        // A stable sort: within an item the rates fall, between items ties keep the order of items.
        steps.sort_by(|(_, a), (_, b)| b.rate().total_cmp(&a.rate()));
        let mut bound = None;
        let mut stopped = vec![false; hulls.len()];
        for (item, step) in steps {
            if stopped[item] {
                continue;
            }
            if step.bytes <= self.left {
                self.left -= step.bytes;
                self.chosen[item] = step.to;
                continue;
            }
            stopped[item] = true;
            bound.get_or_insert_with(|| self.cost() - step.rate() * self.left as f64);
        }
        bound.unwrap_or_else(|| self.cost())
    }

    /// Applies the best move while one saves anything. A move upgrades one item, with free bytes alone or with
    /// those that the cheapest sufficient downgrade of another item gives back.
    fn improve(&mut self) {
        // Each move lowers the cost; the limit bounds the time on inputs where many tiny moves remain.
        for _ in 0..self.items.len() {
            let Some((item, to, down)) = self.best_move() else { return };
            self.put(item, to, down);
        }
    }

    fn put(&mut self, item: usize, to: usize, down: Option<Downgrade>) {
        if let Some(d) = down {
            self.chosen[d.item] = d.to;
            self.left += d.freed;
        }
        let from = self.items[item][self.chosen[item]].bytes;
        self.left = self.left + from - self.items[item][to].bytes;
        self.chosen[item] = to;
    }

    fn best_move(&self) -> Option<(usize, usize, Option<Downgrade>)> {
        let exchange = Exchange::new(self.downgrades());
        let mut best = None;
        let mut most = 0.0;
        for (item, choices) in self.items.iter().enumerate() {
            let now = choices[self.chosen[item]];
            for (to, choice) in choices.iter().enumerate() {
                let saved = now.cost - choice.cost;
                let lacking = choice.bytes.saturating_sub(now.bytes).saturating_sub(self.left);
                if saved <= most {
                    continue;
                }
                let down = if lacking == 0 { None } else { exchange.cheapest(lacking, item) };
                if lacking > 0 && down.is_none() {
                    continue;
                }
                let net = saved - down.map_or(0.0, |d| d.added);
                if net > most {
                    (most, best) = (net, Some((item, to, down)));
                }
            }
        }
        best
    }

    fn downgrades(&self) -> Vec<Downgrade> {
        let mut all = Vec::new();
        for (item, choices) in self.items.iter().enumerate() {
            let now = choices[self.chosen[item]];
            all.extend(
                choices.iter().enumerate().filter(|(_, c)| c.bytes < now.bytes).map(|(to, c)| Downgrade {
                    item,
                    to,
                    freed: now.bytes - c.bytes,
                    added: c.cost - now.cost,
                }),
            );
        }
        all
    }
}

/// Downgrades by bytes freed, with the cheapest two of different items from each size upwards.
struct Exchange {
    sorted: Vec<Downgrade>,
    cheapest_from: Vec<[Option<Downgrade>; 2]>,
}

impl Exchange {
    fn new(mut sorted: Vec<Downgrade>) -> Self {
        sorted.sort_by_key(|d| (d.freed, d.item, d.to));
        let mut two: [Option<Downgrade>; 2] = [None; 2];
        let mut cheapest_from = vec![two; sorted.len()];
        for (k, &d) in sorted.iter().enumerate().rev() {
            two = match two {
                [Some(a), _] if d.added <= a.added && d.item == a.item => [Some(d), two[1]],
                [Some(a), _] if d.added <= a.added => [Some(d), Some(a)],
                [Some(a), None] if d.item != a.item => [Some(a), Some(d)],
                [Some(a), Some(b)] if d.item != a.item && d.added <= b.added => [Some(a), Some(d)],
                [None, _] => [Some(d), None],
                _ => two,
            };
            cheapest_from[k] = two;
        }
        Self { sorted, cheapest_from }
    }

    fn cheapest(&self, bytes: u64, not: usize) -> Option<Downgrade> {
        let from = self.sorted.partition_point(|d| d.freed < bytes);
        let two = self.cheapest_from.get(from)?;
        two.iter().flatten().find(|d| d.item != not).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(choices: &[(u64, f64)]) -> Vec<Choice> {
        choices.iter().map(|&(bytes, cost)| Choice { bytes, cost }).collect()
    }

    fn optimum(items: &[Vec<Choice>], budget: u64) -> Option<f64> {
        let Some((first, rest)) = items.split_first() else { return Some(0.0) };
        first
            .iter()
            .filter(|c| c.bytes <= budget)
            .filter_map(|c| Some(c.cost + optimum(rest, budget - c.bytes)?))
            .min_by(f64::total_cmp)
    }

    fn instance() -> impl Strategy<Value = (Vec<Vec<Choice>>, u64)> {
        let choice =
            (0u64..20, -8i32..40).prop_map(|(bytes, cost)| Choice { bytes, cost: f64::from(cost) / 8.0 });
        (prop::collection::vec(prop::collection::vec(choice, 2..=4), 3..=6), 0u64..100)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn is_within_the_gap_of_the_optimum((items, budget) in instance()) {
            match (allocate(&items, budget), optimum(&items, budget)) {
                (Ok(found), Some(best)) => {
                    prop_assert!(found.bytes <= budget);
                    prop_assert!(found.cost >= best - 1e-9);
                    prop_assert!(found.cost - found.gap <= best + 1e-9);
                    let sums = items.iter().zip(&found.chosen).map(|(i, &c)| i[c]);
                    prop_assert_eq!(sums.clone().map(|c| c.bytes).sum::<u64>(), found.bytes);
                    prop_assert_eq!(sums.map(|c| c.cost).sum::<f64>(), found.cost);
                }
                (Err(KnapsackError::TooSmall { .. }), None) => {}
                (found, best) => prop_assert!(false, "{:?} where the optimum is {:?}", found, best),
            }
        }

        #[test]
        fn more_bytes_never_cost_more_than_the_gap((items, budget) in instance(), extra in 0u64..20) {
            if let Ok(small) = allocate(&items, budget) {
                let large = allocate(&items, budget + extra).unwrap();
                prop_assert!(large.cost <= small.cost + large.gap + 1e-9);
                prop_assert!(large.cost - large.gap <= small.cost - small.gap + 1e-9);
            }
        }
    }

    #[test]
    fn walks_the_hull() {
        // The middle choice lies above the line between the other two.
        let items = vec![item(&[(1, 8.0), (2, 7.5), (3, 0.0)]), item(&[(1, 4.0), (3, 1.0)])];
        assert_eq!(lower_hull(&items[0]), [0, 2]);
        let at = |budget| allocate(&items, budget).unwrap().chosen;
        assert_eq!([at(2), at(3), at(4), at(5), at(6)], [[0, 0], [1, 0], [2, 0], [2, 0], [2, 1]]);
        assert_eq!(allocate(&items, 6).unwrap().gap, 0.0);
    }

    #[test]
    fn exchanges_one_item_for_another() {
        // By rate, item 0 goes first and leaves 3 bytes that item 1 cannot use; item 1 alone saves more.
        let items = vec![item(&[(0, 3.0), (2, 0.0)]), item(&[(0, 5.0), (5, 0.0)])];
        let found = allocate(&items, 5).unwrap();
        assert_eq!((found.chosen, found.cost), (vec![0, 1], 3.0));
    }

    #[test]
    fn equal_items_are_taken_in_order() {
        let items = vec![item(&[(1, 1.0), (2, 0.0), (2, 0.0)]); 5];
        assert_eq!(allocate(&items, 8).unwrap().chosen, [1, 1, 1, 0, 0]);
    }

    #[test]
    fn says_how_much_is_missing() {
        let items = vec![item(&[(u64::MAX, 0.0)]), item(&[(9, 0.0), (7, 1.0)])];
        let message = allocate(&items, 10).unwrap_err().to_string();
        assert_eq!(
            message,
            "the smallest choices need 18446744073709551622 bytes, 18446744073709551612 more than the budget of 10"
        );
        assert_eq!(allocate(&items[1..], 7).unwrap().bytes, 7);
    }

    #[test]
    fn refuses_costs_it_cannot_add() {
        for bad in [f64::NAN, f64::INFINITY, f64::MAX] {
            let items = vec![item(&[(1, 0.0)]), item(&[(1, 0.0), (2, bad)])];
            assert_eq!(allocate(&items, 9).unwrap_err(), KnapsackError::Cost { item: 1, choice: 1 });
        }
        assert_eq!(allocate(&[vec![]], 9).unwrap_err(), KnapsackError::NoChoice { item: 0 });
        assert_eq!(allocate(&[], 9).unwrap().cost, 0.0);
    }
}
