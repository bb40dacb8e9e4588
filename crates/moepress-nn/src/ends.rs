//! What comes before the first and after the last layer: embedding, final norm, head, loss. Apart, so that a walk over
//! the layers holds only the one it needs.

use crate::ops::{Norm, from_rows, plus, times, vector};
use crate::{BlockError, Linear, MakeLinear};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use moepress_model::{ModelSpec, Tensor as Name};
use moepress_quant::Stored;
use std::sync::Arc;

/// The token embeddings of a model.
pub struct Embedding {
    /// `[vocab, hidden]`, in the format it is stored in.
    matrix: Arc<Stored>,
    scale: f64,
}

impl Embedding {
    /// Takes the embeddings from `tensor`.
    ///
    /// # Errors
    /// `tensor` fails, or they have another shape than the description says.
    pub fn new<E: From<BlockError>>(
        spec: &ModelSpec,
        tensor: impl Fn(Name) -> Result<Stored, E>,
    ) -> Result<Self, E> {
        Ok(Self { matrix: take(spec, &tensor, Name::Embedding)?, scale: spec.scales.embedding })
    }

    /// Hidden states `[ids.len(), hidden]`; ids are below the vocabulary size.
    pub fn embed(&self, ids: &[u32], device: &Device) -> Tensor<2> {
        let (_, hidden) = self.matrix.matrix_shape();
        let mut rows = vec![0.0; ids.len() * hidden];
        for (out, &id) in rows.chunks_exact_mut(hidden).zip(ids) {
            self.matrix.row_to_f32(id as usize, out);
        }
        times(from_rows(rows, [ids.len(), hidden], device), self.scale)
    }
}

/// Final norm and head of a model.
pub struct Head {
    final_norm: Norm,
    /// hidden → vocab, without bias and scale.
    pub map: Box<dyn Linear>,
    bias: Option<Tensor<1>>,
    scale: f64,
}

impl Head {
    /// Takes what follows the layers from `tensor`; a tied head shares the matrix of `embedding`, if that is loaded.
    ///
    /// # Errors
    /// `tensor` fails, or a tensor has another shape than the description says.
    pub fn new<E: From<BlockError>>(
        spec: &ModelSpec,
        tensor: impl Fn(Name) -> Result<Stored, E>,
        embedding: Option<&Embedding>,
        linear: MakeLinear<'_>,
        device: &Device,
    ) -> Result<Self, E> {
        let matrix = match (spec.tied_embeddings, embedding) {
            (true, Some(embedding)) => embedding.matrix.clone(),
            (true, None) => take(spec, &tensor, Name::Embedding)?,
            (false, _) => take(spec, &tensor, Name::Head)?,
        };
        let optional = |name: Name| match spec.shape(name) {
            Some(_) => take(spec, &tensor, name).map(|stored| Some(vector(&stored, device))),
            None => Ok(None),
        };
        let weight = vector(&*take(spec, &tensor, Name::FinalNorm)?, device);
        Ok(Self {
            final_norm: Norm::new(spec.norm.kind, spec.norm.eps, weight, optional(Name::FinalNormBias)?),
            map: linear(matrix),
            bias: optional(Name::HeadBias)?,
            scale: spec.scales.logits,
        })
    }

    /// Normed hidden states, the input of the map.
    pub fn normed(&self, x: Tensor<2>) -> Tensor<2> {
        self.final_norm.forward(x)
    }

    /// Logits `[n, vocab]` of `[n, hidden]`.
    pub fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        self.finish(self.map.forward(self.normed(x)))
    }

    /// Logits from what the map returns.
    pub fn finish(&self, x: Tensor<2>) -> Tensor<2> {
        times(plus(x, self.bias.as_ref()), self.scale)
    }
}

/// A tensor in the shape that the description says.
fn take<E: From<BlockError>>(
    spec: &ModelSpec,
    tensor: &impl Fn(Name) -> Result<Stored, E>,
    name: Name,
) -> Result<Arc<Stored>, E> {
    let stored = tensor(name)?;
    match Some(stored.shape()) == spec.shape(name) {
        true => Ok(Arc::new(stored)),
        false => Err(E::from(BlockError { tensor: name })),
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
