//! A model in memory on the blocks of calibration.

use crate::{RuntimeError, check, packed};
use moepress_checkpoint::Source;
use moepress_model::ModelSpec;
use moepress_nn::{Block, Builder, Device, Embedding, Head, Ignore, Rotary, Tensor};

/// A model whose weights are in memory, in the formats they are stored in: what evaluations run on, since it computes
/// bit for bit what the same blocks do one at a time. Shared freely by threads.
pub struct Blocks {
    spec: ModelSpec,
    embedding: Embedding,
    head: Head,
    blocks: Vec<Block>,
    device: Device,
}

impl Blocks {
    /// Loads every weight of `source`.
    ///
    /// # Errors
    /// A weight cannot be read, or does not fit the description.
    pub fn load(source: &dyn Source) -> Result<Self, RuntimeError> {
        let (spec, device) = (source.spec().clone(), Device::flex());
        let tensor = |name| source.tensor(name).map_err(RuntimeError::from);
        let embedding = Embedding::new(&spec, tensor)?;
        let head = Head::new(&spec, tensor, Some(&embedding), &packed, &device)?;
        let block = |layer| Ok(Builder::new(&spec, layer, source.layer(layer)?, &packed, &device).block()?);
        let blocks = (0..spec.layers.len()).map(block).collect::<Result<_, RuntimeError>>()?;
        Ok(Self { spec, embedding, head, blocks, device })
    }

    /// A model of blocks that are on a device.
    pub fn on_device(
        spec: ModelSpec,
        embedding: Embedding,
        head: Head,
        blocks: Vec<Block>,
        device: Device,
    ) -> Self {
        Self { spec, embedding, head, blocks, device }
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Hidden states `[ids.len(), hidden]` after the last layer of `batch` sequences of equal length, one after the
    /// other in `ids`; not yet normed.
    ///
    /// # Errors
    /// No tokens, a token outside the vocabulary, sequences of different or too great length.
    pub fn hidden(&self, ids: &[u32], batch: usize) -> Result<Tensor<2>, RuntimeError> {
        if batch == 0 || !ids.len().is_multiple_of(batch) {
            return Err(RuntimeError::Batch { tokens: ids.len(), batch });
        }
        let tokens = ids.len() / batch;
        check(&self.spec, ids, tokens)?;
        let rotary = Rotary::part(&self.spec.attention, 0..tokens, tokens, &self.device);
        let embedded = self.embedding.embed(ids, &self.device);
        Ok(self.blocks.iter().fold(embedded, |x, block| block.forward(x, batch, &rotary, None, &mut Ignore)))
    }

    /// Logits `[n, vocab]` of hidden states `[n, hidden]`. Take as many rows at a time as memory allows: a thousand of
    /// them for a vocabulary of 150,000 are 600 MB.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.head.logits(hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{Toy, close};
    use crate::{Model, Precision};
    use moepress_nn::to_rows;

    #[test]
    fn both_decoders_compute_the_same() {
        let toy = Toy::new();
        let ids = [1, 5, 2, 9, 30, 5, 5, 0, 17, 3];
        let (blocks, model) = (Blocks::load(&toy).unwrap(), Model::load(&toy).unwrap());
        let logits = to_rows(blocks.logits(blocks.hidden(&ids, 2).unwrap()));
        close(&logits, &model.logits(&model.hidden(&ids, 2).unwrap(), Precision::Exact).unwrap(), 1e-5);
    }
}
