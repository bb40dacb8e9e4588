//! A layer that is read as it is needed: all at once, or its experts a few at a time.

use crate::CalibrateError;
use moepress_checkpoint::{Share, Source};
use moepress_model::{LayerWeights, ModelSpec};
use moepress_nn::{Block, BlockError, Builder, Device, Expert, Linear, MakeLinear, dense};
use moepress_quant::Stored;
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
        let mut experts = Vec::with_capacity(self.count());
        let mut block = self.core()?;
        // One by one: the stored form of an expert is dropped before the next is read.
        for index in 0..self.count() {
            experts.extend(self.experts(&[index])?.into_iter().map(|(_, expert)| expert));
        }
        block.put_experts(experts);
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

    /// These experts, with their indices.
    pub fn experts(&self, indices: &[usize]) -> Result<Vec<(usize, Expert)>, CalibrateError> {
        let mut experts = Vec::with_capacity(indices.len());
        for &index in indices {
            let weights = self.source.share(self.index, &Share::Experts(vec![index]))?;
            experts.push((index, self.build(weights, |builder| builder.expert(index))?));
        }
        Ok(experts)
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
