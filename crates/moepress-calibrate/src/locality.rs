//! Which experts follow which: from layer to layer (ExFlow, arXiv 2401.08383) and from token to token (moe-lrc,
//! arXiv 2505.16056).

use crate::chunk::Chunk;
use moepress_nn::Routed;
use moepress_stats::{Of, Quantity, RUNS, Statistics, StatisticsError, run_uses_len};

/// Experts of every token, ascending.
pub type Choices = Vec<Vec<usize>>;

/// The experts that every token of a chunk is routed to.
pub fn choices(routed: &Routed, tokens: usize) -> Choices {
    let mut choices = vec![Vec::new(); tokens];
    for (expert, chosen) in routed.tokens.iter().enumerate() {
        chosen.iter().for_each(|&token| choices[token as usize].push(expert));
    }
    choices
}

/// As rows that can be kept between layers, `[tokens, top_k]`; short rows end with −1.
pub fn pack(choices: &Choices, top_k: usize) -> Vec<f32> {
    let padded = |row: &Vec<usize>| {
        let experts = row.iter().map(|&expert| expert as f32).chain(std::iter::repeat(-1.0));
        experts.take(top_k).collect::<Vec<f32>>()
    };
    choices.iter().flat_map(padded).collect()
}

/// What [`pack`] packed.
pub fn unpack(rows: &[f32], top_k: usize) -> Choices {
    let experts = |row: &[f32]| row.iter().filter(|&&expert| expert >= 0.0).map(|&e| e as usize).collect();
    rows.chunks_exact(top_k).map(experts).collect()
}

/// Adds the tokens that pass each pair of an expert of the layer before and one of this layer.
pub fn add_affinity(
    layer: usize,
    (before, experts_before): (&Choices, usize),
    (now, experts): (&Choices, usize),
    stats: &mut Statistics,
) -> Result<(), StatisticsError> {
    let mut pairs = vec![0.0; experts_before * experts];
    for (before, now) in before.iter().zip(now) {
        for &a in before {
            now.iter().for_each(|&b| pairs[a * experts + b] += 1.0);
        }
    }
    stats.add(Of::Layer(layer), Quantity::Affinity, pairs)
}

/// Adds what the windows of a chunk say of runs of tokens.
pub fn add_runs(
    layer: usize,
    choices: &Choices,
    experts: usize,
    chunk: &Chunk,
    stats: &mut Statistics,
) -> Result<(), StatisticsError> {
    let (mut uses, mut hits) = (Vec::with_capacity(run_uses_len()), Vec::new());
    for run in RUNS {
        let mut counts = vec![0.0; run + 1];
        let mut sizes = vec![0.0; experts];
        for window in choices.chunks(chunk.window()) {
            add_uses(window, experts, run, &mut counts);
            add_hits(window, experts, run, &mut sizes);
        }
        uses.extend(counts);
        hits.extend(sizes);
    }
    stats.add(Of::Layer(layer), Quantity::RunUses, uses)?;
    stats.add(Of::Layer(layer), Quantity::CacheHits, hits)
}

/// For every run of `run` consecutive tokens and every expert, how many of the tokens use it.
fn add_uses(window: &[Vec<usize>], experts: usize, run: usize, counts: &mut [f64]) {
    if window.len() < run {
        return;
    }
    let mut uses = vec![0; experts];
    // How many experts have that many uses in the run that ends here.
    let mut with = vec![0u32; run + 1];
    with[0] = experts as u32;
    for (token, chosen) in window.iter().enumerate() {
        let mut step = |expert: usize, more: bool| {
            let before = uses[expert];
            uses[expert] = if more { before + 1 } else { before - 1 };
            with[before] -= 1;
            with[uses[expert]] += 1;
        };
        if token >= run {
            window[token - run].iter().for_each(|&expert| step(expert, false));
        }
        chosen.iter().for_each(|&expert| step(expert, true));
        if token + 1 >= run {
            counts.iter_mut().zip(&with).for_each(|(sum, &n)| *sum += f64::from(n));
        }
    }
}

/// For every use of an expert, the least size of a cache that has it: `sizes[s - 1]`. Before a token is served, a cache
/// of s experts holds those s of all used so far in the window that the next `ahead` tokens, this one included, use
/// most; of equals those used last, then those of lower index. The first use in a window is served by no cache: what
/// was never loaded cannot be held.
fn add_hits(window: &[Vec<usize>], experts: usize, ahead: usize, sizes: &mut [f64]) {
    let mut uses = vec![0u32; experts];
    // The token that used an expert last, plus one; 0 for none.
    let mut last = vec![0usize; experts];
    for chosen in window.iter().take(ahead) {
        chosen.iter().for_each(|&expert| uses[expert] += 1);
    }
    for (token, chosen) in window.iter().enumerate() {
        for &expert in chosen.iter().filter(|&&expert| last[expert] > 0) {
            let rank = |e: usize| (uses[e], last[e], std::cmp::Reverse(e));
            let before = (0..experts).filter(|&e| last[e] > 0 && rank(e) > rank(expert)).count();
            sizes[before] += 1.0;
        }
        for &expert in chosen {
            last[expert] = token + 1;
            uses[expert] -= 1;
        }
        if let Some(next) = window.get(token + ahead) {
            next.iter().for_each(|&expert| uses[expert] += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows() -> Vec<Choices> {
        let mut state = 7u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let mut token = || {
            let first = next(5) as usize;
            let mut pair = vec![first, (first + 1 + next(4) as usize) % 5];
            pair.sort_unstable();
            pair
        };
        (0..6).map(|_| (0..9).map(|_| token()).collect()).collect()
    }

    #[test]
    fn uses_are_those_counted_run_by_run() {
        for run in [1, 2, 4, 9, 10] {
            for window in windows() {
                let mut found = vec![0.0; run + 1];
                add_uses(&window, 5, run, &mut found);
                let mut wanted = vec![0.0; run + 1];
                for tokens in window.windows(run) {
                    for expert in 0..5 {
                        wanted[tokens.iter().filter(|chosen| chosen.contains(&expert)).count()] += 1.0;
                    }
                }
                assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn hits_are_those_of_caches_run_one_by_one() {
        for ahead in [1, 2, 4, 16] {
            for window in windows() {
                let mut found = vec![0.0; 5];
                add_hits(&window, 5, ahead, &mut found);
                for size in 1..=5 {
                    let mut served = 0.0;
                    for (token, chosen) in window.iter().enumerate() {
                        let used_at = |e: &usize| window[..token].iter().rposition(|c| c.contains(e));
                        let coming =
                            |e: &usize| window[token..].iter().take(ahead).filter(|c| c.contains(e)).count();
                        let mut cache: Vec<usize> = (0..5).filter(|e| used_at(e).is_some()).collect();
                        cache.sort_by_key(|e| {
                            std::cmp::Reverse((coming(e), used_at(e), std::cmp::Reverse(*e)))
                        });
                        cache.truncate(size);
                        served += chosen.iter().filter(|expert| cache.contains(expert)).count() as f64;
                    }
                    assert_eq!(found[..size].iter().sum::<f64>(), served, "{ahead} {size}");
                }
            }
        }
    }

    #[test]
    fn constant_routing_fits_a_cache_of_what_a_token_uses() {
        let window = vec![vec![1, 3]; 10];
        let mut sizes = vec![0.0; 5];
        add_hits(&window, 5, 4, &mut sizes);
        // All but the first use of both.
        assert_eq!(sizes.iter().sum::<f64>(), 18.0);
        assert_eq!(sizes[..2].iter().sum::<f64>(), 18.0);
    }

    #[test]
    fn choices_survive_packing() {
        let choices = vec![vec![0, 3], vec![2], vec![], vec![1, 4]];
        assert_eq!(unpack(&pack(&choices, 2), 2), choices);
    }
}
