//! Which router rows a token goes to.

use crate::moe::{GroupRank, Routing, RowGroups};

/// A row that SparseMixer chose, and the rows of the softmax that weights it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mixed {
    /// The row.
    pub row: usize,
    /// Whether each row is in that softmax.
    pub near: Vec<bool>,
}

impl Routing {
    /// The rows with the largest scores, ascending; ties to the lower row. `scores` may be logits where that is the
    /// same order; `correction` is added to them.
    pub fn choose(&self, scores: &[f32], correction: Option<&[f32]>) -> Vec<usize> {
        let mut ranked = scores.to_vec();
        if let Some(correction) = correction {
            ranked.iter_mut().zip(correction).for_each(|(score, bias)| *score += bias);
        }
        if let Some(groups) = self.groups {
            leave_groups(&mut ranked, groups);
        }
        largest(&ranked, self.top_k)
    }
}

/// The two rows of SparseMixer, one after the other: each the largest of those left, weighted by a softmax over the
/// rows left that come near it.
pub fn sparse_mixer(logits: &[f32], jitter: f64) -> Vec<Mixed> {
    let mut chosen: Vec<Mixed> = Vec::with_capacity(2);
    for _ in 0..2 {
        let left = |row: usize| chosen.iter().all(|mixed| mixed.row != row);
        let rows = (0..logits.len()).filter(|&row| left(row));
        let Some(row) = rows.reduce(|a, b| if logits[b] > logits[a] { b } else { a }) else { break };
        let most = logits[row];
        let near = |other: usize| {
            let distance = (most - logits[other]) / logits[other].abs().max(most);
            // A distance that is no number is not far.
            let far = f64::from(distance) > 2.0 * jitter;
            left(other) && !far
        };
        let near = (0..logits.len()).map(near).collect();
        chosen.push(Mixed { row, near });
    }
    chosen
}

/// The `count` largest by value, ties to the lower index; ascending.
fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.select_nth_unstable_by(count - 1, |&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// Makes every row outside the best groups impossible to choose.
fn leave_groups(ranked: &mut [f32], groups: RowGroups) {
    let size = ranked.len() / groups.count;
    let rank = |rows: &[f32]| match groups.rank {
        GroupRank::Largest => rows.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        GroupRank::TopTwo => largest(rows, size.min(2)).into_iter().map(|row| rows[row]).sum(),
    };
    let ranks: Vec<f32> = ranked.chunks_exact(size).map(rank).collect();
    let kept = largest(&ranks, groups.kept);
    for (group, rows) in ranked.chunks_exact_mut(size).enumerate() {
        if kept.binary_search(&group).is_err() {
            rows.fill(f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_ranked_and_left() {
        let groups = |kept, rank| RowGroups { count: 3, kept, rank };
        let scores = [0.9, 0.0, 0.5, 0.6, 0.7, 0.1];
        let mut largest = scores;
        leave_groups(&mut largest, groups(1, GroupRank::Largest));
        assert_eq!(largest.map(|x| x.is_finite()), [true, true, false, false, false, false]);
        let mut two = scores;
        leave_groups(&mut two, groups(1, GroupRank::TopTwo));
        assert_eq!(two.map(|x| x.is_finite()), [false, false, true, true, false, false]);
    }

    #[test]
    fn ties_go_to_the_lower_row() {
        assert_eq!(largest(&[1.0, 2.0, 2.0, 2.0], 2), [1, 2]);
    }

    #[test]
    fn mixed_rows_leave_the_first_out() {
        let chosen = sparse_mixer(&[1.0, 3.0, 2.99, -5.0], 0.01);
        assert_eq!(chosen[0], Mixed { row: 1, near: vec![false, true, true, false] });
        assert_eq!(chosen[1], Mixed { row: 2, near: vec![false, false, true, false] });
    }
}
