//! Drawing without replacement, the same on every platform.

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, figure 17): 64 bits of state, a bijection of it per number.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is above 0, each equally likely.
    fn below(&mut self, bound: u64) -> u64 {
        let surplus = (u64::MAX % bound + 1) % bound;
        loop {
            let number = self.next();
            if number <= u64::MAX - surplus {
                return number % bound;
            }
        }
    }
}

/// `count` of the numbers 0..`of`, ascending; all of them when there are no more. Every choice is equally likely
/// over the seeds (Fisher and Yates).
pub(crate) fn draw(of: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..of).collect();
    let mut random = SplitMix64(seed);
    let count = count.min(of);
    for at in 0..count {
        let other = at + random.below((of - at) as u64) as usize;
        numbers.swap(at, other);
    }
    numbers.truncate(count);
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix64(1_234_567);
        let numbers = [(); 3].map(|()| random.next());
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn every_pair_is_drawn_equally_often() {
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..6000 {
            *counts.entry(draw(4, 2, seed)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        for (pair, count) in counts {
            assert!(pair[0] < pair[1]);
            // Six standard deviations of a binomial of 6000 draws.
            assert!((count as i64 - 1000).abs() < 175, "{pair:?}: {count}");
        }
    }

    #[test]
    fn there_are_no_more_than_there_are() {
        assert_eq!(draw(3, 9, 5), [0, 1, 2]);
        assert_eq!(draw(0, 9, 5), [0; 0]);
        assert_eq!(draw(9, 0, 5), [0; 0]);
    }
}
