//! A layer that is read as it is needed: all at once, or its experts a few at a time.

use crate::CalibrateError;
use moepress_checkpoint::{CheckpointError, Share, Source};
use moepress_model::{LayerWeights, ModelSpec, Moe, Part, Tensor};
use moepress_nn::{Block, BlockError, Builder, Device, Expert, Linear, MakeLinear, dense};
use moepress_quant::formats::encode_nearest;
use moepress_quant::{Format, Stored};
use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// One layer of a source.
pub(crate) struct Layer<'a> {
    pub index: usize,
    source: &'a dyn Source,
    linear: MakeLinear<'a>,
    device: &'a Device,
    /// Experts held at a time.
    held: usize,
}

impl<'a> Layer<'a> {
    pub fn new(
        source: &'a dyn Source,
        index: usize,
        linear: MakeLinear<'a>,
        device: &'a Device,
        held: usize,
    ) -> Self {
        Self { index, source, linear, device, held: held.max(1) }
    }

    fn count(&self) -> usize {
        self.source.spec().moe(self.index).map_or(0, |moe| moe.experts.len())
    }

    /// Whether all of it is held at once.
    pub fn at_once(&self) -> bool {
        self.count() <= self.held
    }

    /// The whole layer.
    pub fn block(&self) -> Result<Block, CalibrateError> {
        let mut block = self.core()?;
        let all: Vec<usize> = (0..self.count()).collect();
        block.put_experts(self.experts(&all)?.into_iter().map(|(_, expert)| expert).collect());
        Ok(block)
    }

    /// Everything but the routed experts.
    pub fn core(&self) -> Result<Block, CalibrateError> {
        let weights = self.source.share(self.index, &Share::Core)?;
        self.build(weights, |builder| builder.core())
    }

    /// The experts in groups that are held at a time.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        (0..self.count()).collect::<Vec<_>>().chunks(self.held).map(<[usize]>::to_vec).collect()
    }

    /// The same where each is held with that many versions of it.
    pub fn groups_with(&self, versions: usize) -> Vec<Vec<usize>> {
        let held = (self.held.min(self.count()) / (versions + 1)).max(1);
        (0..self.count()).collect::<Vec<_>>().chunks(held).map(<[usize]>::to_vec).collect()
    }

    /// The layer with experts before this one: its index, its experts, and the router rows chosen per token.
    pub fn before(&self) -> Option<(usize, usize, usize)> {
        let before = self.source.spec().moe_layers().take_while(|(layer, _)| *layer < self.index).last();
        before.map(|(layer, moe)| (layer, moe.experts.len(), moe.routing.top_k))
    }

    /// The router and its experts; none in a dense layer.
    pub fn moe(&self) -> Option<&Moe> {
        self.source.spec().moe(self.index)
    }

    /// These experts with all matrices that are still plain rounded to nearest.
    pub fn rounded(&self, indices: &[usize], format: Format) -> Result<Vec<(usize, Expert)>, CalibrateError> {
        let mut experts = Vec::with_capacity(indices.len());
        for &index in indices {
            let mut weights = self.source.share(self.index, &Share::Experts(vec![index]))?;
            for (part, stored) in weights.iter_mut().filter(|(part, _)| matches!(part, Part::Expert { .. })) {
                if let (Stored::Plain(_), Format::Grouped(grouped)) = (&*stored, format) {
                    let (rows, cols) = stored.matrix_shape();
                    let packed = encode_nearest(grouped, rows, cols, &stored.to_f32(), None);
                    *stored = Stored::Packed(packed.map_err(|e| {
                        let tensor = Tensor::Layer(self.index, *part).to_string();
                        CheckpointError::bad_input(Path::new("model"), &tensor, e.to_string())
                    })?);
                }
            }
            experts.push((index, self.build(weights, |builder| builder.expert(index))?));
        }
        Ok(experts)
    }

    /// These experts, with their indices.
    pub fn experts(&self, indices: &[usize]) -> Result<Vec<(usize, Expert)>, CalibrateError> {
        // One by one on each thread: the stored form of an expert is dropped before the next is read.
        let expert = |&index: &usize| {
            let weights = self.source.share(self.index, &Share::Experts(vec![index]))?;
            Ok((index, self.build(weights, |builder| builder.expert(index))?))
        };
        indices.par_iter().map(expert).collect()
    }

    fn build<T>(
        &self,
        weights: LayerWeights,
        take: impl FnOnce(&mut Builder<'_>) -> Result<T, BlockError>,
    ) -> Result<T, CalibrateError> {
        build(self.source.spec(), self.index, weights, self.linear, self.device, take)
    }
}

/// Maps unpacked to f32 on this device.
pub(crate) fn dense_on(device: &Device) -> impl Fn(Arc<Stored>) -> Box<dyn Linear> + Sync {
    move |stored| dense(&stored, device)
}

/// What `take` makes of these weights of a layer.
pub(crate) fn build<T>(
    spec: &ModelSpec,
    layer: usize,
    weights: LayerWeights,
    linear: MakeLinear<'_>,
    device: &Device,
    take: impl FnOnce(&mut Builder<'_>) -> Result<T, BlockError>,
) -> Result<T, CalibrateError> {
    let mut builder = Builder::new(spec, layer, weights, linear, device);
    Ok(take(&mut builder)?)
}
