//! The forward half of a sweep.

use crate::CalibrateError;
use crate::activations::{Activations, Slot};
use crate::chunk::Chunk;
use crate::layer::Layer;
use crate::routing::RoutingProbe;
use crate::sweep::Sweep;
use moepress_nn::{Block, Ignore, Mlp, to_rows};
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
        let index = layer.index;
        if layer.at_once() {
            let block = layer.block()?;
            return self.pass(acts, stats, &[after], |acts, i, chunk| {
                let x = self.rows(acts.read(before, i)?, chunk);
                let mut stats = Statistics::default();
                let y = self.whole(&block, index, chunk, x, &mut stats)?;
                Ok((vec![to_rows(y)], stats))
            });
        }
        let block = layer.core()?;
        let Mlp::Moe(experts) = &block.mlp else { return Ok(()) };
        self.pass(acts, stats, &[Slot::Attended], |acts, i, chunk| {
            let x = self.rows(acts.read(before, i)?, chunk);
            let attended = block.attend(x, chunk.batch(), self.rotary(chunk), None, &mut Ignore);
            let mut stats = Statistics::default();
            if self.needs.has(Need::Routing) {
                let probe = RoutingProbe::new(index, &experts.route(block.mlp_input(attended.clone())));
                probe.finish_router(&mut stats)?;
            }
            Ok((vec![to_rows(attended)], stats))
        })?;
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
                let sum = if last { block.leave(attended, normed, sum, &mut Ignore) } else { sum };
                Ok((vec![to_rows(sum)], stats))
            })?;
            acts.drop(from)?;
        }
        acts.drop(Slot::Attended)
    }

    /// One chunk through a layer all of whose experts are loaded.
    fn whole(
        &self,
        block: &Block,
        layer: usize,
        chunk: &Chunk,
        x: moepress_nn::Tensor<2>,
        stats: &mut Statistics,
    ) -> Result<moepress_nn::Tensor<2>, CalibrateError> {
        let attended = block.attend(x, chunk.batch(), self.rotary(chunk), None, &mut Ignore);
        let normed = block.mlp_input(attended.clone());
        let sum = match &block.mlp {
            Mlp::Dense(_) => normed.zeros_like(),
            Mlp::Moe(experts) => {
                let routed = experts.route(normed.clone());
                let mut probe = self.needs.has(Need::Routing).then(|| RoutingProbe::new(layer, &routed));
                let sum = experts.add(experts.loaded(), &normed, &routed, normed.zeros_like(), &mut probe);
                if self.needs.has(Need::MeanOutputs) {
                    crate::routing::output_sums(layer, experts.loaded(), &normed, stats)?;
                }
                if let Some(probe) = probe {
                    probe.finish_router(stats)?;
                    probe.finish_outputs(stats)?;
                }
                sum
            }
        };
        Ok(block.leave(attended, normed, sum, &mut Ignore))
    }
}
