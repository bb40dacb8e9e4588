//! What comes before the first and after the last layer: embedding, final norm, head, loss.

use crate::ops::{from_rows, rms_norm, vector};
use crate::{BlockError, Linear, MakeLinear};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use moepress_model::{ModelSpec, Tensor as Name};
use moepress_quant::Stored;
use std::sync::Arc;

/// Embedding, final norm and head of a model.
pub struct Ends {
    /// Token embeddings `[vocab, hidden]`, in the format they are stored in.
    pub embedding: Arc<Stored>,
    /// Weight of the final norm.
    pub final_norm: Tensor<1>,
    /// hidden → vocab.
    pub head: Box<dyn Linear>,
    /// Epsilon of the final norm.
    pub eps: f64,
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
        let norm = take(Name::FinalNorm)?;
        Ok(Self { embedding, final_norm: vector(&norm, device), head: linear(head), eps: spec.norm_eps })
    }

    /// Hidden states `[ids.len(), hidden]`; ids are below the vocabulary size.
    pub fn embed(&self, ids: &[u32], device: &Device) -> Tensor<2> {
        let (_, hidden) = self.embedding.matrix_shape();
        let mut rows = vec![0.0; ids.len() * hidden];
        for (out, &id) in rows.chunks_exact_mut(hidden).zip(ids) {
            self.embedding.row_to_f32(id as usize, out);
        }
        from_rows(rows, [ids.len(), hidden], device)
    }

    /// Normed hidden states, the input of the head.
    pub fn normed(&self, x: Tensor<2>) -> Tensor<2> {
        rms_norm(x, &self.final_norm, self.eps)
    }

    /// Logits `[n, vocab]` of `[n, hidden]`.
    pub fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(self.normed(x))
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
