//! Linear assignment: which atom of one expert stands for which atom of another.
//!
//! Shortest augmenting paths with dual potentials: Jonker and Volgenant, "A shortest augmenting path algorithm
//! for dense and sparse linear assignment problems", Computing 38 (1987). O(n³) time, O(n) memory beside the costs.

const FREE: usize = usize::MAX;

/// The permutation of least total cost: row `i` goes to column `assign(cost, n)[i]`.
///
/// `cost` is `[n, n]`, row-major, and finite. With costs that are not, the result is still a permutation, but
/// not the cheapest one.
///
/// # Panics
/// When `cost` does not hold n² numbers.
pub fn assign(cost: &[f64], n: usize) -> Vec<usize> {
    assert_eq!(cost.len(), n * n, "a cost matrix of {n} rows has {n} columns");
    let (mut u, mut v) = (vec![0.0; n], vec![0.0; n]);
    let (mut column_of, mut row_of) = (vec![FREE; n], vec![FREE; n]);
    for start in 0..n {
        let path = shortest_path(cost, start, &u, &v, &row_of);
        // Keep every reduced cost cost[i][j] − u[i] − v[j] ≥ 0, and 0 along the path.
        u[start] += path.length;
        for &j in &path.passed {
            let slack = path.length - path.dist[j];
            u[row_of[j]] += slack;
            v[j] -= slack;
        }
        let mut j = path.end;
        loop {
            let i = path.from_row[j];
            row_of[j] = i;
            std::mem::swap(&mut column_of[i], &mut j);
            if i == start {
                break;
            }
        }
    }
    column_of
}

/// The permutation of greatest total gain; otherwise as [`assign`].
pub fn assign_max(gain: &[f64], n: usize) -> Vec<usize> {
    let cost: Vec<f64> = gain.iter().map(|g| -g).collect();
    assign(&cost, n)
}

struct AugmentingPath {
    end: usize,           // the free column reached
    length: f64,          // in reduced costs
    dist: Vec<f64>,       // [n] length of the shortest path to each column
    from_row: Vec<usize>, // [n] the row before each column on that path
    passed: Vec<usize>,   // assigned columns nearer than `end`
}

/// Dijkstra over the columns, from a free row to the nearest free column.
fn shortest_path(cost: &[f64], start: usize, u: &[f64], v: &[f64], row_of: &[usize]) -> AugmentingPath {
    let n = v.len();
    let mut dist = vec![f64::INFINITY; n];
    let mut from_row = vec![start; n];
    let mut passed = Vec::new();
    let mut open: Vec<usize> = (0..n).collect();
    let (mut row, mut length) = (start, 0.0);
    loop {
        let costs = &cost[row * n..][..n];
        let mut nearest = 0;
        for (k, &j) in open.iter().enumerate() {
            let d = length + (costs[j] - u[row] - v[j]);
            if d < dist[j] {
                dist[j] = d;
                from_row[j] = row;
            }
            if dist[j] < dist[open[nearest]] {
                nearest = k;
            }
        }
        let j = open.remove(nearest);
        length = dist[j];
        if row_of[j] == FREE {
            return AugmentingPath { end: j, length, dist, from_row, passed };
        }
        passed.push(j);
        row = row_of[j];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn total(cost: &[f64], n: usize, columns: &[usize]) -> f64 {
        columns.iter().enumerate().map(|(i, &j)| cost[i * n + j]).sum()
    }

    fn is_permutation(columns: &[usize]) -> bool {
        let mut sorted = columns.to_vec();
        sorted.sort_unstable();
        sorted.into_iter().eq(0..columns.len())
    }

    fn brute_force(cost: &[f64], n: usize, row: usize, used: usize) -> f64 {
        if row == n {
            return 0.0;
        }
        (0..n)
            .filter(|j| used & (1 << j) == 0)
            .map(|j| cost[row * n + j] + brute_force(cost, n, row + 1, used | (1 << j)))
            .fold(f64::INFINITY, f64::min)
    }

    /// Numbers in [0, 1) from a linear congruential generator (Knuth's MMIX constants).
    fn noise(mut state: u64) -> impl FnMut() -> f64 {
        move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    fn square() -> impl Strategy<Value = (usize, Vec<f64>)> {
        // Few distinct values, so that ties are common.
        (1usize..=6).prop_flat_map(|n| {
            (Just(n), prop::collection::vec((-9i32..9).prop_map(|c| f64::from(c) / 4.0), n * n))
        })
    }

    proptest! {
        #[test]
        fn finds_the_cheapest_permutation((n, cost) in square()) {
            let columns = assign(&cost, n);
            prop_assert!(is_permutation(&columns));
            prop_assert!((total(&cost, n, &columns) - brute_force(&cost, n, 0, 0)).abs() < 1e-9);
        }

        #[test]
        fn ends_with_a_permutation_on_any_numbers(n in 1usize..6, raw in prop::collection::vec(any::<f64>(), 36)) {
            prop_assert!(is_permutation(&assign(&raw[..n * n], n)));
        }
    }

    #[test]
    fn recovers_a_hidden_permutation() {
        let n = 200;
        let mut next = noise(7);
        let mut order: Vec<(f64, usize)> = (0..n).map(|j| (next(), j)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let hidden: Vec<usize> = order.into_iter().map(|(_, j)| j).collect();
        let mut gain: Vec<f64> = (0..n * n).map(|_| next()).collect();
        for (i, &j) in hidden.iter().enumerate() {
            gain[i * n + j] += 1.0;
        }
        assert_eq!(assign_max(&gain, n), hidden);
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        for n in 0..20 {
            assert_eq!(assign(&vec![1.0; n * n], n), (0..n).collect::<Vec<_>>());
        }
    }
}
