//! What comes before the first and after the last layer: embedding, final norm, head, loss.

use crate::Linear;
use crate::ops::{from_rows, rms_norm};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use moepress_quant::Stored;

/// Embedding, final norm and head of a model.
pub struct Ends {
    /// Token embeddings `[vocab, hidden]`, in the format they are stored in.
    pub embedding: Stored,
    /// Weight of the final norm.
    pub final_norm: Tensor<1>,
    /// hidden → vocab.
    pub head: Box<dyn Linear>,
    /// Epsilon of the final norm.
    pub eps: f64,
}

impl Ends {
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
