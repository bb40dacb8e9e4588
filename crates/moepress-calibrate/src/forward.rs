//! The forward half of a sweep.

use crate::CalibrateError;
use crate::activations::{Activations, Slot};
use crate::chunk::Chunk;
use crate::layer::Layer;
use crate::locality;
use crate::routing::RoutingProbe;
use crate::sweep::Sweep;
use moepress_nn::{Block, Ignore, Mlp, Routed, Tensor, to_rows};
use moepress_stats::{Need, Statistics};

impl Sweep<'_> {
    /// All chunks through one layer: the hidden states after it, and what its probes saw.
    pub(crate) fn forward(
        &self,
        layer: &mut Layer<'_>,
        acts: &mut Activations,
        stats: &mut Statistics,
    ) -> Result<(), CalibrateError> {
        let (before, after) = (Slot::Boundary(layer.index), Slot::Boundary(layer.index + 1));
        let (layer, index) = (&*layer, layer.index);
        let chosen = layer.moe().filter(|_| self.needs.has(Need::Locality)).map(|_| Slot::Choices(index));
        if layer.at_once() {
            let block = layer.block()?;
            let slots: Vec<Slot> = [after].into_iter().chain(chosen).collect();
            self.pass(acts, stats, &slots, |acts, i, chunk| {
                let x = self.rows(acts.read(before, i)?, chunk);
                let attended = block.attend(x, chunk.batch, self.rotary(chunk), None, &mut Ignore);
                let mut stats = Statistics::default();
                let (y, choices) = self.whole(&block, layer, chunk, attended, (acts, i), &mut stats)?;
                Ok(([to_rows(y)].into_iter().chain(choices).collect(), stats))
            })?;
            return self.forget(layer, acts);
        }
        let block = layer.core()?;
        let Mlp::Moe(experts) = &block.mlp else { return Ok(()) };
        let slots: Vec<Slot> = [Slot::Attended].into_iter().chain(chosen).collect();
        self.pass(acts, stats, &slots, |acts, i, chunk| {
            let x = self.rows(acts.read(before, i)?, chunk);
            let attended = block.attend(x, chunk.batch, self.rotary(chunk), None, &mut Ignore);
            let mut stats = Statistics::default();
            let choices = match self.sees_router() {
                true => {
                    let routed = experts.route(block.mlp_input(attended.clone()));
                    self.router(layer, &routed, chunk, (acts, i), &mut stats)?
                }
                false => None,
            };
            Ok(([to_rows(attended)].into_iter().chain(choices).collect(), stats))
        })?;
        self.forget(layer, acts)?;
        let groups = layer.groups();
        for (turn, group) in groups.iter().enumerate() {
            let loaded = layer.experts(group)?;
            let (first, last) = (turn == 0, turn + 1 == groups.len());
            let (from, to) = (Slot::Sum(turn % 2 == 1), Slot::Sum(turn % 2 == 0));
            let to = if last { after } else { to };
            self.pass(acts, stats, &[to], |acts, i, chunk| {
                let attended = self.rows(acts.read(Slot::Attended, i)?, chunk);
                let normed = block.mlp_input(attended.clone());
                let sum = if first { normed.zeros_like() } else { self.rows(acts.read(from, i)?, chunk) };
                let routed = experts.route(normed.clone());
                let mut probe = self.needs.has(Need::Routing).then(|| RoutingProbe::new(index, &routed));
                let these = loaded.iter().map(|(expert, loaded)| (*expert, loaded));
                let sum = experts.add(these, &normed, &routed, sum, &mut probe);
                let mut stats = Statistics::default();
                if let Some(probe) = probe {
                    probe.finish_outputs(&mut stats)?;
                }
                if self.needs.has(Need::MeanOutputs) {
                    let these = loaded.iter().map(|(expert, loaded)| (*expert, loaded));
                    crate::routing::output_sums(index, these, &normed, &mut stats)?;
                }
                if !last {
                    return Ok((vec![to_rows(sum)], stats));
                }
                let y = block.leave(attended.clone(), normed, sum, &mut Ignore);
                if self.needs.has(Need::Cosine) {
                    crate::routing::cosines(index, &attended, &y, &mut stats)?;
                }
                Ok((vec![to_rows(y)], stats))
            })?;
            acts.drop(from)?;
        }
        acts.drop(Slot::Attended)
    }

    /// One chunk through what follows attention in a layer all of whose experts are loaded: the hidden states
    /// after it, and the experts that tokens were routed to where that is kept.
    fn whole(
        &self,
        block: &Block,
        layer: &Layer<'_>,
        chunk: &Chunk,
        attended: Tensor<2>,
        kept: (&Activations, usize),
        stats: &mut Statistics,
    ) -> Result<(Tensor<2>, Option<Vec<f32>>), CalibrateError> {
        let normed = block.mlp_input(attended.clone());
        let Mlp::Moe(experts) = &block.mlp else {
            let zeros = normed.zeros_like();
            return Ok((block.leave(attended, normed, zeros, &mut Ignore), None));
        };
        let routed = experts.route(normed.clone());
        let mut probe = self.needs.has(Need::Routing).then(|| RoutingProbe::new(layer.index, &routed));
        let sum = experts.add(experts.loaded(), &normed, &routed, normed.zeros_like(), &mut probe);
        if self.needs.has(Need::MeanOutputs) {
            crate::routing::output_sums(layer.index, experts.loaded(), &normed, stats)?;
        }
        if let Some(probe) = probe {
            probe.finish_outputs(stats)?;
        }
        let choices = self.router(layer, &routed, chunk, kept, stats)?;
        let y = block.leave(attended.clone(), normed, sum, &mut Ignore);
        if self.needs.has(Need::Cosine) {
            crate::routing::cosines(layer.index, &attended, &y, stats)?;
        }
        Ok((y, choices))
    }

    fn sees_router(&self) -> bool {
        [Need::Routing, Need::Texts, Need::Locality].into_iter().any(|need| self.needs.has(need))
    }

    /// What is measured of the router of a layer on one chunk; the experts that its tokens were routed to where that
    /// is kept. `kept` has what was kept of the layers before.
    fn router(
        &self,
        layer: &Layer<'_>,
        routed: &Routed,
        chunk: &Chunk,
        (acts, i): (&Activations, usize),
        stats: &mut Statistics,
    ) -> Result<Option<Vec<f32>>, CalibrateError> {
        let Some(moe) = layer.moe() else { return Ok(None) };
        if self.needs.has(Need::Routing) {
            RoutingProbe::new(layer.index, routed).finish_router(stats)?;
        }
        if self.needs.has(Need::Texts) {
            crate::texts::text_sums(layer.index, moe, routed, chunk, self.texts, stats)?;
        }
        if !self.needs.has(Need::Locality) {
            return Ok(None);
        }
        let (top_k, experts) = (moe.routing.top_k, moe.experts.len());
        let choices = locality::choices(routed, chunk.tokens());
        locality::add_runs(layer.index, &choices, experts, chunk, stats)?;
        if let Some((before, experts_before, top_k)) = layer.before() {
            let before = locality::unpack(&acts.read(Slot::Choices(before), i)?, top_k);
            let (before, now) = ((&before, experts_before), (&choices, experts));
            locality::add_affinity(layer.index, before, now, stats)?;
        }
        Ok(Some(locality::pack(&choices, top_k)))
    }

    /// Drops what was kept of the layer with experts before this one.
    fn forget(&self, layer: &Layer<'_>, acts: &mut Activations) -> Result<(), CalibrateError> {
        match layer.before().filter(|_| layer.moe().is_some() && self.needs.has(Need::Locality)) {
            Some((before, ..)) => acts.drop(Slot::Choices(before)),
            None => Ok(()),
        }
    }
}
