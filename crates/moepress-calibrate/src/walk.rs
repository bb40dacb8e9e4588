//! Walking through a model whose weights are decided on the way: each matrix by what reaches it through the
//! layers as they were decided before it.

use crate::CalibrateError;
use crate::activations::{Activations, Slot};
use crate::chunk::Chunk;
use crate::gradients::fed_by;
use crate::gram::{Gram, Inputs};
use crate::layer::{build, dense_on};
use crate::layout::{Layout, Writing};
use crate::sweep::{Means, Sweep};
use moepress_checkpoint::{Progress, Share, Source};
use moepress_model::{LayerWeights, Part, Tensor as Name};
use moepress_nn::{Block, Expert, Ignore, Mlp, dense_mlp, select_rows, to_rows};
use moepress_quant::Stored;
use moepress_stats::{Needs, Statistics};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Matrices of a layer, by part.
pub type Matrices = Vec<(Part, Stored)>;

/// Decides matrices that share their inputs: from the gram of those and the matrices to what takes their place, in
/// the same shapes, and whatever is to be said about it. Calls run in parallel.
pub type Round<'a, T, E> = &'a (dyn Fn(&Gram, Matrices) -> Result<(Matrices, T), E> + Sync);

/// Calibration windows on their way through a model, layer by layer.
pub struct Walk<'a> {
    source: &'a dyn Source,
    rounded: &'a BTreeSet<Name>,
    sweep: Sweep<'a>,
    acts: Activations,
    /// Experts whose grams are held at a time.
    held: usize,
    next: usize,
}

impl<'a> Walk<'a> {
    /// Starts a walk through the model as `source` has it, where the matrices `rounded` are not decided yet. The
    /// memory that is allowed decides how the walk works, not what it comes to. [`close`](Self::close) ends it.
    ///
    /// # Errors
    /// The embedding cannot be read, the memory is too little for any way of working, or the caller cancelled.
    pub fn new(
        source: &'a dyn Source,
        windows: &[Vec<u32>],
        rounded: &'a BTreeSet<Name>,
        means: &Means,
        progress: &'a dyn Progress,
    ) -> Result<Self, CalibrateError> {
        let window = windows.first().map_or(0, Vec::len);
        let threads = rayon::current_num_threads();
        let work = Writing { tokens: windows.len() * window, window, threads, rounded };
        let layout = Layout::writing(source.spec(), &work, means.memory, means.spool.is_some())
            .map_err(|needed| CalibrateError::Memory { needed, limit: means.memory.unwrap_or(u64::MAX) })?;
        Self::new_as(source, windows, rounded, means, &layout, progress)
    }

    /// The same, in a way of working that the caller chose.
    ///
    /// # Errors
    /// As [`new`](Self::new), but for the memory.
    pub fn new_as(
        source: &'a dyn Source,
        windows: &[Vec<u32>],
        rounded: &'a BTreeSet<Name>,
        means: &Means,
        layout: &Layout,
        progress: &'a dyn Progress,
    ) -> Result<Self, CalibrateError> {
        let chunks = Chunk::cut(windows);
        let sweep = Sweep::new(source.spec(), chunks, Needs::default(), &means.device, 0, progress);
        let mut acts = Activations::new(means.spool.clone().filter(|_| layout.spooled))?;
        sweep.embed(source, &mut acts)?;
        Ok(Self { source, rounded, sweep, acts, held: layout.experts.max(1), next: 0 })
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
            let grams = self.grams(&attention, |i, chunk, inputs| {
                let x = self.sweep.rows(self.acts.read(before, i)?, chunk);
                block.attend(x, chunk.batch(), self.sweep.rotary(chunk), None, inputs);
                Ok(())
            })?;
            drop(block);
            said.extend(self.decide(index, &mut weights, grams, round)?);
        }
        let mut block = self.core(index, &weights)?;
        self.attend(&block, before)?;
        let mlp = self.sites(index, |part| matches!(part, Part::Dense(_) | Part::Shared(_)));
        if !mlp.is_empty() {
            let grams = self.grams(&mlp, |i, chunk, inputs| {
                let normed = block.mlp_input(self.sweep.rows(self.acts.read(Slot::Attended, i)?, chunk));
                match &block.mlp {
                    Mlp::Dense(gated) => drop(dense_mlp(gated, normed, inputs)),
                    Mlp::Moe(experts) => drop(experts.shared(normed, inputs)),
                }
                Ok(())
            })?;
            said.extend(self.decide(index, &mut weights, grams, round)?);
            block = self.core(index, &weights)?;
        }
        let count = self.source.spec().moe(index).map_or(0, |moe| moe.experts.len());
        // A dense layer is left as one without experts to add.
        let groups: Vec<Vec<usize>> =
            (0..count).collect::<Vec<_>>().chunks(self.held).map(<[usize]>::to_vec).collect();
        let groups = if groups.is_empty() { vec![vec![]] } else { groups };
        for (turn, group) in groups.iter().enumerate() {
            let mut decided = self.share(index, &Share::Experts(group.clone()))?;
            let sites = self.sites(index, |part| part.expert().is_some_and(|e| group.contains(&e)));
            if !sites.is_empty() {
                let experts = self.experts(index, group, &decided)?;
                let grams = self.expert_grams(&block, &experts, &sites)?;
                drop(experts);
                said.extend(self.decide(index, &mut decided, grams, round)?);
            }
            let experts = self.experts(index, group, &decided)?;
            let last = turn + 1 == groups.len();
            let to = if last { after } else { Slot::Sum(turn % 2 == 0) };
            self.add(&block, &experts, (turn > 0).then_some(Slot::Sum(turn % 2 == 1)), to, last)?;
            weights.extend(decided);
        }
        self.acts.drop(Slot::Attended)?;
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

    /// Where the inputs are seen of those matrices of a layer that are to be rounded and wanted, with the length of
    /// the inputs.
    fn sites(&self, layer: usize, wanted: impl Fn(Part) -> bool) -> BTreeMap<Part, usize> {
        let site = |&name: &Name| match name {
            Name::Layer(at, part) if at == layer && wanted(part) => {
                Some((fed_by(part), *self.source.spec().shape(name)?.get(1)?))
            }
            _ => None,
        };
        self.rounded.iter().filter_map(site).collect()
    }

    /// Grams of what `forward` shows of every chunk, added in the order of the chunks.
    fn grams(
        &self,
        sites: &BTreeMap<Part, usize>,
        forward: impl Fn(usize, &Chunk, &mut Inputs<'_>) -> Result<(), CalibrateError> + Sync,
    ) -> Result<BTreeMap<Part, Gram>, CalibrateError> {
        let mut grams: BTreeMap<Part, Gram> =
            sites.iter().map(|(&site, &cols)| (site, Gram::new(cols))).collect();
        let chunks: Vec<(usize, &Chunk)> = self.sweep.chunks.iter().enumerate().collect();
        for chunks in chunks.chunks(2 * rayon::current_num_threads()) {
            if self.sweep.progress.cancelled() {
                return Err(CalibrateError::Cancelled);
            }
            let see = |&(index, chunk): &(usize, &Chunk)| {
                let mut inputs = Inputs { sites, seen: BTreeMap::new() };
                forward(index, chunk, &mut inputs)?;
                Ok(inputs.seen)
            };
            let seen: Vec<_> = chunks.par_iter().map(see).collect::<Result<_, CalibrateError>>()?;
            grams.par_iter_mut().for_each(|(site, gram)| {
                gram.add(&seen.iter().filter_map(|seen| seen.get(site)).collect::<Vec<_>>());
            });
        }
        grams.par_iter_mut().for_each(|(_, gram)| gram.mirror());
        Ok(grams)
    }

    fn expert_grams(
        &self,
        block: &Block,
        experts: &[(usize, Expert)],
        sites: &BTreeMap<Part, usize>,
    ) -> Result<BTreeMap<Part, Gram>, CalibrateError> {
        let Mlp::Moe(router) = &block.mlp else { return Ok(BTreeMap::new()) };
        self.grams(sites, |i, chunk, inputs| {
            let normed = block.mlp_input(self.sweep.rows(self.acts.read(Slot::Attended, i)?, chunk));
            let routed = router.route(normed.clone());
            for (index, expert) in experts {
                let chosen = &routed.tokens[*index];
                if !chosen.is_empty() {
                    expert.forward(*index, select_rows(&normed, chosen), inputs);
                }
            }
            Ok(())
        })
    }

    /// Lets the caller decide the matrices that the grams are of.
    fn decide<T: Send, E: From<CalibrateError> + Send>(
        &self,
        layer: usize,
        weights: &mut LayerWeights,
        grams: BTreeMap<Part, Gram>,
        round: Round<'_, T, E>,
    ) -> Result<Vec<T>, E> {
        let mut tasks = Vec::with_capacity(grams.len());
        for (site, gram) in grams {
            let fed =
                |part: &Part| fed_by(*part) == site && self.rounded.contains(&Name::Layer(layer, *part));
            let parts: Vec<Part> = weights.keys().copied().filter(fed).collect();
            let matrices = parts.into_iter().filter_map(|part| Some((part, weights.remove(&part)?)));
            tasks.push((gram, matrices.collect::<Vec<_>>()));
        }
        let decided: Vec<_> = tasks.into_par_iter().map(|(gram, matrices)| round(&gram, matrices)).collect();
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
            let attended = block.attend(x, chunk.batch(), sweep.rotary(chunk), None, &mut Ignore);
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
