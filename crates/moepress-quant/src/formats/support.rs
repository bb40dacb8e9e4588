//! The support of ternary codes: which weights are not zero, for the least squared error.
//!
//! A support of j weights with magnitudes that add up to S leaves S² / j less error than zeros do. The best one is {|w| > a / 2}
//! with a = S / j its mean, a fixed point of f(a) = mean {|w| > a / 2}. As f grows with a, going on from 0 and from the
//! largest magnitude closes in on all fixed points from both sides; the few weights in between are tried one by one.
//!
//! Magnitudes are counted in 2⁻²³ of the largest: sums of integers can be taken in any order, and so in vectors.

/// Bits of a magnitude.
const BITS: u32 = 23;
/// Weights of a group whose magnitudes need no memory of their own.
const SHORT: usize = 128;
/// Weights in between that are few.
const FEW: usize = 4;
/// Steps from both sides at most; three or four leave few in between where there is one fixed point.
const STEPS: usize = 8;

/// The mean magnitude of the best support; 0 where all magnitudes are.
#[inline(always)]
pub(super) fn best_mean(w: &[f32], magnitude: impl Fn(f32) -> f32) -> f32 {
    // Bits of numbers that are not negative are in the order of the numbers.
    let top = f32::from_bits(w.iter().fold(0, |top, &w| top.max(magnitude(w).to_bits())));
    let Some(unit) = unit(top) else { return top };
    let (mut short, mut long) = ([0; SHORT], vec![]);
    let magnitudes = match w.len() {
        len @ ..=SHORT => &mut short[..len],
        len => {
            long.resize(len, 0);
            &mut long[..]
        }
    };
    magnitudes.iter_mut().zip(w).for_each(|(to, &w)| *to = whole(magnitude(w), unit));
    mean(best_of(magnitudes), top)
}

/// What the largest magnitude is multiplied by to be 2^[`BITS`]; none if all are zeros, or less than any scale can hold.
#[inline(always)]
pub(super) fn unit(top: f32) -> Option<f32> {
    Some((1u32 << BITS) as f32 / top).filter(|unit| unit.is_finite())
}

/// A magnitude counted in 2⁻²³ of the largest.
#[inline(always)]
pub(super) fn whole(magnitude: f32, unit: f32) -> u32 {
    // From 2^23 to 2^24 f32 numbers are the integers.
    (magnitude * unit + (1u32 << BITS) as f32).to_bits().wrapping_sub((127 + BITS) << 23)
}

/// The mean of magnitudes that are counted so.
#[inline(always)]
pub(super) fn mean(counted: f64, top: f32) -> f32 {
    (counted * f64::from(top) / f64::from(1u32 << BITS)) as f32
}

/// The same of magnitudes up to 2^[`BITS`].
#[inline(always)]
fn best_of(magnitudes: &[u32]) -> f64 {
    let mut bounds = [0, 1 << (BITS - 1)];
    let mut above = [Support::default(); 2];
    for step in 0..=STEPS {
        above = supports(magnitudes, bounds);
        let next = above.map(|support| support.bound());
        if above[0].count - above[1].count <= FEW as u64 || next == bounds || step == STEPS {
            break;
        }
        bounds = next;
    }
    let (mut now, mut best) = (above[1], above[1]);
    // Those in between from the largest on; of equals only all of them can be best, for the gain is convex in their number.
    let mut last = bounds[1] + 1;
    while now.count < above[0].count {
        let (next, count) = below(magnitudes, last);
        now = Support { sum: now.sum + u64::from(next) * count, count: now.count + count };
        if now.beats(best) {
            best = now;
        }
        last = next;
    }
    best.sum as f64 / best.count.max(1) as f64
}

/// The largest magnitude below a bound, and how many there are of it.
#[inline(always)]
fn below(magnitudes: &[u32], bound: u32) -> (u32, u64) {
    let mut most = 0u32;
    for &m in magnitudes {
        most = most.max(if m < bound { m } else { 0 });
    }
    let mut count = 0u32;
    for &m in magnitudes {
        count = count.wrapping_add(u32::from(m == most));
    }
    (most, u64::from(count))
}

/// Some of the largest magnitudes.
#[derive(Clone, Copy, Default)]
struct Support {
    sum: u64,
    count: u64,
}

impl Support {
    /// Whether S² / j is more.
    fn beats(self, other: Self) -> bool {
        let part = |a: Self, b: Self| a.sum as f64 * a.sum as f64 * b.count as f64;
        part(self, other) > part(other, self)
    }

    /// Half the mean, which magnitudes are above exactly when they are above the whole number below it.
    fn bound(self) -> u32 {
        (self.sum / (2 * self.count).max(1)) as u32
    }
}

/// The magnitudes above each of two bounds.
#[inline(always)]
fn supports(magnitudes: &[u32], bounds: [u32; 2]) -> [Support; 2] {
    let (mut sums, mut counts) = ([0u64; 2], [0u64; 2]);
    // The sum of so many magnitudes is below 2^32.
    for magnitudes in magnitudes.chunks(SHORT) {
        let (mut low, mut high, mut most, mut least) = (0u32, 0u32, 0u32, 0u32);
        for &m in magnitudes {
            low = low.wrapping_add(if m > bounds[0] { m } else { 0 });
            high = high.wrapping_add(if m > bounds[1] { m } else { 0 });
            most = most.wrapping_add(u32::from(m > bounds[0]));
            least = least.wrapping_add(u32::from(m > bounds[1]));
        }
        sums = [sums[0] + u64::from(low), sums[1] + u64::from(high)];
        counts = [counts[0] + u64::from(most), counts[1] + u64::from(least)];
    }
    [0, 1].map(|side| Support { sum: sums[side], count: counts[side] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The best gain, by the scan over all prefixes.
    fn best(w: &[f32]) -> f64 {
        let mut sorted: Vec<f64> = w.iter().map(|w| f64::from(w.abs())).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let mut sum = 0.0;
        let gains = sorted.iter().enumerate().map(|(at, m)| {
            sum += m;
            sum * sum / (at + 1) as f64
        });
        gains.fold(0.0, f64::max)
    }

    fn gain(w: &[f32], mean: f32) -> f64 {
        let support = || w.iter().filter(|w| w.abs() > mean / 2.0);
        let sum: f64 = support().map(|w| f64::from(w.abs())).sum();
        sum * sum / support().count().max(1) as f64
    }

    #[test]
    fn many_fixed_points() {
        // Clusters half as far from zero as those before: the means of all of them are fixed points, nearly.
        let w: Vec<f32> =
            (0..240).map(|at| 0.499f32.powi(at / 24) * (1.0 + 0.001 * (at % 24) as f32)).collect();
        assert!((gain(&w, best_mean(&w, f32::abs)) / best(&w) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn corners() {
        assert_eq!(best_mean(&[], f32::abs), 0.0);
        assert_eq!(best_mean(&[0.0, -0.0], f32::abs), 0.0);
        assert_eq!(best_mean(&[-0.3], f32::abs), 0.3);
        assert_eq!(best_mean(&[f32::MAX; 300], f32::abs), f32::MAX);
        assert_eq!(best_mean(&[f32::from_bits(9)], f32::abs), f32::from_bits(9));
        assert_eq!(best_mean(&[0.5, -4.0, 0.5], |w| w.max(0.0)), 0.5);
    }

    proptest! {
        #[test]
        fn as_good_as_the_scan(raw in proptest::collection::vec(-1f32..1.0, 1..600), power in 1i32..8) {
            let w: Vec<f32> = raw.into_iter().map(|w| w.powi(power)).collect();
            let (found, best) = (gain(&w, best_mean(&w, f32::abs)), best(&w));
            prop_assert!((found - best).abs() <= 1e-6 * best, "{} {}", found, best);
        }
    }
}
