//! Causal attention: grouped queries, or keys and values expanded from a compressed form.

use super::{LayerCache, Map, Norm, Pass, each_row};
use crate::RuntimeError;
use moepress_kernels::{
    Activations, Precision, Side, dots, each_of, matmuls, mix, product, softmax, stands_by,
};
use moepress_model::Attention;
use rayon::prelude::*;

/// Queries that meet all keys at a time.
const QUERIES: usize = 32;
/// Products of queries and keys below which threads cost more than they save.
const SMALL: usize = 1 << 17;
/// The same where threads stand by.
const TINY: usize = 1 << 14;

/// From hidden states to queries, keys and values.
pub(crate) enum Projections {
    /// Straight.
    Plain(Box<Straight>),
    /// Through compressed forms.
    Latent(Box<Compressed>),
}

/// The maps of grouped-query attention.
pub(crate) struct Straight {
    pub(crate) query: Map,
    pub(crate) key: Map,
    pub(crate) value: Map,
    /// Norms of queries and keys: their weights say over how many channels.
    pub(crate) norms: Option<(Norm, Norm)>,
}

/// The maps of compressed attention.
pub(crate) struct Compressed {
    pub(crate) query: Map,
    /// From the hidden states to the compressed query, and its norm.
    pub(crate) query_down: Option<(Map, Norm)>,
    pub(crate) down: Map,
    pub(crate) norm: Norm,
    pub(crate) up: Map,
}

/// The attention of one layer.
pub(crate) struct Attend {
    pub(crate) spec: Attention,
    pub(crate) window: Option<usize>,
    pub(crate) projections: Projections,
    pub(crate) sinks: Option<Vec<f32>>,
    pub(crate) output: Map,
}

/// Queries `[tokens, heads · head_dim]`, keys and values `[tokens, kv_heads · channels]`.
struct Projected {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// What a thread works in, task after task.
#[derive(Default)]
struct Room {
    queries: Vec<f32>,
    scores: Vec<f32>,
}

/// Queries of one span that share a key head.
struct Task {
    span: usize,
    /// Row of the batch that the span begins at.
    row: usize,
    head: usize,
    /// First token of the span, and how many.
    first: usize,
    tokens: usize,
}

impl Attend {
    /// `[tokens, hidden]` of normed hidden states → the same shape. The tokens of a span continue those in its cache.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        pass: &Pass<'_>,
        caches: &mut [&mut LayerCache],
    ) -> Result<Vec<f32>, RuntimeError> {
        let Attention { heads, kv_heads, head_dim, value_dim, .. } = self.spec;
        let tokens = pass.spans.iter().map(|span| span.tokens).sum();
        let mut projected = self.project(x, tokens, pass.precision)?;
        self.turn(&mut projected, pass);
        let (mut row, mut tasks, mut work) = (0, Vec::new(), 0);
        for (index, (span, cache)) in pass.spans.iter().zip(caches.iter_mut()).enumerate() {
            let rows = row..row + span.tokens;
            let part = |channels: usize| rows.start * kv_heads * channels..rows.end * kv_heads * channels;
            cache.append(&self.spec, &projected.keys[part(head_dim)], &projected.values[part(value_dim)]);
            for first in (0..span.tokens).step_by(QUERIES) {
                let count = QUERIES.min(span.tokens - first);
                tasks.extend((0..kv_heads).map(|head| Task { span: index, row, head, first, tokens: count }));
            }
            work += span.tokens * (span.start + span.tokens) * heads * head_dim;
            row = rows.end;
        }
        let attend = |room: &mut Room, task: &Task| {
            self.attend(task, &projected.queries, pass, caches[task.span], room)
        };
        let parts: Vec<Vec<f32>> = match work < SMALL || stands_by() {
            true if work < TINY => {
                let room = &mut Room::default();
                tasks.iter().map(|task| attend(room, task)).collect()
            }
            true => each_of(tasks.len(), |task| attend(&mut Room::default(), &tasks[task])),
            false => tasks.par_iter().map_init(Room::default, attend).collect(),
        };
        let mut mixed = vec![0.0; tokens * heads * value_dim];
        let width = heads / kv_heads * value_dim;
        for (task, part) in tasks.iter().zip(&parts) {
            for (token, part) in part.chunks_exact(width).enumerate() {
                let at = (task.row + task.first + token) * heads * value_dim + task.head * width;
                mixed[at..at + width].copy_from_slice(part);
            }
        }
        self.output.forward(&Activations::new(&mixed, tokens, pass.precision))
    }

    fn project(&self, x: &[f32], tokens: usize, precision: Precision) -> Result<Projected, RuntimeError> {
        let input = Activations::new(x, tokens, precision);
        match &self.projections {
            Projections::Plain(maps) => {
                let Straight { query, key, value, norms } = &**maps;
                let [mut queries, mut keys, mut values] =
                    all([(&input, query), (&input, key), (&input, value)])?;
                if let Some((query, key)) = norms {
                    query.in_place(&mut queries);
                    key.in_place(&mut keys);
                }
                if let Some(limit) = self.spec.clip {
                    let limit = limit as f32;
                    for x in queries.iter_mut().chain(&mut keys).chain(&mut values) {
                        *x = if *x > limit {
                            limit
                        } else if *x < -limit {
                            -limit
                        } else {
                            *x
                        };
                    }
                }
                Ok(Projected { queries, keys, values })
            }
            Projections::Latent(maps) => {
                let Compressed { query, query_down, down, norm, up } = &**maps;
                let (plain, rotated) = (self.spec.plain_dims(), self.spec.rope.dims);
                let (compressed, latent) = match query_down {
                    Some((map, query_norm)) => {
                        let [mut compressed, latent] = all([(&input, map), (&input, down)])?;
                        query_norm.in_place(&mut compressed);
                        (Some(compressed), latent)
                    }
                    None => (None, down.forward(&input)?),
                };
                let rank = norm.weight.len();
                let mut ranks = Vec::with_capacity(tokens * rank);
                latent.chunks_exact(rank + rotated).for_each(|row| ranks.extend_from_slice(&row[..rank]));
                norm.in_place(&mut ranks);
                let ranks = Activations::new(&ranks, tokens, precision);
                let compressed = compressed.as_ref().map(|x| Activations::new(x, tokens, precision));
                let [queries, both] = all([(compressed.as_ref().unwrap_or(&input), query), (&ranks, up)])?;
                let (mut keys, mut values) = (Vec::new(), Vec::new());
                let heads = both.chunks_exact((plain + self.spec.value_dim) * self.spec.heads);
                for (heads, latent) in heads.zip(latent.chunks_exact(rank + rotated)) {
                    for head in heads.chunks_exact(plain + self.spec.value_dim) {
                        keys.extend_from_slice(&head[..plain]);
                        keys.extend_from_slice(&latent[rank..]);
                        values.extend_from_slice(&head[plain..]);
                    }
                }
                Ok(Projected { queries, keys, values })
            }
        }
    }

    /// Turns queries and keys by their positions, and scales queries.
    fn turn(&self, projected: &mut Projected, pass: &Pass<'_>) {
        let Attention { heads, kv_heads, head_dim, scale, .. } = self.spec;
        // The last channels of a head turn in latent attention, the first otherwise.
        let first = if self.spec.latent.is_some() { self.spec.plain_dims() } else { 0 };
        let turned = first..first + self.spec.rope.dims;
        let spans = pass.spans.iter().zip(pass.rotaries);
        let places: Vec<_> =
            spans.flat_map(|(span, rotary)| (0..span.tokens).map(move |token| (rotary, token))).collect();
        for (values, heads, scale) in
            [(&mut projected.queries, heads, scale as f32), (&mut projected.keys, kv_heads, 1.0)]
        {
            each_row(values, heads * head_dim, |row, heads| {
                let (rotary, token) = places[row];
                for head in heads.chunks_exact_mut(head_dim) {
                    rotary.turn(token, &mut head[turned.clone()]);
                    if scale != 1.0 {
                        head.iter_mut().for_each(|x| *x *= scale);
                    }
                }
            });
        }
    }

    /// What the queries of a task see, `[tokens, group · value_dim]`.
    fn attend(
        &self,
        task: &Task,
        queries: &[f32],
        pass: &Pass<'_>,
        cache: &LayerCache,
        room: &mut Room,
    ) -> Vec<f32> {
        let Attention { heads, kv_heads, head_dim, value_dim, .. } = self.spec;
        let group = heads / kv_heads;
        let start = pass.spans[task.span].start + task.first;
        let window = self.window.unwrap_or(usize::MAX);
        // Keys that any of the queries sees.
        let (low, high) = ((start + 1).saturating_sub(window), start + task.tokens);
        let keys = &cache.keys[task.head][low * head_dim..high * head_dim];
        let values = &cache.values[task.head][low * value_dim..high * value_dim];
        let own = &mut room.queries;
        own.clear();
        for token in 0..task.tokens {
            let at = (task.row + task.first + token) * heads * head_dim + task.head * group * head_dim;
            own.extend_from_slice(&queries[at..at + group * head_dim]);
        }
        let (rows, seen) = (task.tokens * group, high - low);
        if room.scores.len() < rows * seen {
            room.scores.resize(rows * seen, 0.0);
        }
        let scores = &mut room.scores[..rows * seen];
        if task.tokens == 1 {
            for (query, scores) in own.chunks_exact(head_dim).zip(scores.chunks_exact_mut(seen)) {
                dots(query, keys, scores);
            }
        } else {
            product(own, keys, Side::Rows, [rows, seen, head_dim], scores);
        }
        let mut mixed = vec![0.0; rows * value_dim];
        for (row, scores) in scores.chunks_exact_mut(seen).enumerate() {
            let position = start + row / group;
            let (from, to) = ((position + 1).saturating_sub(window).max(low) - low, position + 1 - low);
            let sink = self.sinks.as_ref().map(|sinks| sinks[task.head * group + row % group]);
            softmax(&mut scores[from..to], sink);
            scores[..from].fill(0.0);
            scores[to..].fill(0.0);
        }
        if task.tokens == 1 {
            for (scores, mixed) in scores.chunks_exact(seen).zip(mixed.chunks_exact_mut(value_dim)) {
                mix(scores, values, mixed);
            }
        } else {
            product(scores, values, Side::Columns, [rows, value_dim, seen], &mut mixed);
        }
        mixed
    }
}

/// Several maps at once.
fn all<const N: usize>(maps: [(&Activations<'_>, &Map); N]) -> Result<[Vec<f32>; N], RuntimeError> {
    let products: Vec<_> = maps.iter().map(|(x, map)| (*x, &*map.weight)).collect();
    let mut results = matmuls(&products)?.into_iter();
    Ok(maps.map(|(_, map)| {
        let mut y = results.next().unwrap_or_default();
        map.add_bias(&mut y);
        y
    }))
}
