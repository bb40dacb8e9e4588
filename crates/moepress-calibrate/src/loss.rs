//! Between the halves of a sweep: the loss, and its gradient in the last hidden states.

use crate::CalibrateError;
use crate::chunk::Chunk;
use crate::sums::squares;
use crate::sweep::Sweep;
use moepress_model::Tensor as Name;
use moepress_nn::{Head, Tensor, from_rows, to_rows, token_losses};
use moepress_stats::{Need, Of, Quantity, Statistics};

/// Logits that are alive at a time, of all predictions of a chunk; vocabularies are large.
const LOGITS: usize = 1 << 22;

/// Predictions whose logits are computed at a time.
pub(crate) fn rows_at_once(vocab: usize) -> usize {
    (LOGITS / vocab.max(1)).clamp(16, 1024)
}

impl Sweep<'_> {
    /// The gradient of the loss of a chunk in the hidden states after the last layer.
    pub(crate) fn loss(
        &self,
        head: &Head,
        vocab: usize,
        chunk: &Chunk,
        hidden: &[f32],
    ) -> Result<(Vec<f32>, Statistics), CalibrateError> {
        let mut stats = Statistics::default();
        let mut gradient = vec![0.0; hidden.len()];
        let predicting = chunk.predicting();
        let at_once = rows_at_once(vocab);
        let row = |token: u32| token as usize * self.hidden..(token as usize + 1) * self.hidden;
        for (rows, targets) in predicting.rows.chunks(at_once).zip(predicting.targets.chunks(at_once)) {
            let values: Vec<f32> = rows.iter().flat_map(|&token| &hidden[row(token)]).copied().collect();
            let x = from_rows(values, [rows.len(), self.hidden], &self.device);
            let back = self.predict(head, x, targets, &mut stats)?;
            for (&token, values) in rows.iter().zip(back.chunks_exact(self.hidden)) {
                gradient[row(token)].copy_from_slice(values);
            }
        }
        Ok((gradient, stats))
    }

    fn predict(
        &self,
        head: &Head,
        x: Tensor<2>,
        targets: &[u32],
        stats: &mut Statistics,
    ) -> Result<Vec<f32>, CalibrateError> {
        let leaf = x.autodiff().require_grad();
        let input = head.normed(leaf.clone());
        let energy = squares(&to_rows(input.clone().inner()), self.hidden);
        let logits = head.map.forward(input);
        let zeros = Tensor::<2>::zeros(logits.dims(), &self.device.clone().autodiff()).require_grad();
        let loss = token_losses(head.finish(logits + zeros.clone()), targets).sum();
        let value = to_rows(loss.clone().inner()).first().copied().unwrap_or(f32::NAN);
        stats.add(Of::Model, Quantity::Loss, vec![f64::from(value)])?;
        stats.add(Of::Model, Quantity::Predictions, vec![targets.len() as f64])?;
        let mut gradients = loss.backward();
        let missing = || CalibrateError::NoGradient(Name::Head.to_string());
        if self.needs.has(Need::Fisher) {
            let gradient = zeros.grad_remove(&mut gradients).ok_or_else(missing)?;
            let [_, vocab] = gradient.dims();
            let of = Of::Tensor(Name::Head);
            stats.add(of, Quantity::RowWeight, squares(&to_rows(gradient), vocab))?;
            stats.add(of, Quantity::ColumnWeight, energy)?;
        }
        Ok(to_rows(leaf.grad_remove(&mut gradients).ok_or_else(missing)?))
    }
}
