//! The backward half of a sweep: recompute a layer, then pull the gradient of its output back to its input.
//!
//! The graph is cut at every expert: an expert is differentiated by itself on the tokens routed to it, so
//! only one expert's activations are alive at a time.

use crate::CalibrateError;
use crate::activations::{Activations, Slot};
use crate::chunk::Chunk;
use crate::gradients::GradientProbe;
use crate::layer::Layer;
use crate::sweep::Sweep;
use moepress_nn::{
    Block, Expert, Experts, Ignore, Mlp, Routed, Tensor, add_rows, dense_mlp, from_rows, select_rows, to_rows,
};
use moepress_stats::{Need, Of, Quantity, Statistics};

/// Gradients in the input of the experts `[tokens, hidden]` and in their gates `[tokens, experts]`.
struct Pulled {
    input: Tensor<2>,
    gates: Vec<f32>,
}

impl Sweep<'_> {
    /// All chunks back through one layer: the gradients in its input, and what its probes saw.
    pub(crate) fn backward(
        &self,
        layer: &mut Layer<'_>,
        acts: &mut Activations,
        stats: &mut Statistics,
    ) -> Result<(), CalibrateError> {
        let index = layer.index;
        let (before, out, into) = (Slot::Boundary(index), Slot::Gradient(index + 1), Slot::Gradient(index));
        if layer.at_once() {
            let block = layer.block()?;
            return self.pass(acts, stats, &[into], |acts, i, chunk| {
                let out = self.rows(acts.read(out, i)?, chunk);
                let x = self.rows(acts.read(before, i)?, chunk);
                let mut stats = Statistics::default();
                let pull = |experts: &Experts,
                            input: &Tensor<2>,
                            routed: &Routed,
                            out: &Tensor<2>,
                            stats: &mut _| {
                    let zero = self.nothing(input, experts.len());
                    self.count(index, routed, stats)?;
                    self.experts(index, experts.loaded(), input, routed, out, zero, stats)
                };
                let gradient = self.attention(&block, index, chunk, x, out, pull, &mut stats)?;
                Ok((vec![gradient], stats))
            });
        }
        let block = layer.core()?;
        let Mlp::Moe(experts) = &block.mlp else { return Ok(()) };
        self.pass(acts, stats, &[Slot::Attended], |acts, i, chunk| {
            // On the device of gradients although none is wanted: its operations round differently.
            let x = self.rows(acts.read(before, i)?, chunk).autodiff();
            let attended = block.attend(x, chunk.batch, self.rotary(chunk), None, &mut Ignore);
            Ok((vec![to_rows(attended.inner())], Statistics::default()))
        })?;
        let groups = layer.groups();
        for (turn, group) in groups.iter().enumerate() {
            let loaded = layer.experts(group)?;
            let (from, to) = (turn % 2 == 1, turn % 2 == 0);
            self.pass(acts, stats, &[Slot::ExpertInput(to), Slot::Gates(to)], |acts, i, chunk| {
                let attended = self.rows(acts.read(Slot::Attended, i)?, chunk).autodiff();
                let input = block.mlp_input(attended);
                let routed = experts.route(input.clone());
                let input = input.inner();
                let out = self.rows(acts.read(out, i)?, chunk).mul_scalar(block.residual);
                let pulled = match turn {
                    0 => self.nothing(&input, experts.len()),
                    _ => Pulled {
                        input: self.rows(acts.read(Slot::ExpertInput(from), i)?, chunk),
                        gates: acts.read(Slot::Gates(from), i)?,
                    },
                };
                let mut stats = Statistics::default();
                let these = loaded.iter().map(|(expert, loaded)| (*expert, loaded));
                let pulled = self.experts(index, these, &input, &routed, &out, pulled, &mut stats)?;
                Ok((vec![to_rows(pulled.input), pulled.gates], stats))
            })?;
            acts.drop(Slot::ExpertInput(from))?;
            acts.drop(Slot::Gates(from))?;
        }
        acts.drop(Slot::Attended)?;
        let last = groups.len() % 2 == 1;
        self.pass(acts, stats, &[into], |acts, i, chunk| {
            let out = self.rows(acts.read(out, i)?, chunk);
            let x = self.rows(acts.read(before, i)?, chunk);
            let pulled = Pulled {
                input: self.rows(acts.read(Slot::ExpertInput(last), i)?, chunk),
                gates: acts.read(Slot::Gates(last), i)?,
            };
            let mut stats = Statistics::default();
            let pull =
                |_: &Experts, _: &Tensor<2>, routed: &Routed, _: &Tensor<2>, stats: &mut Statistics| {
                    self.count(index, routed, stats)?;
                    Ok(pulled)
                };
            let gradient = self.attention(&block, index, chunk, x, out, pull, &mut stats)?;
            Ok((vec![gradient], stats))
        })?;
        acts.drop(Slot::ExpertInput(last))?;
        acts.drop(Slot::Gates(last))
    }

    /// From the input of a layer and the gradient of its output to the gradient of its input. `pull` differentiates
    /// the experts.
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        block: &Block,
        layer: usize,
        chunk: &Chunk,
        x: Tensor<2>,
        out: Tensor<2>,
        pull: impl FnOnce(
            &Experts,
            &Tensor<2>,
            &Routed,
            &Tensor<2>,
            &mut Statistics,
        ) -> Result<Pulled, CalibrateError>,
        stats: &mut Statistics,
    ) -> Result<Vec<f32>, CalibrateError> {
        let leaf = x.autodiff().require_grad();
        let mut probe = GradientProbe::new(layer, &self.needs);
        let attended = block.attend(leaf.clone(), chunk.batch, self.rotary(chunk), None, &mut probe);
        let input = block.mlp_input(attended.clone());
        let mlp_out = out.clone().mul_scalar(block.residual);
        let through = match &block.mlp {
            Mlp::Dense(gated) => (dense_mlp(gated, input, &mut probe) * mlp_out).sum(),
            Mlp::Moe(experts) => {
                let routed = experts.route(input.clone());
                let pulled = pull(experts, &input.clone().inner(), &routed, &mlp_out, stats)?;
                let gates = from_rows(pulled.gates, [chunk.tokens(), experts.len()], &self.device);
                let through = (input.clone() * pulled.input).sum() + (routed.gates * gates).sum();
                match experts.shared(input, &mut probe) {
                    Some(shared) => through + (shared * mlp_out).sum(),
                    None => through,
                }
            }
        };
        let mut gradients = (through + (attended * out).sum()).backward();
        let missing = || CalibrateError::NoGradient(format!("the input of layer {layer}"));
        let gradient = to_rows(leaf.grad_remove(&mut gradients).ok_or_else(missing)?);
        probe.finish(stats, |leaf| leaf.grad_remove(&mut gradients))?;
        Ok(gradient)
    }

    fn nothing(&self, input: &Tensor<2>, experts: usize) -> Pulled {
        Pulled { input: input.zeros_like(), gates: vec![0.0; input.dims()[0] * experts] }
    }

    /// Tokens per expert, where no probe of the forward half counts them.
    fn count(&self, layer: usize, routed: &Routed, stats: &mut Statistics) -> Result<(), CalibrateError> {
        if !self.needs.has(Need::Routing) {
            let counts = routed.tokens.iter().map(|chosen| chosen.len() as f64).collect();
            stats.add(Of::Layer(layer), Quantity::Tokens, counts)?;
        }
        Ok(())
    }

    /// Differentiates experts one by one and adds what comes out to `pulled`.
    #[allow(clippy::too_many_arguments)]
    fn experts<'a>(
        &self,
        layer: usize,
        experts: impl IntoIterator<Item = (usize, &'a Expert)>,
        input: &Tensor<2>,
        routed: &Routed,
        out: &Tensor<2>,
        mut pulled: Pulled,
        stats: &mut Statistics,
    ) -> Result<Pulled, CalibrateError> {
        let count = routed.tokens.len();
        let gates = to_rows(routed.gates.clone().inner());
        for (index, expert) in experts {
            let chosen = &routed.tokens[index];
            if chosen.is_empty() {
                continue;
            }
            let x = select_rows(input, chosen).autodiff().require_grad();
            let gate: Vec<f32> = chosen.iter().map(|&t| gates[t as usize * count + index]).collect();
            let gate = from_rows(gate, [chosen.len(), 1], &self.device).autodiff().require_grad();
            let mut probe = GradientProbe::new(layer, &self.needs);
            let y = expert.forward(index, x.clone(), &mut probe);
            let mut gradients = (y * gate.clone() * select_rows(out, chosen)).sum().backward();
            // None for an expert without atoms, whose output does not depend on its input.
            if let Some(gradient) = x.grad_remove(&mut gradients) {
                pulled.input = add_rows(pulled.input, chosen, gradient);
            }
            if let Some(gradient) = gate.grad_remove(&mut gradients) {
                for (&token, value) in chosen.iter().zip(to_rows(gradient)) {
                    pulled.gates[token as usize * count + index] = value;
                }
            }
            probe.finish(stats, |leaf| leaf.grad_remove(&mut gradients))?;
        }
        Ok(pulled)
    }
}
