//! Walking through a model whose weights are decided on the way: each matrix by what reaches it through the
//! layers as they were decided before it.

use crate::CalibrateError;
use crate::activations::{Activations, Slot};
use crate::chunk::Chunk;
use crate::gradients::fed_by;
use crate::gram::Inputs;
use crate::layer::{build, dense_on};
use crate::layout::{Layout, Writing};
use crate::missing::{per_gate, together};
use crate::reached::{Down, Pair, Reached, Seen};
use crate::sweep::{Means, Sweep};
use moepress_checkpoint::{Progress, Share, Source};
use moepress_model::{LayerWeights, Part, Projection, Tensor as Name};
use moepress_nn::{Block, Expert, Ignore, Mlp, Tensor, dense_mlp, select_rows, to_rows};
use moepress_quant::Stored;
use moepress_stats::{Needs, Statistics};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Matrices of a layer, by part.
pub type Matrices = Vec<(Part, Stored)>;

/// Decides matrices that share their inputs, or the segments of one `down_proj` in order: from what reaches them and
/// the matrices to what takes their place, in the same shapes, and whatever is to be said about it. Calls run in
/// parallel.
pub type Round<'a, T, E> = &'a (dyn Fn(&Reached, Matrices) -> Result<(Matrices, T), E> + Sync);

/// What a walk leaves to its caller to decide.
#[derive(Clone, Copy)]
pub struct Undecided<'a> {
    /// Matrices that are rounded by what reaches them. Of an expert all segments of its `down_proj` or none.
    pub rounded: &'a BTreeSet<Name>,
    /// Experts, by layer and index, that should return what those of the original returned to the same tokens.
    pub refit: &'a BTreeSet<(usize, usize)>,
    /// The model with all experts as they were.
    pub original: &'a dyn Source,
    /// By layer the rows of the router of the original that are left; all where there is none.
    pub rows: &'a BTreeMap<usize, Vec<usize>>,
}

/// What is seen at one place.
#[derive(Clone, Copy)]
pub(crate) struct Dims {
    /// Length of the inputs.
    pub cols: usize,
    /// Length of the outputs, where they are wanted.
    pub wanted: Option<usize>,
}

/// Where the inputs of a matrix are seen: those of all segments of a `down_proj` together.
pub(crate) fn seen_at(part: Part) -> Part {
    match part {
        Part::Expert { expert, projection: Projection::Down, .. } => {
            Part::Expert { expert, segment: 0, projection: Projection::Down }
        }
        _ => fed_by(part),
    }
}

/// Calibration windows on their way through a model, layer by layer.
pub struct Walk<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) undecided: Undecided<'a>,
    pub(crate) sweep: Sweep<'a>,
    pub(crate) acts: Activations,
    /// Experts whose grams are held at a time.
    pub(crate) held: usize,
    next: usize,
}

impl<'a> Walk<'a> {
    /// Starts a walk through the model as `source` has it, where some matrices are not decided yet. The
    /// memory that is allowed decides how the walk works, not what it comes to. [`close`](Self::close) ends it.
    ///
    /// # Errors
    /// The embedding cannot be read, the memory is too little for any way of working, or the caller cancelled.
    pub fn new(
        source: &'a dyn Source,
        windows: &[Vec<u32>],
        undecided: Undecided<'a>,
        means: &Means,
        progress: &'a dyn Progress,
    ) -> Result<Self, CalibrateError> {
        let window = windows.first().map_or(0, Vec::len);
        let threads = rayon::current_num_threads();
        let Undecided { rounded, refit, original, rows } = undecided;
        let (tokens, original) = (windows.len() * window, original.spec());
        let work = Writing { tokens, window, threads, rounded, refit, original, rows };
        let layout = Layout::writing(source.spec(), &work, means.memory, means.spool.is_some())
            .map_err(|needed| CalibrateError::Memory { needed, limit: means.memory.unwrap_or(u64::MAX) })?;
        Self::new_as(source, windows, undecided, means, &layout, progress)
    }

    /// The same, in a way of working that the caller chose.
    ///
    /// # Errors
    /// As [`new`](Self::new), but for the memory.
    pub fn new_as(
        source: &'a dyn Source,
        windows: &[Vec<u32>],
        undecided: Undecided<'a>,
        means: &Means,
        layout: &Layout,
        progress: &'a dyn Progress,
    ) -> Result<Self, CalibrateError> {
        let (chunks, needs) = (Chunk::cut(&windows.into()), Needs::default());
        let sweep = Sweep::new(source.spec(), chunks, 1, needs, &means.device, 0, progress);
        let mut acts = Activations::new(means.spool.clone().filter(|_| layout.spooled))?;
        sweep.embed(source, &mut acts)?;
        Ok(Self { source, undecided, sweep, acts, held: layout.experts.max(1), next: 0 })
    }

    /// Decides the next layer and carries the windows through it as it is then. Attention is decided first; what
    /// follows sees its inputs through the attention as decided. Returns all weights of the layer and what `round`
    /// said, attention before MLP, experts in order.
    ///
    /// # Errors
    /// The weights cannot be read or do not fit, `round` fails, or the caller cancelled. The walk is then over.
    pub fn layer<T: Send, E: From<CalibrateError> + Send>(
        &mut self,
        round: Round<'_, T, E>,
    ) -> Result<(LayerWeights, Vec<T>), E> {
        let index = self.next;
        self.next += 1;
        let (before, after) = (Slot::Boundary(index), Slot::Boundary(index + 1));
        let mut weights = self.share(index, &Share::Core)?;
        let mut said = vec![];
        let attention = self.sites(index, |part| matches!(part, Part::Attention(_)));
        if !attention.is_empty() {
            let block = self.core(index, &weights)?;
            let reached = self.inputs(&attention, |i, chunk| {
                let mut inputs = Inputs::of(&attention);
                let x = self.sweep.rows(self.acts.read(before, i)?, chunk);
                block.attend(x, chunk.batch, self.sweep.rotary(chunk), None, &mut inputs);
                Ok(inputs.seen)
            })?;
            drop(block);
            said.extend(self.decide(index, &mut weights, reached, round)?);
        }
        let mut block = self.core(index, &weights)?;
        self.attend(&block, before)?;
        let mlp = self.sites(index, |part| matches!(part, Part::Dense(_) | Part::Shared(_)));
        if !mlp.is_empty() {
            let reached = self.inputs(&mlp, |i, chunk| {
                let mut inputs = Inputs::of(&mlp);
                let normed = block.mlp_input(self.sweep.rows(self.acts.read(Slot::Attended, i)?, chunk));
                match &block.mlp {
                    Mlp::Dense(gated) => drop(dense_mlp(gated, normed, &mut inputs)),
                    Mlp::Moe(experts) => drop(experts.shared(normed, &mut inputs)),
                }
                Ok(inputs.seen)
            })?;
            said.extend(self.decide(index, &mut weights, reached, round)?);
            block = self.core(index, &weights)?;
        }
        let missing = self.find_missing(index, &block)?;
        let count = self.source.spec().moe(index).map_or(0, |moe| moe.experts.len());
        // A dense layer is left as one without experts to add.
        let groups: Vec<Vec<usize>> =
            (0..count).collect::<Vec<_>>().chunks(self.held).map(<[usize]>::to_vec).collect();
        let groups = if groups.is_empty() { vec![vec![]] } else { groups };
        for (turn, group) in groups.iter().enumerate() {
            let mut decided = self.share(index, &Share::Experts(group.clone()))?;
            for down in [false, true] {
                let wanted = |part: Part| match part {
                    Part::Expert { expert, projection, .. } => {
                        group.contains(&expert) && (projection == Projection::Down) == down
                    }
                    _ => false,
                };
                let sites = self.sites(index, wanted);
                if !sites.is_empty() {
                    // For down_proj with gate_proj and up_proj as decided.
                    let experts = self.experts(index, group, &decided)?;
                    let reached = self.expert_inputs(&block, (index, missing), &experts, &sites)?;
                    drop(experts);
                    said.extend(self.decide(index, &mut decided, reached, round)?);
                }
            }
            let experts = self.experts(index, group, &decided)?;
            let last = turn + 1 == groups.len();
            let to = if last { after } else { Slot::Sum(turn % 2 == 0) };
            self.add(&block, &experts, (turn > 0).then_some(Slot::Sum(turn % 2 == 1)), to, last)?;
            weights.extend(decided);
        }
        self.acts.drop(Slot::Attended)?;
        missing.map_or(Ok(()), |missing| self.acts.drop(missing))?;
        Ok((weights, said))
    }

    /// The hidden states of all windows before the next layer, `[tokens, hidden]`.
    ///
    /// # Errors
    /// They cannot be read back.
    pub fn hidden(&self) -> Result<Vec<f32>, CalibrateError> {
        let chunks = (0..self.sweep.chunks.len()).map(|i| self.acts.read(Slot::Boundary(self.next), i));
        Ok(chunks.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Removes what was kept on the way.
    ///
    /// # Errors
    /// The disk fails.
    pub fn close(self) -> Result<(), CalibrateError> {
        self.acts.close()
    }

    fn share(&self, layer: usize, share: &Share) -> Result<LayerWeights, CalibrateError> {
        match share {
            Share::Experts(experts) if experts.is_empty() => Ok(LayerWeights::new()),
            _ => Ok(self.source.share(layer, share)?),
        }
    }

    fn core(&self, layer: usize, weights: &LayerWeights) -> Result<Block, CalibrateError> {
        let device = &self.sweep.device;
        build(self.source.spec(), layer, weights.clone(), &dense_on(device), device, |builder| builder.core())
    }

    fn experts(
        &self,
        layer: usize,
        experts: &[usize],
        weights: &LayerWeights,
    ) -> Result<Vec<(usize, Expert)>, CalibrateError> {
        let device = &self.sweep.device;
        build(self.source.spec(), layer, weights.clone(), &dense_on(device), device, |builder| {
            experts.iter().map(|&expert| Ok((expert, builder.expert(expert)?))).collect()
        })
    }

    /// Where the inputs are seen of those matrices of a layer that are to be decided and wanted.
    fn sites(&self, layer: usize, wanted: impl Fn(Part) -> bool) -> BTreeMap<Part, Dims> {
        let spec = self.source.spec();
        let mut sites = BTreeMap::new();
        for &name in self.undecided.rounded {
            let Name::Layer(at, part) = name else { continue };
            let (true, Some(&[rows, cols])) = (at == layer && wanted(part), spec.shape(name).as_deref())
            else {
                continue;
            };
            let refit = |expert| self.undecided.refit.contains(&(layer, expert));
            let dims = match part {
                // The atoms of all segments.
                Part::Expert { expert, projection: Projection::Down, .. } => Dims {
                    cols: spec.moe(layer).map_or(cols, |moe| moe.experts[expert].width()),
                    wanted: refit(expert).then_some(rows),
                },
                _ => Dims { cols, wanted: None },
            };
            sites.insert(seen_at(part), dims);
        }
        sites
    }

    /// Sums over what `forward` shows of every chunk, added in the order of the chunks.
    fn inputs(
        &self,
        sites: &BTreeMap<Part, Dims>,
        forward: impl Fn(usize, &Chunk) -> Result<Seen, CalibrateError> + Sync,
    ) -> Result<BTreeMap<Part, Reached>, CalibrateError> {
        let mut reached: BTreeMap<Part, Reached> =
            sites.iter().map(|(&site, dims)| (site, Reached::new(dims.cols, dims.wanted))).collect();
        let chunks: Vec<(usize, &Chunk)> = self.sweep.chunks.iter().enumerate().collect();
        for chunks in chunks.chunks(2 * rayon::current_num_threads()) {
            if self.sweep.progress.cancelled() {
                return Err(CalibrateError::Cancelled);
            }
            let see = |&(index, chunk): &(usize, &Chunk)| Ok((index, forward(index, chunk)?));
            let seen: Vec<_> = chunks.par_iter().map(see).collect::<Result<_, CalibrateError>>()?;
            reached.par_iter_mut().for_each(|(site, reached)| {
                let here = seen.iter().filter_map(|(index, seen)| Some((*index, seen.get(site)?)));
                reached.add(&here.collect::<Vec<_>>());
            });
        }
        reached.par_iter_mut().for_each(|(_, reached)| reached.finish());
        Ok(reached)
    }

    fn expert_inputs(
        &self,
        block: &Block,
        (layer, missing): (usize, Option<Slot>),
        experts: &[(usize, Expert)],
        sites: &BTreeMap<Part, Dims>,
    ) -> Result<BTreeMap<Part, Reached>, CalibrateError> {
        let Mlp::Moe(router) = &block.mlp else { return Ok(BTreeMap::new()) };
        let refit = sites.iter().filter(|(_, dims)| dims.wanted.is_some());
        let refit: Vec<usize> = refit.filter_map(|(site, _)| site.expert()).collect();
        let rows = self.rows_of_original(layer);
        let originals = self.originals(layer, &refit, &rows)?;
        let missing = missing.filter(|_| !originals.is_empty());
        // Where no experts were merged or dropped, tokens go where they went.
        let moved = self.source.spec().moe(layer).is_some_and(|moe| moe.router != rows);
        self.inputs(sites, |i, chunk| {
            let normed = block.mlp_input(self.sweep.rows(self.acts.read(Slot::Attended, i)?, chunk));
            let routed = router.route(normed.clone());
            let apart = match moved && !originals.is_empty() {
                true => &router.route_to(normed.clone(), &rows),
                false => &routed,
            };
            let missing = match missing {
                Some(slot) => Some(per_gate(self.sweep.rows(self.acts.read(slot, i)?, chunk), &routed)),
                None => None,
            };
            let mut seen = Seen::new();
            for (index, expert) in experts {
                let chosen = &routed.tokens[*index];
                let at = |projection| seen_at(Part::Expert { expert: *index, segment: 0, projection });
                if chosen.is_empty() {
                    continue;
                }
                let x = select_rows(&normed, chosen);
                let gates = routed.gates_of(*index);
                if sites.contains_key(&at(Projection::Gate)) {
                    seen.insert(at(Projection::Gate), Pair { x: x.clone() * gates.clone(), y: None });
                }
                if sites.contains_key(&at(Projection::Down)) {
                    let mut down = Down::default();
                    expert.forward(*index, x.clone(), &mut down);
                    let own = originals.get(index).map(|members| together(members, &x, chosen, apart));
                    let y = match (own, &missing) {
                        (Some(own), Some(missing)) => {
                            Some(own + select_rows(missing, chosen) * gates.clone())
                        }
                        (own, _) => own,
                    };
                    seen.insert(at(Projection::Down), Pair { x: Tensor::cat(down.atoms, 1) * gates, y });
                }
            }
            Ok(seen)
        })
    }

    /// Lets the caller decide the matrices that the sums are of.
    fn decide<T: Send, E: From<CalibrateError> + Send>(
        &self,
        layer: usize,
        weights: &mut LayerWeights,
        reached: BTreeMap<Part, Reached>,
        round: Round<'_, T, E>,
    ) -> Result<Vec<T>, E> {
        let mut tasks = Vec::with_capacity(reached.len());
        for (site, reached) in reached {
            let fed = |part: &Part| {
                seen_at(*part) == site && self.undecided.rounded.contains(&Name::Layer(layer, *part))
            };
            let parts: Vec<Part> = weights.keys().copied().filter(fed).collect();
            let matrices = parts.into_iter().filter_map(|part| Some((part, weights.remove(&part)?)));
            tasks.push((reached, matrices.collect::<Vec<_>>()));
        }
        let decided: Vec<_> =
            tasks.into_par_iter().map(|(reached, matrices)| round(&reached, matrices)).collect();
        let mut said = Vec::with_capacity(decided.len());
        for decided in decided {
            let (matrices, what) = decided?;
            weights.extend(matrices);
            said.push(what);
        }
        Ok(said)
    }

    fn attend(&mut self, block: &Block, before: Slot) -> Result<(), CalibrateError> {
        let Self { sweep, acts, .. } = self;
        sweep.pass(acts, &mut Statistics::default(), &[Slot::Attended], |acts, i, chunk| {
            let x = sweep.rows(acts.read(before, i)?, chunk);
            let attended = block.attend(x, chunk.batch, sweep.rotary(chunk), None, &mut Ignore);
            Ok((vec![to_rows(attended)], Statistics::default()))
        })?;
        acts.drop(before)
    }

    /// Adds what these experts return to the sum in `from`, and ends the layer after the last of them.
    fn add(
        &mut self,
        block: &Block,
        loaded: &[(usize, Expert)],
        from: Option<Slot>,
        to: Slot,
        last: bool,
    ) -> Result<(), CalibrateError> {
        let Self { sweep, acts, .. } = self;
        sweep.pass(acts, &mut Statistics::default(), &[to], |acts, i, chunk| {
            let attended = sweep.rows(acts.read(Slot::Attended, i)?, chunk);
            let normed = block.mlp_input(attended.clone());
            let mut sum = match from {
                Some(from) => sweep.rows(acts.read(from, i)?, chunk),
                None => normed.zeros_like(),
            };
            if let Mlp::Moe(experts) = &block.mlp {
                let routed = experts.route(normed.clone());
                let these = loaded.iter().map(|(expert, loaded)| (*expert, loaded));
                sum = experts.add(these, &normed, &routed, sum, &mut Ignore);
            }
            let sum = if last { block.leave(attended, normed, sum, &mut Ignore) } else { sum };
            Ok((vec![to_rows(sum)], Statistics::default()))
        })?;
        from.map_or(Ok(()), |from| acts.drop(from))
    }
}
