//! The same for a walk that rounds matrices on the way.

use super::{Layout, PROGRAM, Work, elements, ends, routing, working};
use crate::gram::PANEL;
use crate::walk::seen_at;
use moepress_model::{ModelSpec, Part, Projection, Tensor};
use moepress_stats::Needs;
use std::collections::{BTreeMap, BTreeSet};

/// Experts whose grams are held at a time, at most: more would save a pass over the chunks, which costs little
/// beside their grams.
const HELD: usize = 16;

/// What a walk is to round.
#[derive(Clone, Copy, Debug)]
pub struct Writing<'a> {
    /// Calibration tokens.
    pub tokens: usize,
    /// Tokens of a window.
    pub window: usize,
    /// Chunks that are worked on at a time.
    pub threads: usize,
    /// Matrices that are rounded by what reaches them.
    pub rounded: &'a BTreeSet<Tensor>,
    /// Experts, by layer and index, that are fitted anew.
    pub refit: &'a BTreeSet<(usize, usize)>,
    /// The model with those experts as they were, apart.
    pub original: &'a ModelSpec,
}

/// What rounding some matrices of a layer takes, in bytes.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Their grams.
    grams: u64,
    /// Solving the largest of them.
    solving: u64,
    /// Inputs of one token.
    inputs: u64,
}

impl Layout {
    /// The fastest way for a walk that stays within `limit`; the `experts` are those whose grams are held at a time.
    ///
    /// # Errors
    /// The least memory that would do.
    pub fn writing(
        spec: &ModelSpec,
        work: &Writing<'_>,
        limit: Option<u64>,
        may_spool: bool,
    ) -> Result<Self, u64> {
        let most = spec.moe_layers().map(|(_, moe)| moe.experts.len()).max().unwrap_or(0);
        let most = most.clamp(1, HELD.max(2 * work.threads));
        let at = |spooled, experts| Self::of_writing(spec, work, spooled, experts);
        let ways =
            [at(false, most)].into_iter().chain((1..=most).rev().map(|experts| at(may_spool, experts)));
        ways.into_iter()
            .find(|layout| limit.is_none_or(|limit| layout.peak <= limit))
            .ok_or_else(|| at(may_spool, 1).peak)
    }

    fn of_writing(spec: &ModelSpec, work: &Writing<'_>, spooled: bool, experts: usize) -> Self {
        let needs = Needs::default();
        let Writing { tokens, window, threads, .. } = *work;
        let sweep = Work { tokens, window, threads, needs: &needs, packed: false };
        let passing = sweep.passing();
        let (state, threads) = (4 * spec.hidden as u64, work.threads as u64);
        // Hidden states after attention, and two sums of experts.
        let kept = 3 * state * work.tokens as u64;
        let queued = 2 * threads * passing;
        let layers = (0..spec.layers.len()).map(|layer| {
            let top = spec.moe(layer).map_or(1, |moe| moe.routing.top_k);
            let core = cost(spec, work, layer, |part| part.expert().is_none());
            let all = spec.moe(layer).map_or(0, |moe| moe.experts.len());
            // gate_proj and up_proj first, then down_proj by what is left of them.
            let phase = |down| {
                let one = move |expert| {
                    cost(spec, work, layer, move |part| match part {
                        Part::Expert { expert: e, projection, .. } => {
                            e == expert && (projection == Projection::Down) == down
                        }
                        _ => false,
                    })
                };
                (0..all).map(one).max_by_key(|cost| cost.grams).unwrap_or_default()
            };
            let held = experts.min(all) as u64;
            // Of the experts that a token goes to those that are held, on average.
            let seen = (held * top as u64).div_ceil(all.max(1) as u64);
            let deciding =
                |cost: Cost, count: u64| count * cost.grams + threads.min(2 * count) * cost.solving;
            let seeing = |cost: Cost, count: u64, seen: u64| count * cost.grams + queued * cost.inputs * seen;
            let expert = largest(experts_bytes(spec, layer).into_values());
            let original = match work.refit.iter().any(|&(at, _)| at == layer) {
                true => largest(members_bytes(spec, work.original, layer).into_iter()),
                false => Bytes::default(),
            };
            let passing_experts = threads * routing(spec, &sweep, passing);
            let phase = |down| {
                let cost = phase(down);
                let unpacked = held * (expert.unpacked + original.unpacked);
                // Unpacked from a copy, then seen with all grams, then decided.
                [
                    unpacked + held * (expert.stored + original.stored),
                    unpacked + seeing(cost, held, seen) + passing_experts,
                    deciding(cost, held),
                ]
            };
            let phases = [phase(false), phase(true)].into_iter().flatten().max().unwrap_or(0);
            let routed = held * expert.stored + decided(spec, work, layer, held) + phases;
            let core = deciding(core, 1).max(seeing(core, 1, 1) + threads * working(spec, &sweep, passing));
            // Between groups of experts attention has its memory back.
            core_weights(spec, layer) + routed.max(core)
        });
        let layer = layers.max().unwrap_or(0);
        let panels = threads * 3 * 4 * (PANEL as u64) * widest(work, spec);
        let walking = layer + panels + queued * 2 * state;
        let in_memory = if spooled { 0 } else { kept };
        let peak = PROGRAM + in_memory + walking.max(ends(spec, false).0);
        Self { spooled, experts, peak, spool: if spooled { kept } else { 0 } }
    }
}

/// The longest input of a matrix.
fn widest(work: &Writing<'_>, spec: &ModelSpec) -> u64 {
    let cols = |&tensor: &Tensor| spec.shape(tensor).and_then(|shape| shape.get(1).copied());
    work.rounded.iter().filter_map(cols).max().unwrap_or(0) as u64
}

fn cost(spec: &ModelSpec, work: &Writing<'_>, layer: usize, wanted: impl Fn(Part) -> bool) -> Cost {
    let from = Tensor::Layer(layer, Part::Norm(moepress_model::Normed::Input));
    let mut sites: BTreeMap<Part, u64> = BTreeMap::new();
    let (mut found, mut solving) = (Cost::default(), 0);
    for &tensor in work.rounded.range(from..).take_while(|tensor| tensor.layer() == Some(layer)) {
        if let Tensor::Layer(_, part) = tensor
            && wanted(part)
            && let Some(&[rows, cols]) = spec.shape(tensor).as_deref()
        {
            let (rows, width) = (rows as u64, cols as u64);
            let cols = sites.entry(seen_at(part)).or_default();
            match part {
                // The atoms of all segments.
                Part::Expert { expert, projection: Projection::Down, .. } => {
                    *cols += width;
                    if work.refit.contains(&(layer, expert)) {
                        // What is wanted, of all tokens and of those held out.
                        found.grams += 2 * 8 * rows * width;
                        found.inputs += 4 * width;
                    }
                }
                _ => *cols = width,
            }
            // The factor in f64 and its blocks in f32; weights, errors, codes and grids of the matrix.
            solving = solving.max(12 * *cols * *cols + 20 * rows * *cols);
        }
    }
    let refit = if found.grams > 0 { 2 } else { 1 };
    found.grams += refit * sites.values().map(|cols| 8 * cols * cols).sum::<u64>();
    found.inputs += sites.values().map(|cols| 4 * cols).sum::<u64>();
    Cost { solving: refit * solving, ..found }
}

/// A matrix, or several.
#[derive(Clone, Copy, Default)]
struct Bytes {
    /// As it is stored.
    stored: u64,
    /// In f32.
    unpacked: u64,
}

fn bytes(spec: &ModelSpec, layer: usize, part: Part) -> Bytes {
    let tensor = Tensor::Layer(layer, part);
    Bytes { stored: spec.stored_bytes(tensor), unpacked: 4 * elements(spec, tensor) }
}

fn largest(all: impl Iterator<Item = Bytes>) -> Bytes {
    all.max_by_key(|bytes| bytes.stored + bytes.unpacked).unwrap_or_default()
}

/// What is not routed experts, in both forms.
fn core_weights(spec: &ModelSpec, layer: usize) -> u64 {
    let parts = spec.parts(layer).into_iter().filter(|part| part.expert().is_none());
    parts.map(|part| bytes(spec, layer, part)).map(|bytes| bytes.stored + bytes.unpacked).sum()
}

/// The experts of a layer before the last `held`, as they are once decided: rounded to eight bits at most.
fn decided(spec: &ModelSpec, work: &Writing<'_>, layer: usize, held: u64) -> u64 {
    let count = spec.moe(layer).map_or(0, |moe| moe.experts.len());
    let before = |part: &Part| part.expert().is_some_and(|expert| expert + (held as usize) < count);
    let stored = |part: Part| match (bytes(spec, layer, part).stored, Tensor::Layer(layer, part)) {
        (stored, tensor) if work.rounded.contains(&tensor) => stored / 8 * 5,
        (stored, _) => stored,
    };
    spec.parts(layer).into_iter().filter(before).map(stored).sum()
}

/// For every expert of a layer all those that it stands for.
fn members_bytes(spec: &ModelSpec, original: &ModelSpec, layer: usize) -> Vec<Bytes> {
    let (Some(now), Some(apart)) = (spec.moe(layer), original.moe(layer)) else { return vec![] };
    let each = experts_bytes(original, layer);
    let sum = |members: Vec<usize>| {
        let members = members.iter().filter_map(|member| each.get(member));
        members.fold(Bytes::default(), |sum, more| Bytes {
            stored: sum.stored + more.stored,
            unpacked: sum.unpacked + more.unpacked,
        })
    };
    now.members(apart).into_iter().map(sum).collect()
}

/// Every expert of a layer.
fn experts_bytes(spec: &ModelSpec, layer: usize) -> BTreeMap<usize, Bytes> {
    let mut experts: BTreeMap<usize, Bytes> = BTreeMap::new();
    for part in spec.parts(layer) {
        if let Some(expert) = part.expert() {
            let (sum, more) = (experts.entry(expert).or_default(), bytes(spec, layer, part));
            *sum = Bytes { stored: sum.stored + more.stored, unpacked: sum.unpacked + more.unpacked };
        }
    }
    experts
}
