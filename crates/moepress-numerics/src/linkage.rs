//! Agglomerative clustering: the nearest two clusters become one until one is left.
//!
//! Distances to a new cluster follow from those to its halves: G. N. Lance and W. T. Williams, "A general theory of
//! classificatory sorting strategies", The Computer Journal 9 (1967). O(n³) time, O(n²) memory.

/// What the distance of two clusters is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// The mean distance of a member of one and a member of the other.
    Average,
    /// The largest such distance.
    Complete,
    /// √(2 |A| |B| / (|A| + |B|)) times the distance of the centroids: what joining them adds to the squared
    /// distances from the centroids (J. H. Ward, JASA 58, 1963). Distances must be Euclidean.
    Ward,
}

/// Two clusters that became one.
#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    /// The members of the cluster with the lower first member, ascending.
    pub left: Vec<usize>,
    /// The members of the other, ascending.
    pub right: Vec<usize>,
    /// Their distance.
    pub height: f64,
}

/// All n − 1 joins, the first first. `distance` is `[n, n]`, row-major and symmetric; of equal distances the pair
/// with the lowest first members joins first.
///
/// # Panics
/// When `distance` does not hold n² numbers.
pub fn joins(distance: &[f64], n: usize, linkage: Linkage) -> Vec<Join> {
    assert_eq!(distance.len(), n * n, "a distance matrix of {n} rows has {n} columns");
    // Ward's distances add up squared.
    let squared = linkage == Linkage::Ward;
    let mut between: Vec<f64> =
        if squared { distance.iter().map(|d| d * d).collect() } else { distance.to_vec() };
    // A cluster lies where its lowest member does.
    let mut clusters: Vec<Vec<usize>> = (0..n).map(|point| vec![point]).collect();
    let mut alive: Vec<usize> = (0..n).collect();
    let mut joins = Vec::with_capacity(n.saturating_sub(1));
    while let Some((a, b)) = nearest(&between, n, &alive) {
        let height = between[a * n + b];
        let (size_a, size_b) = (clusters[a].len() as f64, clusters[b].len() as f64);
        alive.retain(|&cluster| cluster != b);
        for &other in alive.iter().filter(|&&other| other != a) {
            let (to_a, to_b) = (between[a * n + other], between[b * n + other]);
            let joined = match linkage {
                Linkage::Average => (size_a * to_a + size_b * to_b) / (size_a + size_b),
                Linkage::Complete => to_a.max(to_b),
                Linkage::Ward => {
                    let size = clusters[other].len() as f64;
                    ((size_a + size) * to_a + (size_b + size) * to_b - size * height)
                        / (size_a + size_b + size)
                }
            };
            between[a * n + other] = joined;
            between[other * n + a] = joined;
        }
        let (left, right) = (clusters[a].clone(), std::mem::take(&mut clusters[b]));
        clusters[a].extend(&right);
        clusters[a].sort_unstable();
        joins.push(Join { left, right, height: if squared { height.max(0.0).sqrt() } else { height } });
    }
    joins
}

/// The `count` clusters that are left after n − `count` joins; members ascending, clusters by their lowest.
pub fn clusters(distance: &[f64], n: usize, linkage: Linkage, count: usize) -> Vec<Vec<usize>> {
    let mut clusters: Vec<Vec<usize>> = (0..n).map(|point| vec![point]).collect();
    for Join { left, right, .. } in joins(distance, n, linkage).into_iter().take(n.saturating_sub(count)) {
        let lowest = left[0];
        clusters[right[0]].clear();
        clusters[lowest] = [left, right].concat();
        clusters[lowest].sort_unstable();
    }
    clusters.retain(|members| !members.is_empty());
    clusters
}

/// The nearest two of the clusters that are left.
fn nearest(between: &[f64], n: usize, alive: &[usize]) -> Option<(usize, usize)> {
    let mut best: Option<(f64, usize, usize)> = None;
    for (index, &a) in alive.iter().enumerate() {
        for &b in &alive[index + 1..] {
            let distance = between[a * n + b];
            if best.is_none_or(|(least, ..)| distance.total_cmp(&least).is_lt()) {
                best = Some((distance, a, b));
            }
        }
    }
    best.map(|(_, a, b)| (a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Linkage; 3] = [Linkage::Average, Linkage::Complete, Linkage::Ward];

    fn distances(points: &[Vec<f64>]) -> Vec<f64> {
        points.iter().flat_map(|a| points.iter().map(|b| norm(a, b))).collect()
    }

    fn norm(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
    }

    /// The distance of two clusters from their points alone.
    fn by_definition(points: &[Vec<f64>], a: &[usize], b: &[usize], linkage: Linkage) -> f64 {
        let pairs = || a.iter().flat_map(|&i| b.iter().map(move |&j| norm(&points[i], &points[j])));
        let (na, nb) = (a.len() as f64, b.len() as f64);
        match linkage {
            Linkage::Average => pairs().sum::<f64>() / (na * nb),
            Linkage::Complete => pairs().fold(0.0, f64::max),
            Linkage::Ward => {
                let centroid = |members: &[usize]| -> Vec<f64> {
                    let mean = |axis| members.iter().map(|&i| points[i][axis]).sum::<f64>();
                    (0..points[0].len()).map(|axis| mean(axis) / members.len() as f64).collect()
                };
                (2.0 * na * nb / (na + nb)).sqrt() * norm(&centroid(a), &centroid(b))
            }
        }
    }

    /// The heights of all joins, every distance computed anew.
    fn oracle(points: &[Vec<f64>], linkage: Linkage) -> Vec<f64> {
        let mut clusters: Vec<Vec<usize>> = (0..points.len()).map(|point| vec![point]).collect();
        let mut heights = vec![];
        while clusters.len() > 1 {
            let pairs = (0..clusters.len()).flat_map(|a| (a + 1..clusters.len()).map(move |b| (a, b)));
            let (height, a, b) = pairs
                .map(|(a, b)| (by_definition(points, &clusters[a], &clusters[b], linkage), a, b))
                .min_by(|x, y| x.0.total_cmp(&y.0))
                .unwrap();
            heights.push(height);
            let joined = clusters.remove(b);
            clusters[a].extend(joined);
        }
        heights
    }

    fn points(n: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<Vec<f64>>> {
        prop::collection::vec(prop::collection::vec(-1.0..1.0f64, 3), n)
    }

    proptest! {
        #[test]
        fn heights_are_those_of_the_definition(points in points(2..12)) {
            for linkage in ALL {
                let found = joins(&distances(&points), points.len(), linkage);
                let wanted = oracle(&points, linkage);
                prop_assert_eq!(found.len(), wanted.len());
                for (join, wanted) in found.iter().zip(wanted) {
                    prop_assert!((join.height - wanted).abs() < 1e-9, "{:?}: {} {}", linkage, join.height, wanted);
                }
            }
        }

        #[test]
        fn other_names_of_the_points_give_the_same_clusters(
            points in points(9), order in Just((0..9).collect::<Vec<usize>>()).prop_shuffle(), count in 1..9usize
        ) {
            let renamed: Vec<Vec<f64>> = order.iter().map(|&point| points[point].clone()).collect();
            for linkage in ALL {
                let mut found = clusters(&distances(&renamed), 9, linkage, count);
                for members in &mut found {
                    members.iter_mut().for_each(|member| *member = order[*member]);
                    members.sort_unstable();
                }
                found.sort();
                prop_assert_eq!(found, clusters(&distances(&points), 9, linkage, count));
            }
        }

        #[test]
        fn duplicates_join_first(points in points(6), copied in 0..6usize, place in 0..=6usize) {
            let mut points = points;
            let copy = points[copied].clone();
            points.insert(place, copy);
            let original = if place <= copied { copied + 1 } else { copied };
            for linkage in ALL {
                let first = &joins(&distances(&points), 7, linkage)[0];
                prop_assert_eq!(first.height, 0.0);
                prop_assert_eq!((first.left[0], first.right[0]), (place.min(original), place.max(original)));
            }
        }
    }

    #[test]
    fn four_points_on_a_line() {
        let points: Vec<Vec<f64>> = [0.0, 1.0, 10.0, 11.0].map(|x| vec![x]).to_vec();
        for linkage in ALL {
            assert_eq!(clusters(&distances(&points), 4, linkage, 2), [[0, 1], [2, 3]]);
        }
        let heights: Vec<f64> =
            joins(&distances(&points), 4, Linkage::Average).iter().map(|join| join.height).collect();
        assert_eq!(heights, [1.0, 1.0, 10.0]);
        assert_eq!(clusters(&distances(&points), 4, Linkage::Average, 4).len(), 4);
        assert_eq!(clusters(&distances(&points), 4, Linkage::Average, 9).len(), 4);
    }

    #[test]
    fn of_equal_distances_the_lowest_pair_joins() {
        let found = joins(&[0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0], 3, Linkage::Average);
        assert_eq!((&found[0].left[..], &found[0].right[..]), (&[0][..], &[1][..]));
    }
}
