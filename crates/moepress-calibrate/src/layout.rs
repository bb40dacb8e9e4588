//! How a sweep works within the memory it may have, from sizes alone.

use crate::chunk::windows_per_chunk;
use crate::loss::rows_at_once;
use moepress_model::{ModelSpec, Moe, Part, Tensor};
use moepress_stats::{Need, Needs, RUNS, run_uses_len};
use std::collections::BTreeMap;

mod writing;

pub use writing::Writing;

/// The program itself, what it has read of the recipe and the tokenizer, and what the allocator keeps.
pub const PROGRAM: u64 = 80 << 20;

/// Texts that calibration is assumed to be of.
const TEXTS: u64 = 16;

/// One part in so many of a prediction is left free.
const MARGIN: u64 = 20;

/// What is to be swept.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// Calibration tokens.
    pub tokens: usize,
    /// Tokens of a window.
    pub window: usize,
    /// Chunks that are worked on at a time.
    pub threads: usize,
    /// What is measured.
    pub needs: &'a Needs,
    /// Whether weights stay as they are stored; else they are unpacked to f32.
    pub packed: bool,
}

impl Work<'_> {
    /// Tokens of a chunk.
    fn passing(&self) -> u64 {
        let chunk = windows_per_chunk(self.window) * self.window;
        chunk.min(self.tokens.max(1)) as u64
    }
}

/// A way of working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Whether activations go to disk.
    pub spooled: bool,
    /// Experts of a layer that are held at a time.
    pub experts: usize,
    /// Predicted peak of resident memory, in bytes.
    pub peak: u64,
    /// Predicted size of the activations on disk at their peak, in bytes.
    pub spool: u64,
}

impl Layout {
    /// The fastest way of working that stays within `limit`: activations in memory and whole layers, then
    /// activations on disk (where `may_spool`), then as many experts at a time as fit.
    ///
    /// # Errors
    /// The least memory that would do.
    pub fn choose(
        spec: &ModelSpec,
        work: &Work<'_>,
        limit: Option<u64>,
        may_spool: bool,
    ) -> Result<Self, u64> {
        let in_memory = Self::of(spec, work, false, most_experts(spec));
        match in_memory.fits(limit) {
            true => Ok(in_memory),
            false => Self::within(spec, work, limit, may_spool),
        }
    }

    /// The same with activations on disk whatever the limit.
    ///
    /// # Errors
    /// The least memory that would do.
    pub fn spooled(spec: &ModelSpec, work: &Work<'_>, limit: Option<u64>) -> Result<Self, u64> {
        Self::within(spec, work, limit, true)
    }

    /// As many experts at a time as fit, in groups of nearly one size.
    fn within(spec: &ModelSpec, work: &Work<'_>, limit: Option<u64>, spooled: bool) -> Result<Self, u64> {
        let most = most_experts(spec);
        let balanced = |experts: usize| most.div_ceil(most.div_ceil(experts));
        let mut ways = (1..=most).rev().map(|experts| Self::of(spec, work, spooled, balanced(experts)));
        let found = ways.find(|layout| layout.fits(limit));
        found.ok_or_else(|| Self::with_margin(Self::of(spec, work, spooled, 1).peak))
    }

    /// A promise wants a margin over a prediction.
    fn fits(&self, limit: Option<u64>) -> bool {
        limit.is_none_or(|limit| Self::with_margin(self.peak) <= limit)
    }

    /// The least memory that a sweep can be allowed.
    pub fn least_allowed(spec: &ModelSpec, work: &Work<'_>) -> u64 {
        Self::with_margin(Self::least(spec, work).peak)
    }

    /// The head of a model as it is stored, in bytes: what stays of a model whose windows are through its layers.
    pub fn head(spec: &ModelSpec) -> u64 {
        ends(spec, true).1
    }

    /// What the threads need to take chunks through a layer, in bytes.
    pub fn working(spec: &ModelSpec, work: &Work<'_>) -> u64 {
        work.threads as u64 * working(spec, work, work.passing())
    }

    /// The smallest limit that a prediction fits into.
    pub const fn with_margin(peak: u64) -> u64 {
        peak + peak / MARGIN
    }

    /// The way of working that needs the least memory.
    pub fn least(spec: &ModelSpec, work: &Work<'_>) -> Self {
        Self::of(spec, work, true, 1)
    }

    fn of(spec: &ModelSpec, work: &Work<'_>, spooled: bool, experts: usize) -> Self {
        let backward = work.needs.backward();
        let state = 4 * spec.hidden as u64;
        let tokens = work.tokens as u64;
        let most = spec.moe_layers().map(|(_, moe)| moe.experts.len()).max().unwrap_or(0);
        let grouped = most > experts;
        // Boundaries of all layers, the gradients before and after one, and between groups what is added up.
        let boundaries = if backward { spec.layers.len() as u64 + 2 } else { 2 };
        let between = match (grouped, backward) {
            (false, _) => 0,
            (true, false) => 3 * state,
            (true, true) => 3 * state + 8 * most as u64,
        };
        // The experts that tokens were routed to in two layers.
        let choices = match work.needs.has(Need::Locality) {
            true => 8 * spec.moe_layers().map(|(_, moe)| moe.routing.top_k as u64).max().unwrap_or(0),
            false => 0,
        };
        let kept = tokens * (boundaries * state + between + choices);
        let passing = work.passing();
        // Twice as many chunks as threads are worked on before what they return is put away.
        let queued = (2 * work.threads as u64 * passing).min(tokens) * (2 * state);
        let threads = work.threads as u64;
        let versions = if work.needs.has(Need::RoundedOutputs) { work.needs.formats.len() + 1 } else { 1 };
        let (core, held) = weights(spec, work, experts.max(versions));
        let attending = threads * working(spec, work, passing);
        // Between groups of experts attention has its memory back.
        let walking = core
            + match grouped {
                true => attending.max(held + threads * routing(spec, work, passing)),
                false => attending + held,
            };
        let (embedding, head) = ends(spec, work.packed);
        let ends = embedding.max(if backward { head + threads * loss(spec) } else { 0 });
        let in_memory = if spooled { 0 } else { kept };
        let peak = PROGRAM + sums(spec, work) + in_memory + queued + walking.max(ends);
        Self { spooled, experts, peak, spool: if spooled { kept } else { 0 } }
    }

    /// Passes over all chunks.
    pub(crate) fn passes(&self, spec: &ModelSpec, needs: &Needs) -> u64 {
        let rounded = |count: usize| match needs.has(Need::RoundedOutputs) {
            true => count.div_ceil(held_with(needs, self.experts.min(count))) as u64,
            false => 0,
        };
        let layer = |layer: usize| match spec.moe(layer).map_or(0, |moe| moe.experts.len()) {
            count if count <= self.experts => (1 + rounded(count), 1),
            count => (
                rounded(count) + count.div_ceil(self.experts) as u64 + 1,
                count.div_ceil(self.experts) as u64 + 2,
            ),
        };
        let (forward, backward) =
            (0..spec.layers.len()).map(layer).fold((1, 1), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        if needs.backward() { forward + backward } else { forward }
    }
}

/// Experts whose originals and rounded versions take no more than `experts` do, one at least.
fn held_with(needs: &Needs, experts: usize) -> usize {
    (experts / (needs.formats.len() + 1)).max(1)
}

fn elements(spec: &ModelSpec, tensor: Tensor) -> u64 {
    spec.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>() as u64)
}

fn most_experts(spec: &ModelSpec) -> usize {
    spec.moe_layers().map(|(_, moe)| moe.experts.len()).max().unwrap_or(0).max(1)
}

/// A layer without its experts, and as many experts as are held; each with the stored form of what is read last.
fn weights(spec: &ModelSpec, work: &Work<'_>, experts: usize) -> (u64, u64) {
    let layer = |layer: usize| {
        // Held, and on the way there.
        let of = |part| {
            let tensor = Tensor::Layer(layer, part);
            match (spec.stored_bytes(tensor), 4 * elements(spec, tensor)) {
                (stored, _) if work.packed => (stored, 0),
                (stored, unpacked) => (unpacked, stored),
            }
        };
        let mut core = 0;
        let mut all: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for (part, (held, read)) in spec.parts(layer).into_iter().map(|part| (part, of(part))) {
            match part.expert() {
                None => core += held + read,
                Some(expert) => {
                    let sum = all.entry(expert).or_default();
                    *sum = (sum.0 + held, sum.1 + held.max(read));
                }
            }
        }
        let held = all.values().map(|(held, _)| *held).collect::<Vec<_>>();
        let groups = held.chunks(experts.max(1)).map(|group| group.iter().sum::<u64>());
        let reading = all.values().map(|(_, reading)| *reading).max().unwrap_or(0);
        (core, groups.max().unwrap_or(0) + reading * work.threads.min(experts.max(1)) as u64)
    };
    let layers = (0..spec.layers.len()).map(layer);
    layers.max_by_key(|(core, held)| core + held).unwrap_or((0, 0))
}

/// The embeddings as they are stored, and the head as it is used.
fn ends(spec: &ModelSpec, packed: bool) -> (u64, u64) {
    let head = if spec.tied_embeddings { Tensor::Embedding } else { Tensor::Head };
    let unpacked = if packed { 0 } else { 4 * elements(spec, head) };
    (spec.stored_bytes(Tensor::Embedding), spec.stored_bytes(head) + unpacked)
}

/// What a chunk of `tokens` needs on its way through a layer.
fn working(spec: &ModelSpec, work: &Work<'_>, tokens: u64) -> u64 {
    let attention = &spec.attention;
    let heads = attention.heads as u64;
    let scores = 4 * tokens * work.window as u64 * heads;
    let states = 4 * tokens * spec.hidden as u64;
    let keys = attention.kv_heads * (attention.head_dim + attention.value_dim);
    let projected = 4 * tokens * (attention.heads * attention.head_dim + keys) as u64;
    let width = |layer: usize| {
        let parts =
            spec.parts(layer).into_iter().filter(|part| !matches!(part, Part::Expert { segment: 1.., .. }));
        parts
            .map(|part| spec.shape(Tensor::Layer(layer, part)).map_or(0, |shape| shape[0]))
            .max()
            .unwrap_or(0)
    };
    let widest = (0..spec.layers.len()).map(width).max().unwrap_or(0) as u64;
    let atoms = 4 * tokens * widest;
    let (of_scores, of_states, of_projected, of_atoms) =
        if work.needs.backward() { (3, 9, 4, 1) } else { (1, 3, 2, 1) };
    of_scores * scores + of_states * states + of_projected * projected + of_atoms * atoms
}

/// What a chunk of `tokens` needs on its way through a group of experts, all of them routed to one at worst.
fn routing(spec: &ModelSpec, work: &Work<'_>, tokens: u64) -> u64 {
    let width = |(_, moe): (usize, &Moe)| moe.experts.iter().map(moepress_model::Expert::width).max();
    let atoms = 4 * tokens * spec.moe_layers().filter_map(width).max().unwrap_or(0) as u64;
    let states = 4 * tokens * spec.hidden as u64;
    let (of_states, of_atoms) = if work.needs.backward() { (9, 6) } else { (4, 3) };
    of_states * states + of_atoms * atoms
}

/// What the loss of a chunk needs: logits, their gradients, and what lies between.
fn loss(spec: &ModelSpec) -> u64 {
    5 * 4 * (rows_at_once(spec.vocab) * spec.vocab) as u64
}

/// The sums themselves, and those of the chunks that are worked on.
fn sums(spec: &ModelSpec, work: &Work<'_>) -> u64 {
    let needs = work.needs;
    let layer = |(layer, moe): (usize, &Moe)| -> u64 {
        let (experts, hidden) = (moe.experts.len() as u64, spec.hidden as u64);
        let atoms: u64 = moe.experts.iter().map(|expert| expert.width() as u64).sum();
        let mut numbers = 0;
        if needs.has(Need::Routing) {
            numbers += 2 * experts * experts + experts * (hidden + 5);
        }
        if needs.has(Need::MeanOutputs) {
            numbers += experts * hidden;
        }
        if needs.has(Need::Texts) {
            numbers += TEXTS * experts * (moe.routing.top_k as u64 + 1);
        }
        if needs.has(Need::Locality) {
            numbers += experts * (experts + RUNS.len() as u64) + run_uses_len() as u64;
        }
        if needs.has(Need::Atoms) {
            numbers += 3 * atoms;
        }
        if needs.has(Need::Fisher) {
            let sides =
                |part| spec.shape(Tensor::Layer(layer, part)).map_or(0, |shape| shape.iter().sum::<usize>());
            let parts = spec.parts(layer).into_iter().filter(|part| part.is_measured());
            numbers += parts.map(|part| sides(part) as u64).sum::<u64>();
        }
        8 * numbers
    };
    let layers: Vec<u64> = spec.moe_layers().map(layer).collect();
    let largest = layers.iter().max().copied().unwrap_or(0);
    layers.iter().sum::<u64>() + 2 * work.threads as u64 * largest
}
