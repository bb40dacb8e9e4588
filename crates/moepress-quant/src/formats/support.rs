//! The support of ternary codes: which weights are not zero, for the least squared error.
//!
//! A support with mean magnitude a gains (Σ h|w|)² / Σ h over all zeros, and the best one is {|w| > a / 2} (methods of
//! Lloyd). So its mean is a fixed point of f(a) = mean {|w| > a / 2}. As f grows with a, going on from 0 and from the
//! largest magnitude closes in on all fixed points from both sides; the few weights in between are tried one by one.

/// Weights a time.
const LANES: usize = 8;
/// Weights in between that are few.
const FEW: usize = 8;
/// Steps from both sides at most; three or four leave few in between where there is one fixed point.
const STEPS: usize = 8;

/// Σ h m, Σ h and the number of the weights whose magnitude m is above some bound.
#[derive(Clone, Copy, Default)]
struct Sums {
    moment: f64,
    mass: f64,
    count: usize,
}

/// The mean magnitude of the best support; 0 where all magnitudes that count are. `magnitude` is that of a weight;
/// h is 1 without `weights`.
#[inline(always)]
pub(super) fn best_mean(w: &[f32], weights: Option<&[f64]>, magnitude: impl Fn(f32) -> f32 + Copy) -> f64 {
    let top = w.iter().fold(0f32, |top, &w| top.max(magnitude(w)));
    let (mut low, mut high) = (0.0, f64::from(top));
    let mut above = [Sums::default(); 2];
    for step in 0..=STEPS {
        let bounds = [low / 2.0, high / 2.0];
        above = match weights {
            Some(h) => sums(w, |at| h[at], magnitude, bounds),
            None => sums(w, |_| 1.0, magnitude, bounds),
        };
        let [below_all, below_few] = above;
        if below_all.count - below_few.count <= FEW || step == STEPS {
            break;
        }
        let mean = |sums: Sums, none: f64| if sums.mass > 0.0 { sums.moment / sums.mass } else { none };
        // No support reaches above what does not count.
        let next = (mean(below_all, 0.0), mean(below_few, high / 2.0));
        if next == (low, high) {
            break;
        }
        (low, high) = next;
    }
    let [most, least] = above;
    let between = |m: f32| (f64::from(m) > low / 2.0) & (f64::from(m) <= high / 2.0);
    let candidates = w.iter().enumerate().map(|(at, &w)| (magnitude(w), at)).filter(|(m, _)| between(*m));
    let term = |(m, at): (f32, usize)| (m, weights.map_or(1.0, |h| h[at]));
    let (mut few, mut many) = ([(0.0, 0.0); FEW], vec![]);
    let found = match most.count - least.count {
        count @ ..=FEW => {
            few.iter_mut().zip(candidates).for_each(|(to, from)| *to = term(from));
            &mut few[..count]
        }
        _ => {
            many.extend(candidates.map(term));
            &mut many[..]
        }
    };
    found.sort_unstable_by(|(a, _), (b, _)| b.total_cmp(a));
    let (mut now, mut best) = (least, least);
    for &mut (m, h) in found {
        now.moment += h * f64::from(m);
        now.mass += h;
        // moment² / mass, without dividing.
        if now.moment * now.moment * best.mass > best.moment * best.moment * now.mass || best.mass == 0.0 {
            best = now;
        }
    }
    if best.mass > 0.0 { best.moment / best.mass } else { 0.0 }
}

/// The sums above each of two bounds.
#[inline(always)]
fn sums(w: &[f32], h: impl Fn(usize) -> f64, magnitude: impl Fn(f32) -> f32, bounds: [f64; 2]) -> [Sums; 2] {
    let mut moments = [[0.0; LANES]; 2];
    let mut masses = [[0.0; LANES]; 2];
    let mut counts = [[0u32; LANES]; 2];
    let mut add = |lane: usize, w: f32, h: f64| {
        let m = f64::from(magnitude(w));
        for side in 0..2 {
            let above = m > bounds[side];
            moments[side][lane] += if above { h * m } else { 0.0 };
            masses[side][lane] += if above { h } else { 0.0 };
            counts[side][lane] += u32::from(above);
        }
    };
    let (chunks, rest) = w.as_chunks::<LANES>();
    for (at, chunk) in chunks.iter().enumerate() {
        for lane in 0..LANES {
            add(lane, chunk[lane], h(at * LANES + lane));
        }
    }
    for (lane, &w) in rest.iter().enumerate() {
        add(lane, w, h(chunks.len() * LANES + lane));
    }
    [0, 1].map(|side| Sums {
        moment: moments[side].iter().sum(),
        mass: masses[side].iter().sum(),
        count: counts[side].iter().map(|&count| count as usize).sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By the scan over all prefixes.
    fn scanned(w: &[f32], h: &[f64]) -> f64 {
        let mut order: Vec<usize> = (0..w.len()).collect();
        order.sort_by(|&a, &b| w[b].abs().total_cmp(&w[a].abs()));
        let (mut moment, mut mass, mut best) = (0.0, 0.0, (0.0, 0.0));
        for at in order {
            moment += h[at] * f64::from(w[at].abs());
            mass += h[at];
            let gain = moment * moment / mass;
            if gain > best.0 {
                best = (gain, moment / mass);
            }
        }
        best.0
    }

    fn gain(w: &[f32], h: &[f64], mean: f64) -> f64 {
        let support = || w.iter().zip(h).filter(|(w, _)| f64::from(w.abs()) > mean / 2.0);
        let moment: f64 = support().map(|(w, h)| h * f64::from(w.abs())).sum();
        let mass: f64 = support().map(|(_, h)| h).sum();
        if mass > 0.0 { moment * moment / mass } else { 0.0 }
    }

    #[test]
    fn many_fixed_points() {
        // Clusters half as far from zero as those before: the means of all of them are fixed points, nearly.
        let w: Vec<f32> =
            (0..60).map(|at| 0.499f32.powi(at / 12) * (1.0 + 0.001 * (at % 12) as f32)).collect();
        let h = vec![1.0; w.len()];
        let mean = best_mean(&w, None, f32::abs);
        assert!((gain(&w, &h, mean) / scanned(&w, &h) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_counts() {
        assert_eq!(best_mean(&[], None, f32::abs), 0.0);
        assert_eq!(best_mean(&[0.0, -0.0], None, f32::abs), 0.0);
        assert_eq!(best_mean(&[0.0, 5.0], Some(&[1.0, 0.0]), f32::abs), 0.0);
        assert_eq!(best_mean(&[0.25, 5.0], Some(&[1.0, 0.0]), f32::abs), 0.25);
        assert_eq!(best_mean(&[f32::MAX; 3], None, f32::abs), f64::from(f32::MAX));
        assert_eq!(best_mean(&[f32::from_bits(1)], None, f32::abs), f64::from(f32::from_bits(1)));
    }

    proptest! {
        #[test]
        fn as_good_as_the_scan(
            terms in proptest::collection::vec((-1f32..1.0, prop_oneof![Just(0.0), 0.01..10.0]), 1..400),
            power in 1i32..8, unweighted: bool,
        ) {
            let (w, mut h): (Vec<f32>, Vec<f64>) = terms.into_iter().map(|(w, h)| (w.powi(power), h)).unzip();
            if unweighted {
                h.fill(1.0);
            }
            let mean = best_mean(&w, (!unweighted).then_some(&h), f32::abs);
            let (found, best) = (gain(&w, &h, mean), scanned(&w, &h));
            prop_assert!((found - best).abs() <= 1e-9 * best, "{} {}", found, best);
        }
    }
}
