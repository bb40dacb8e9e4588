//! The backward half of a sweep: recompute a layer, then pull the gradient of its output back to its input.
//!
//! The graph is cut at every expert: an expert is differentiated by itself on the tokens routed to it, so
//! only one expert's activations are alive at a time.

use crate::CalibrateError;
use crate::gradients::GradientProbe;
use crate::sweep::{Chunk, Sweep};
use moepress_model::Tensor as Name;
use moepress_nn::{Block, Ends, Experts, Mlp, Routed, Tensor, dense_mlp};
use moepress_nn::{add_rows, from_rows, select_rows, to_rows, token_losses};
use moepress_stats::{Need, Of, Quantity, Statistics};

impl Sweep<'_> {
    /// The loss of a chunk from the hidden states after the last layer, and its gradient in them.
    pub(crate) fn loss(
        &self,
        ends: &Ends,
        chunk: &Chunk,
        hidden: Vec<f32>,
    ) -> Result<(Vec<f32>, Statistics), CalibrateError> {
        let mut stats = Statistics::default();
        let plain = from_rows(hidden, [chunk.tokens(), self.hidden], &self.device);
        let predicting = chunk.predicting();
        let leaf = plain.autodiff().require_grad();
        let input = ends.normed(select_rows(&leaf, &predicting.rows));
        let energy = crate::sums::squares(&to_rows(input.clone().inner()), self.hidden);
        let logits = ends.head.forward(input);
        let zeros = Tensor::<2>::zeros(logits.dims(), &self.device.clone().autodiff()).require_grad();
        let logits = ends.finish(logits + zeros.clone());
        let loss = token_losses(logits, &predicting.targets).sum();
        let value = to_rows(loss.clone().inner()).first().copied().unwrap_or(f32::NAN);
        stats.add(Of::Model, Quantity::Loss, vec![f64::from(value)])?;
        stats.add(Of::Model, Quantity::Predictions, vec![predicting.rows.len() as f64])?;
        let mut gradients = loss.backward();
        let missing = || CalibrateError::NoGradient(Name::Head.to_string());
        if self.needs.has(Need::Fisher) {
            let gradient = zeros.grad_remove(&mut gradients).ok_or_else(missing)?;
            let [_, vocab] = gradient.dims();
            let of = Of::Tensor(Name::Head);
            stats.add(of, Quantity::RowWeight, crate::sums::squares(&to_rows(gradient), vocab))?;
            stats.add(of, Quantity::ColumnWeight, energy)?;
        }
        let input_gradient = leaf.grad_remove(&mut gradients).ok_or_else(missing)?;
        Ok((to_rows(input_gradient), stats))
    }

    /// From the input of a layer and the gradient of its output: the gradient of its input, and what the
    /// layer's probe saw.
    pub(crate) fn backward(
        &self,
        block: &Block,
        layer: usize,
        chunk: &Chunk,
        hidden: &[f32],
        gradient: Vec<f32>,
    ) -> Result<(Vec<f32>, Statistics), CalibrateError> {
        let mut stats = Statistics::default();
        let shape = [chunk.tokens(), self.hidden];
        let out = from_rows(gradient, shape, &self.device);
        let leaf = from_rows(hidden.to_vec(), shape, &self.device).autodiff().require_grad();
        let mut probe = GradientProbe::new(layer, self.needs);
        let attended = block.attend(leaf.clone(), chunk.batch, &self.rotary, None, &mut probe);
        let input = block.mlp_input(attended.clone());
        let mlp_out = out.clone().mul_scalar(block.residual);
        let through = match &block.mlp {
            Mlp::Dense(gated) => (dense_mlp(gated, input, &mut probe) * mlp_out).sum(),
            Mlp::Moe(experts) => {
                let routed = experts.route(input.clone());
                let (d_input, d_gates) =
                    self.experts(experts, layer, &input.clone().inner(), &routed, &mlp_out, &mut stats)?;
                let through = (input.clone() * d_input).sum() + (routed.gates * d_gates).sum();
                match experts.shared(input, &mut probe) {
                    Some(shared) => through + (shared * mlp_out).sum(),
                    None => through,
                }
            }
        };
        let mut gradients = (through + (attended * out).sum()).backward();
        let missing = || CalibrateError::NoGradient(format!("the input of layer {layer}"));
        let input_gradient = to_rows(leaf.grad_remove(&mut gradients).ok_or_else(missing)?);
        probe.finish(&mut stats, |leaf| leaf.grad_remove(&mut gradients))?;
        Ok((input_gradient, stats))
    }

    /// Differentiates every expert by itself; returns the gradients in the MLP's input and in the gates.
    fn experts(
        &self,
        experts: &Experts,
        layer: usize,
        input: &Tensor<2>,
        routed: &Routed,
        out: &Tensor<2>,
        stats: &mut Statistics,
    ) -> Result<(Tensor<2>, Tensor<2>), CalibrateError> {
        let [tokens, _] = input.dims();
        let count = experts.len();
        let gates = to_rows(routed.gates.clone().inner());
        let mut d_input = Tensor::<2>::zeros(input.dims(), &self.device);
        let mut d_gates = vec![0.0; tokens * count];
        for (expert, chosen) in routed.tokens.iter().enumerate().filter(|(_, chosen)| !chosen.is_empty()) {
            let x = select_rows(input, chosen).autodiff().require_grad();
            let gate: Vec<f32> = chosen.iter().map(|&t| gates[t as usize * count + expert]).collect();
            let gate = from_rows(gate, [chosen.len(), 1], &self.device).autodiff().require_grad();
            let mut probe = GradientProbe::new(layer, self.needs);
            let y = experts.expert(expert, x.clone(), &mut probe);
            let mut gradients = (y * gate.clone() * select_rows(out, chosen)).sum().backward();
            // None for an expert without atoms, whose output does not depend on its input.
            if let Some(gradient) = x.grad_remove(&mut gradients) {
                d_input = add_rows(d_input, chosen, gradient);
            }
            if let Some(gradient) = gate.grad_remove(&mut gradients) {
                for (&token, value) in chosen.iter().zip(to_rows(gradient)) {
                    d_gates[token as usize * count + expert] = value;
                }
            }
            probe.finish(stats, |leaf| leaf.grad_remove(&mut gradients))?;
        }
        let counts = routed.tokens.iter().map(|chosen| chosen.len() as f64).collect();
        if !self.needs.has(Need::Routing) {
            stats.add(Of::Layer(layer), Quantity::Tokens, counts)?;
        }
        Ok((d_input, from_rows(d_gates, [tokens, count], &self.device)))
    }
}
