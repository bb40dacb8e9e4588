//! How often every code occurs, in parts of a power of two.

use std::sync::LazyLock;

/// The most bits of a frequency.
pub(super) const MAX_BITS: u32 = 12;

/// log₂ of 1 to 2^[`MAX_BITS`], and 0 for 0.
static LOG2: LazyLock<Vec<f64>> =
    LazyLock::new(|| (0..=1u32 << MAX_BITS).map(|n| f64::from(n.max(1)).log2()).collect());

/// Frequencies of neighbouring codes, which add up to 2^`bits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frequencies {
    /// Bits of a frequency, 1 to [`MAX_BITS`].
    pub(super) bits: u32,
    /// The code of the first frequency.
    pub(super) first: u8,
    /// 0 for a code that does not occur.
    pub(super) of: Vec<u16>,
}

impl Frequencies {
    /// Those of fewest bits, table and codes together, for codes that occur `counts` times; `None` without codes.
    pub(super) fn fit(counts: &[u64; 256]) -> Option<Self> {
        let first = counts.iter().position(|&n| n > 0)?;
        let last = counts.iter().rposition(|&n| n > 0)?;
        let counts = &counts[first..=last];
        let occurring = counts.iter().filter(|&&n| n > 0).count();
        let least = occurring.next_power_of_two().trailing_zeros().max(1);
        let candidates = (least..=MAX_BITS).map(|bits| {
            let of = share_out(counts, bits);
            let codes: f64 = counts.iter().zip(&of).map(|(&n, &f)| n as f64 * bits_of(f, bits)).sum();
            (codes + f64::from(bits) * (counts.len() - 1) as f64, Self { bits, first: first as u8, of })
        });
        candidates.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, best)| best)
    }

    /// Bits that codes which occur `counts` times take by entropy alone.
    pub(super) fn cost(&self, counts: &[u64; 256]) -> f64 {
        let counts = &counts[usize::from(self.first)..];
        counts.iter().zip(&self.of).map(|(&n, &f)| n as f64 * bits_of(f, self.bits)).sum()
    }

    /// The codes that occur.
    pub(super) fn codes(&self) -> impl Iterator<Item = u8> {
        (self.first..=u8::MAX).zip(&self.of).filter(|(_, f)| **f > 0).map(|(code, _)| code)
    }

    /// Every frequency with the sum of those before it.
    pub(super) fn intervals(&self) -> impl Iterator<Item = (u32, u32)> {
        self.of.iter().scan(0, |end, &f| {
            let start = *end;
            *end += u32::from(f);
            Some((u32::from(f), start))
        })
    }
}

/// Bits of a code of frequency `f`.
fn bits_of(f: u16, bits: u32) -> f64 {
    f64::from(bits) - LOG2[usize::from(f)]
}

/// Divides 2^`bits` among the counts, every one above 0 getting a part, at nearly the least Σ n log₂ (1 / f).
fn share_out(counts: &[u64], bits: u32) -> Vec<u16> {
    let (whole, all) = (1i64 << bits, counts.iter().sum::<u64>());
    let part = |n: u64| {
        // At most 2^12 · 2^64.
        let nearest = (u128::from(n) * whole as u128 + u128::from(all / 2)) / u128::from(all);
        if n == 0 { 0 } else { nearest.max(1) as u16 }
    };
    let mut of: Vec<u16> = counts.iter().map(|&n| part(n)).collect();
    let mut left = whole - of.iter().map(|&f| i64::from(f)).sum::<i64>();
    // What one part more, or one less, is worth to a code.
    let gain = |n: u64, f: u16| n as f64 * (LOG2[usize::from(f) + 1] - LOG2[usize::from(f)]);
    while left != 0 {
        let occurring = counts.iter().zip(&of).enumerate().filter(|(_, (n, _))| **n > 0);
        let chosen = match left > 0 {
            true => occurring.map(|(at, (&n, &f))| (at, -gain(n, f))).min_by(|a, b| a.1.total_cmp(&b.1)),
            false => {
                let can_lose = occurring.filter(|(_, (_, f))| **f > 1);
                can_lose.map(|(at, (&n, &f))| (at, gain(n, f - 1))).min_by(|a, b| a.1.total_cmp(&b.1))
            }
        };
        // There is always one: no more codes occur than there are parts.
        let Some((at, _)) = chosen else { break };
        let step = left.signum();
        of[at] = (i64::from(of[at]) + step) as u16;
        left -= step;
    }
    of
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(of: &[u64]) -> [u64; 256] {
        let mut counts = [0; 256];
        counts[..of.len()].copy_from_slice(of);
        counts
    }

    #[test]
    fn by_hand() {
        assert_eq!(Frequencies::fit(&counts(&[])), None);
        let one = Frequencies::fit(&counts(&[0, 0, 9])).unwrap();
        assert_eq!(one, Frequencies { bits: 1, first: 2, of: vec![2] });
        assert_eq!(one.cost(&counts(&[0, 0, 9])), 0.0);
        let halves = Frequencies::fit(&counts(&[0, 2000, 1000, 1000])).unwrap();
        assert_eq!(halves, Frequencies { bits: 2, first: 1, of: vec![2, 1, 1] });
        assert_eq!(halves.cost(&counts(&[0, 2000, 1000, 1000])), 6000.0);
        assert_eq!(halves.intervals().collect::<Vec<_>>(), [(2, 0), (1, 2), (1, 3)]);
        // A gap costs nothing but its place in the table.
        assert_eq!(Frequencies::fit(&counts(&[5, 0, 5])).unwrap().of, [1, 0, 1]);
    }

    proptest! {
        #[test]
        fn parts_add_up_and_come_near_the_entropy(
            of in proptest::collection::vec(prop_oneof![Just(0u64), 1u64..20, 0u64..100_000], 1..=256),
        ) {
            let counts = counts(&of);
            let all: u64 = of.iter().sum();
            prop_assume!(all > 0);
            let found = Frequencies::fit(&counts).unwrap();
            prop_assert_eq!(found.of.iter().map(|&f| u32::from(f)).sum::<u32>(), 1 << found.bits);
            for (at, &n) in of.iter().enumerate() {
                let f = at.checked_sub(usize::from(found.first)).and_then(|at| found.of.get(at));
                prop_assert_eq!(n > 0, f.is_some_and(|&f| f > 0), "code {}", at);
            }
            let entropy: f64 = of.iter().filter(|&&n| n > 0).map(|&n| n as f64 * (all as f64 / n as f64).log2()).sum();
            let cost = found.cost(&counts);
            // Twelve bits for every frequency, and what a rare code is rounded up to, bound the rest.
            let occurring = of.iter().filter(|&&n| n > 0).count() as f64;
            prop_assert!(cost >= entropy * (1.0 - 1e-9));
            prop_assert!(cost <= entropy + 12.0 * found.of.len() as f64 + all as f64 * occurring * 1.5 / 4096.0, "{} {}", cost, entropy);
        }
    }
}
