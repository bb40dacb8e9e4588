//! The support of ternary codes, as in [`super::support`], of sixteen groups side by side: a lane of vectors each, so that nothing
//! needs to be added across a vector. Magnitudes are sorted, and every prefix is tried.

use super::support::{mean, unit, whole};

/// Groups side by side.
pub(super) const LANES: usize = 16;
/// Half of them.
const EIGHT: usize = LANES / 2;

type Lanes<T> = [T; LANES];

/// The mean magnitude of the best support of each of sixteen groups of `N` weights, a power of two, that follow each other; 0 where
/// all magnitudes are.
#[inline(always)]
pub(super) fn best_means<const N: usize>(w: &[f32], magnitude: impl Fn(f32) -> f32) -> Lanes<f32> {
    let (mut tops, mut units) = ([0.0; LANES], [0.0; LANES]);
    let mut groups = [[0; N]; LANES];
    for ((w, to), (top, of_group)) in
        w.as_chunks::<N>().0.iter().zip(&mut groups).zip(tops.iter_mut().zip(&mut units))
    {
        *top = f32::from_bits(w.iter().fold(0, |top, &w| top.max(magnitude(w).to_bits())));
        *of_group = unit(*top).unwrap_or(0.0);
        let unit = *of_group;
        to.iter_mut().zip(w).for_each(|(to, &w)| *to = whole(magnitude(w), unit));
    }
    let mut rows = transposed(&groups);
    sort(&mut rows);
    let best = best_of(&rows);
    let mut means = tops;
    for lane in 0..LANES {
        if units[lane] > 0.0 {
            means[lane] = mean(best[lane], tops[lane]);
        }
    }
    means
}

/// Groups to lanes. Not compiled for wide vectors, whose gathers and scatters take longer than one number after the other.
#[inline(never)]
fn transposed<const N: usize>(groups: &[[u32; N]; LANES]) -> [Lanes<u32>; N] {
    let mut rows = [[0; LANES]; N];
    for (lane, group) in groups.iter().enumerate() {
        rows.iter_mut().zip(group).for_each(|(row, &m)| row[lane] = m);
    }
    rows
}

/// Sorts a power of two of rows, lane by lane, the largest first: Batcher's odd-even merge sort.
#[inline(always)]
fn sort<const N: usize>(rows: &mut [Lanes<u32>; N]) {
    let mut sorted = 1;
    while sorted < N {
        let mut apart = sorted;
        while apart > 0 {
            let mut first = apart % sorted;
            while first + apart < N {
                for at in first..N.min(first + 2 * apart) - apart {
                    if at / (2 * sorted) == (at + apart) / (2 * sorted) {
                        let (a, b) = (rows[at], rows[at + apart]);
                        for lane in 0..LANES {
                            rows[at][lane] = a[lane].max(b[lane]);
                            rows[at + apart][lane] = a[lane].min(b[lane]);
                        }
                    }
                }
                first += 2 * apart;
            }
            apart /= 2;
        }
        sorted *= 2;
    }
}

/// The mean of the best prefix of every lane, of magnitudes whose sums 32 bits hold.
#[inline(always)]
fn best_of(rows: &[Lanes<u32>]) -> Lanes<f64> {
    let mut means = [0.0; LANES];
    // Few enough at a time for compilers to keep them in registers.
    for (half, means) in means.as_chunks_mut::<EIGHT>().0.iter_mut().enumerate() {
        // A prefix of j with the sum S gains S² / j; any gains more than this.
        let (mut sum, mut count) = ([0.0; EIGHT], 0.0);
        let (mut best, mut squares, mut counts) = ([0.0; EIGHT], [-1.0; EIGHT], [1.0; EIGHT]);
        for row in rows {
            let row = &row.as_chunks::<EIGHT>().0[half];
            count += 1.0;
            for lane in 0..EIGHT {
                sum[lane] += f64::from(row[lane]);
                let square = sum[lane] * sum[lane];
                let better = square * counts[lane] > squares[lane] * count;
                best[lane] = if better { sum[lane] } else { best[lane] };
                squares[lane] = if better { square } else { squares[lane] };
                counts[lane] = if better { count } else { counts[lane] };
            }
        }
        for lane in 0..EIGHT {
            means[lane] = best[lane] / counts[lane];
        }
    }
    means
}

#[cfg(test)]
mod tests {
    use super::super::support::best_mean;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bit_for_bit_as_one_by_one(
            raw in proptest::collection::vec(-1f32..1.0, 1024), power in 0i32..8, levels in 1u32..4096, at in 0usize..3,
            empty in 0usize..16,
        ) {
            // Ties, and a group of zeros or of numbers that no scale can hold.
            let (length, levels) = ([16, 32, 64][at], levels as f32);
            let mut w: Vec<f32> = raw.into_iter().map(|w| ((w * levels).round() / levels).powi(power)).collect();
            w[empty * length..][..length].fill(if power % 2 == 0 { -0.0 } else { 1e-42 });
            let found = match length {
                16 => best_means::<16>(&w, f32::abs),
                32 => best_means::<32>(&w, f32::abs),
                _ => best_means::<64>(&w, f32::abs),
            };
            for (at, found) in found.into_iter().enumerate() {
                prop_assert_eq!(found.to_bits(), best_mean(&w[at * length..][..length], f32::abs).to_bits());
            }
        }

        #[test]
        fn rows_are_sorted(raw in proptest::collection::vec(0u32..50, 16 * 64)) {
            let mut rows: [Lanes<u32>; 64] = std::array::from_fn(|at| raw.as_chunks().0[at]);
            let mut wanted: [Vec<u32>; LANES] = std::array::from_fn(|lane| rows.iter().map(|row| row[lane]).collect());
            wanted.iter_mut().for_each(|lane| lane.sort_by(|a, b| b.cmp(a)));
            sort(&mut rows);
            for (at, row) in rows.iter().enumerate() {
                prop_assert!((0..LANES).all(|lane| row[lane] == wanted[lane][at]));
            }
        }
    }
}
