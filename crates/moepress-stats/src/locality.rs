//! How well the experts of a run of tokens can be foreseen: moe-lrc, arXiv 2505.16056.

/// Lengths of runs, in tokens.
pub const RUNS: [usize; 4] = [4, 16, 64, 256];

/// Elements of [`Quantity::RunUses`](crate::Quantity::RunUses).
pub fn run_uses_len() -> usize {
    RUNS.iter().map(|run| run + 1).sum()
}

/// How well a fixed set of experts serves a run of tokens, at best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segments {
    /// Segment routing best performance: the largest F1 of "an expert is held for the whole run if it is used at
    /// least τ times in it" over all τ; 1 when experts are used by all tokens of a run or by none.
    pub srp: f64,
    /// Experts held at that τ, as a multiple of the experts that a token uses.
    pub held: f64,
}

/// The best over τ of 2 Σ c n_c / (m Σ n_c + Σ_all c n_c), the first two sums over c ≥ τ, from the number n_c of runs
/// of m tokens and experts with c uses, `[m + 1]`. None without runs, as in windows shorter than m. Of equals the
/// smaller set.
pub fn segments(uses: &[f64]) -> Option<Segments> {
    let run = uses.len().checked_sub(1)? as f64;
    let weighted = |c: usize| c as f64 * uses[c];
    let activations: f64 = (0..uses.len()).map(weighted).sum();
    let (mut matches, mut held, mut best) = (0.0, 0.0, None::<Segments>);
    for least in (1..uses.len()).rev() {
        matches += weighted(least);
        held += run * uses[least];
        let f1 = 2.0 * matches / (held + activations);
        if activations > 0.0 && best.is_none_or(|best| f1 > best.srp) {
            best = Some(Segments { srp: f1, held: held / activations });
        }
    }
    best
}

/// Segment cache best hit rate: the share of all uses of experts that a cache of `size` experts serves, from the
/// uses that caches of s = 1, 2, … experts serve first, `[experts]`.
pub fn cache_hit_rate(hits: &[f64], size: usize, uses: f64) -> f64 {
    hits.iter().take(size).sum::<f64>() / uses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_routing_and_single_tokens_are_foreseen() {
        // Two of five experts in all of seven runs of four tokens.
        assert_eq!(segments(&[21.0, 0.0, 0.0, 0.0, 14.0]), Some(Segments { srp: 1.0, held: 1.0 }));
        assert_eq!(segments(&[9.0, 6.0]), Some(Segments { srp: 1.0, held: 1.0 }));
        assert_eq!(segments(&[5.0, 0.0, 0.0]), None);
        assert_eq!(segments(&[]), None);
    }

    #[test]
    fn independent_routing_follows_the_binomial() {
        // Each expert is used by half of the tokens: P(c of 4) = 1, 4, 6, 4, 1 sixteenths.
        let found = segments(&[1.0, 4.0, 6.0, 4.0, 1.0]).unwrap();
        let f1 = |least: usize| {
            let n = [1.0, 4.0, 6.0, 4.0, 1.0];
            let over = |f: fn(usize) -> f64| (least..5).map(|c| f(c) * n[c]).sum::<f64>();
            2.0 * over(|c| c as f64) / (4.0 * over(|_| 1.0) + 32.0)
        };
        assert_eq!(found.srp, (1..5).map(f1).fold(0.0, f64::max));
        assert_eq!(found, Segments { srp: 2.0 * 28.0 / (44.0 + 32.0), held: 44.0 / 32.0 });
    }

    #[test]
    fn hit_rates_add_up_over_sizes() {
        let rates = [0, 1, 2, 3].map(|size| cache_hit_rate(&[4.0, 2.0, 0.0], size, 8.0));
        assert_eq!(rates, [0.0, 0.5, 0.75, 0.75]);
    }
}
