//! What routing is like, for the report: it decides nothing.

use moepress_model::ModelSpec;
use moepress_stats::{
    Of, Pair, Quantity, RUNS, Statistics, cache_hit_rate, collaboration, segments, strongest_pairs,
    strongest_successions, succession, utilisation,
};
use serde::Serialize;

/// Pairs that are listed of a layer.
const PAIRS: usize = 4;
/// Experts that the cache holds whose hit rate is reported, as a multiple of those that a token uses.
const CACHE: usize = 2;

/// How tokens are spread over the experts of a layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RoutingReport {
    /// Index of the layer.
    pub layer: usize,
    /// Standard deviation of tokens per expert over their mean.
    pub variation: f64,
    /// Tokens of the most used expert over the mean.
    pub peak: f64,
    /// Entropy of the shares of experts over that of equal shares.
    pub evenness: f64,
    /// Share of what an expert does with others that it does with the one it meets most, over all experts.
    pub collaboration: Option<f64>,
    /// Pairs of experts that most tokens go to both of.
    pub pairs: Vec<PairReport>,
    /// Where tokens go from the layer before; only where the recipe asks for it.
    pub succession: Option<SuccessionReport>,
    /// How well runs of tokens are foreseen; only where the recipe asks for it.
    pub runs: Vec<RunReport>,
}

/// Two experts and the tokens that go to both.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairReport {
    /// Index of one; of the layer before in a succession.
    pub first: usize,
    /// Index of the other.
    pub second: usize,
    /// Tokens.
    pub tokens: u64,
    /// Share of the tokens of the first that these are.
    pub of_first: f64,
}

/// Where tokens go from the layer with experts before (ExFlow, arXiv 2401.08383).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SuccessionReport {
    /// How often a token goes on to the expert that most tokens of its expert go on to.
    pub likeliest: f64,
    /// The pairs that most tokens pass.
    pub pairs: Vec<PairReport>,
}

/// How well the experts of a run of consecutive tokens are foreseen (moe-lrc, arXiv 2505.16056).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RunReport {
    /// Tokens of a run.
    pub tokens: usize,
    /// Segment routing best performance: the best F1 of a fixed set of experts for the run; none where windows are
    /// shorter than the run.
    pub srp: Option<f64>,
    /// Experts of that set, as a multiple of those that a token uses.
    pub held: Option<f64>,
    /// Segment cache best hit rate: share of uses served by a cache of `cache` experts that knows this many tokens
    /// ahead. The first use of an expert in a window is a miss at any size.
    pub sch: f64,
    /// Experts in that cache.
    pub cache: usize,
}

/// The routing of every layer with experts; empty when it was not measured.
pub(crate) fn routing(spec: &ModelSpec, stats: &Statistics) -> Vec<RoutingReport> {
    spec.moe_layers().filter_map(|(layer, _)| of_layer(spec, stats, layer)).collect()
}

fn of_layer(spec: &ModelSpec, stats: &Statistics, layer: usize) -> Option<RoutingReport> {
    let get = |layer, quantity| stats.get(Of::Layer(layer), quantity).ok();
    let moe = spec.moe(layer)?;
    let experts = moe.experts.len();
    let tokens = get(layer, Quantity::Tokens)?;
    let together = get(layer, Quantity::Coactivation)?;
    let used = utilisation(tokens)?;
    let before = spec.moe_layers().take_while(|(index, _)| *index < layer).last();
    let succession = before.and_then(|(before, _)| {
        let (affinity, before) = (get(layer, Quantity::Affinity)?, get(before, Quantity::Tokens)?);
        Some(SuccessionReport {
            likeliest: succession(affinity, experts, before)?,
            pairs: listed(&strongest_successions(affinity, experts, PAIRS), before),
        })
    });
    Some(RoutingReport {
        layer,
        variation: used.variation,
        peak: used.peak,
        evenness: used.evenness,
        collaboration: collaboration(together, experts),
        pairs: listed(&strongest_pairs(together, experts, PAIRS), tokens),
        succession,
        runs: runs(stats, layer, tokens, moe.routing.top_k).unwrap_or_default(),
    })
}

fn listed(pairs: &[Pair], tokens: &[f64]) -> Vec<PairReport> {
    let pair = |pair: &Pair| PairReport {
        first: pair.first,
        second: pair.second,
        tokens: pair.tokens as u64,
        of_first: pair.tokens / tokens[pair.first],
    };
    pairs.iter().map(pair).collect()
}

fn runs(stats: &Statistics, layer: usize, tokens: &[f64], top_k: usize) -> Option<Vec<RunReport>> {
    let mut uses = stats.get(Of::Layer(layer), Quantity::RunUses).ok()?;
    let hits = stats.get(Of::Layer(layer), Quantity::CacheHits).ok()?;
    let (all, cache): (f64, _) = (tokens.iter().sum(), (CACHE * top_k).min(tokens.len()));
    let mut runs = Vec::with_capacity(RUNS.len());
    for (run, hits) in RUNS.into_iter().zip(hits.chunks_exact(tokens.len())) {
        let (of_run, rest) = uses.split_at_checked(run + 1)?;
        uses = rest;
        let best = segments(of_run);
        runs.push(RunReport {
            tokens: run,
            srp: best.map(|best| best.srp),
            held: best.map(|best| best.held),
            sch: cache_hit_rate(hits, cache, all),
            cache,
        });
    }
    Some(runs)
}
