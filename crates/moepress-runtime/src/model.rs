//! A loaded model.

use crate::{RuntimeError, packed};
use moepress_checkpoint::Source;
use moepress_model::ModelSpec;
use moepress_nn::{Block, Builder, Device, Embedding, Head, Ignore, KeyValues, MakeLinear, Rotary, Tensor};
use std::ops::Range;

/// A model whose weights are in memory, in the formats they are stored in. Shared freely by threads; every
/// pass runs on the calling one.
pub struct Model {
    spec: ModelSpec,
    embedding: Embedding,
    head: Head,
    blocks: Vec<Block>,
    pub(crate) device: Device,
}

impl Model {
    /// Loads every weight of `source`.
    ///
    /// # Errors
    /// A weight cannot be read, or does not fit the description.
    pub fn load(source: &dyn Source) -> Result<Self, RuntimeError> {
        Self::load_as(source, &packed, Device::flex())
    }

    fn load_as(source: &dyn Source, linear: MakeLinear<'_>, device: Device) -> Result<Self, RuntimeError> {
        let spec = source.spec().clone();
        let tensor = |name| source.tensor(name).map_err(RuntimeError::from);
        let embedding = Embedding::new(&spec, tensor)?;
        let head = Head::new(&spec, tensor, Some(&embedding), linear, &device)?;
        let block = |layer| Ok(Builder::new(&spec, layer, source.layer(layer)?, linear, &device).block()?);
        let blocks = (0..spec.layers.len()).map(block).collect::<Result<_, RuntimeError>>()?;
        Ok(Self { spec, embedding, head, blocks, device })
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Hidden states `[ids.len(), hidden]` after the last layer of `batch` sequences of equal length, one
    /// after the other in `ids`; not yet normed.
    ///
    /// # Errors
    /// No tokens, a token outside the vocabulary, sequences of different or too great length.
    pub fn hidden(&self, ids: &[u32], batch: usize) -> Result<Tensor<2>, RuntimeError> {
        if batch == 0 || !ids.len().is_multiple_of(batch) {
            return Err(RuntimeError::Batch { tokens: ids.len(), batch });
        }
        self.forward(ids, batch, 0..ids.len() / batch, None)
    }

    /// Logits `[n, vocab]` of hidden states `[n, hidden]`. Take as many rows at a time as memory allows:
    /// a thousand of them for a vocabulary of 150,000 are 600 MB.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.head.logits(hidden)
    }

    /// As [`Self::hidden`], of the first tokens of the run `place` in their sequences, whose end is that of the
    /// sequences; with one cache per layer that holds what came before.
    pub(crate) fn forward(
        &self,
        ids: &[u32],
        batch: usize,
        place: Range<usize>,
        caches: Option<&mut [KeyValues]>,
    ) -> Result<Tensor<2>, RuntimeError> {
        check(&self.spec, ids, place.end)?;
        let tokens = ids.len() / batch;
        let positions = place.start..place.start + tokens;
        let rotary = Rotary::part(&self.spec.attention, positions, place.end, &self.device);
        let mut caches = caches.map(<[KeyValues]>::iter_mut);
        let embedded = self.embedding.embed(ids, &self.device);
        Ok(self.blocks.iter().fold(embedded, |x, block| {
            let cache = caches.as_mut().and_then(Iterator::next);
            block.forward(x, batch, &rotary, cache, &mut Ignore)
        }))
    }
}

/// Checks that a model can run on these tokens, of sequences of `length` tokens.
///
/// # Errors
/// No tokens, a token outside the vocabulary, a sequence longer than the context.
pub fn check(spec: &ModelSpec, ids: &[u32], length: usize) -> Result<(), RuntimeError> {
    let (vocab, context) = (spec.vocab, spec.context);
    match ids.iter().find(|&&id| id as usize >= vocab) {
        _ if ids.is_empty() => Err(RuntimeError::Empty),
        Some(&id) => Err(RuntimeError::Token { id, vocab }),
        None if length > context => Err(RuntimeError::Context { tokens: length, context }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{Toy, close};
    use moepress_model::{Mlp, Part, Projection, Segment, Tensor as Name};
    use moepress_nn::{dense, to_rows};
    use moepress_quant::formats::encode_nearest;
    use moepress_quant::{Dtype, Format, Plain, Stored};

    const IDS: [u32; 10] = [1, 5, 2, 9, 30, 5, 5, 0, 17, 3];

    fn logits(toy: &Toy) -> Vec<f32> {
        let model = Model::load(toy).unwrap();
        to_rows(model.logits(model.hidden(&IDS, 2).unwrap()))
    }

    fn rows(stored: &Stored, rows: std::ops::Range<usize>) -> Stored {
        let (_, cols) = stored.matrix_shape();
        let values = &stored.to_f32()[rows.start * cols..rows.end * cols];
        Stored::Plain(Plain::from_f32(Dtype::F32, vec![rows.len(), cols], values))
    }

    fn cols(stored: &Stored, cols: std::ops::Range<usize>) -> Stored {
        let (count, width) = stored.matrix_shape();
        let values: Vec<f32> =
            stored.to_f32().chunks(width).flat_map(|row| row[cols.clone()].to_vec()).collect();
        Stored::Plain(Plain::from_f32(Dtype::F32, vec![count, cols.len()], &values))
    }

    #[test]
    fn an_expert_in_segments_computes_the_same() {
        let whole = Toy::new();
        let mut cut = Toy::new();
        let Mlp::Moe(moe) = &mut cut.spec.layers[1].mlp else { panic!() };
        let widths = [5, 1, moe.experts[2].width() - 6];
        let format = moe.experts[2].segments[0].gate_proj;
        moe.experts[2].segments = widths.map(|width| Segment::uniform(width, format)).to_vec();
        for projection in Projection::ALL {
            let part = |segment| Name::Layer(1, Part::Expert { expert: 2, segment, projection });
            let stored = cut.weights.remove(&part(0)).unwrap();
            let mut first = 0;
            for (segment, width) in widths.into_iter().enumerate() {
                let run = first..first + width;
                let slice =
                    if projection == Projection::Down { cols(&stored, run) } else { rows(&stored, run) };
                cut.weights.insert(part(segment), slice);
                first += width;
            }
        }
        close(&logits(&whole), &logits(&cut), 1e-5);
    }

    #[test]
    fn rows_that_share_an_expert_compute_as_copies_of_it() {
        let mut copies = Toy::new();
        let mut alias = Toy::new();
        for projection in Projection::ALL {
            let part = |expert| Name::Layer(0, Part::Expert { expert, segment: 0, projection });
            let shared = copies.weights[&part(1)].clone();
            copies.weights.insert(part(3), shared);
            alias.weights.remove(&part(3));
        }
        let Mlp::Moe(moe) = &mut alias.spec.layers[0].mlp else { panic!() };
        moe.experts.truncate(3);
        moe.router = vec![0, 1, 2, 1];
        alias.spec.validate().unwrap();
        close(&logits(&copies), &logits(&alias), 1e-6);
    }

    #[test]
    fn packed_weights_compute_as_their_decoded_values() {
        for format in ["bf16", "ternary-row", "int2-g16", "int3-sym-g64", "int4-row", "int8-g128"] {
            let mut toy = Toy::new();
            for (name, stored) in &mut toy.weights {
                let (rows, cols) = stored.matrix_shape();
                let values = stored.to_f32();
                *stored = match format.parse().unwrap() {
                    Format::Plain(dtype) => Stored::Plain(Plain::from_f32(dtype, stored.shape(), &values)),
                    Format::Grouped(_) if matches!(name, Name::FinalNorm) || stored.shape().len() == 1 => {
                        continue;
                    }
                    Format::Grouped(format) => {
                        Stored::Packed(encode_nearest(format, rows, cols, &values, None).unwrap())
                    }
                };
            }
            let device = Device::flex();
            let decoded = Model::load_as(&toy, &|stored| dense(&stored, &device), device.clone()).unwrap();
            let expected = to_rows(decoded.logits(decoded.hidden(&IDS, 2).unwrap()));
            close(&logits(&toy), &expected, 1e-5);
        }
    }

    #[test]
    fn sequences_of_a_batch_do_not_see_each_other() {
        let model = Model::load(&Toy::new()).unwrap();
        let together = to_rows(model.hidden(&IDS, 2).unwrap());
        let apart = IDS.chunks(5).flat_map(|ids| to_rows(model.hidden(ids, 1).unwrap()));
        close(&together, &apart.collect::<Vec<_>>(), 1e-5);
    }

    #[test]
    fn what_cannot_run_is_refused() {
        let toy = Toy::new();
        let model = Model::load(&toy).unwrap();
        assert!(matches!(model.hidden(&[], 1), Err(RuntimeError::Empty)));
        assert!(matches!(model.hidden(&[1, 2, 3], 2), Err(RuntimeError::Batch { tokens: 3, batch: 2 })));
        assert!(matches!(model.hidden(&[1], 0), Err(RuntimeError::Batch { .. })));
        assert!(matches!(model.hidden(&[32], 1), Err(RuntimeError::Token { id: 32, vocab: 32 })));
        assert!(matches!(model.hidden(&[0; 25], 1), Err(RuntimeError::Context { tokens: 25, context: 24 })));
        let mut misshapen = Toy::new();
        misshapen.spec.hidden += 2;
        assert!(matches!(Model::load(&misshapen), Err(RuntimeError::Block(_))));
    }
}
