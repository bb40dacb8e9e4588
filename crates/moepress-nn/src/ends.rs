//! What comes before the first and after the last layer: embedding, final norm, head, loss.

use crate::ops::{Norm, from_rows, plus, times, vector};
use crate::{BlockError, Linear, MakeLinear};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use moepress_model::{ModelSpec, Scales, Tensor as Name};
use moepress_quant::Stored;
use std::sync::Arc;

/// Embedding, final norm and head of a model.
pub struct Ends {
    /// Token embeddings `[vocab, hidden]`, in the format they are stored in.
    pub embedding: Arc<Stored>,
    /// The norm after the last layer.
    pub final_norm: Norm,
    /// hidden → vocab, without bias and scale.
    pub head: Box<dyn Linear>,
    head_bias: Option<Tensor<1>>,
    scales: Scales,
}

impl Ends {
    /// Takes the tensors outside the layers from `tensor`; a tied head shares the embedding.
    ///
    /// # Errors
    /// `tensor` fails, or a tensor has another shape than the description says.
    pub fn new<E: From<BlockError>>(
        spec: &ModelSpec,
        tensor: impl Fn(Name) -> Result<Stored, E>,
        linear: MakeLinear<'_>,
        device: &Device,
    ) -> Result<Self, E> {
        let take = |name: Name| {
            let stored = tensor(name)?;
            match Some(stored.shape()) == spec.shape(name) {
                true => Ok(Arc::new(stored)),
                false => Err(E::from(BlockError { tensor: name })),
            }
        };
        let embedding = take(Name::Embedding)?;
        let head = if spec.tied_embeddings { embedding.clone() } else { take(Name::Head)? };
        let optional = |name: Name| match spec.shape(name) {
            Some(_) => take(name).map(|stored| Some(vector(&stored, device))),
            None => Ok(None),
        };
        let weight = vector(&*take(Name::FinalNorm)?, device);
        Ok(Self {
            embedding,
            final_norm: Norm::new(spec.norm.kind, spec.norm.eps, weight, optional(Name::FinalNormBias)?),
            head: linear(head),
            head_bias: optional(Name::HeadBias)?,
            scales: spec.scales,
        })
    }

    /// Hidden states `[ids.len(), hidden]`; ids are below the vocabulary size.
    pub fn embed(&self, ids: &[u32], device: &Device) -> Tensor<2> {
        let (_, hidden) = self.embedding.matrix_shape();
        let mut rows = vec![0.0; ids.len() * hidden];
        for (out, &id) in rows.chunks_exact_mut(hidden).zip(ids) {
            self.embedding.row_to_f32(id as usize, out);
        }
        times(from_rows(rows, [ids.len(), hidden], device), self.scales.embedding)
    }

    /// Normed hidden states, the input of the head.
    pub fn normed(&self, x: Tensor<2>) -> Tensor<2> {
        self.final_norm.forward(x)
    }

    /// Logits `[n, vocab]` of `[n, hidden]`.
    pub fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        self.finish(self.head.forward(self.normed(x)))
    }

    /// Logits from what the head returns.
    pub fn finish(&self, x: Tensor<2>) -> Tensor<2> {
        times(plus(x, self.head_bias.as_ref()), self.scales.logits)
    }
}

/// Negative log-likelihoods in nats, `[n]`, of `targets` under logits `[n, vocab]`. Differentiable.
pub fn token_losses(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let device = logits.device();
    let count = targets.len();
    let targets: Vec<i64> = targets.iter().map(|&id| i64::from(id)).collect();
    let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [count, 1]), &device);
    log_softmax(logits, 1).gather(1, targets).neg().reshape([count])
}
