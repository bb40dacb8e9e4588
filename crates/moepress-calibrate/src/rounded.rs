//! What rounding one expert does to what it adds to the hidden states.

use crate::CalibrateError;
use crate::activations::{Activations, Slot};
use crate::layer::Layer;
use crate::sweep::Sweep;
use moepress_nn::{Expert, Ignore, Mlp, from_rows, select_rows, to_rows};
use moepress_quant::Format;
use moepress_stats::{Of, Quantity, Statistics};

impl Sweep<'_> {
    /// Adds p² ‖E(x) − Ê(x)‖² of every expert for every format wanted: the squared error of the layer's output when
    /// that expert alone is rounded to nearest (MC-MoE, arXiv 2410.06270). The hidden states are those of the model
    /// as it is.
    pub(crate) fn rounded(
        &self,
        layer: &Layer<'_>,
        acts: &mut Activations,
        stats: &mut Statistics,
    ) -> Result<(), CalibrateError> {
        let (index, before) = (layer.index, Slot::Boundary(layer.index));
        let block = layer.core()?;
        let Mlp::Moe(experts) = &block.mlp else { return Ok(()) };
        for group in layer.groups_with(self.needs.formats.len()) {
            let plain = layer.experts(&group)?;
            let rounded = self
                .needs
                .formats
                .iter()
                .map(|&format| Ok((format, layer.rounded(&group, format)?)))
                .collect::<Result<Vec<(Format, Vec<(usize, Expert)>)>, CalibrateError>>()?;
            self.pass(acts, stats, &[], |acts, i, chunk| {
                let x = self.rows(acts.read(before, i)?, chunk);
                let attended = block.attend(x, chunk.batch, self.rotary(chunk), None, &mut Ignore);
                let normed = block.mlp_input(attended);
                let routed = experts.route(normed.clone());
                let gates = to_rows(routed.gates.clone());
                let mut stats = Statistics::default();
                for (place, (expert, original)) in plain.iter().enumerate() {
                    let chosen = &routed.tokens[*expert];
                    if chosen.is_empty() {
                        continue;
                    }
                    let x = select_rows(&normed, chosen);
                    let gate = |&token: &u32| gates[token as usize * experts.len() + expert];
                    let gates: Vec<f32> = chosen.iter().map(gate).collect();
                    let gates = from_rows(gates, [chosen.len(), 1], &self.device);
                    let wanted = original.forward(*expert, x.clone(), &mut Ignore);
                    for (format, rounded) in &rounded {
                        let found = rounded[place].1.forward(*expert, x.clone(), &mut Ignore);
                        let error = to_rows((found - wanted.clone()) * gates.clone());
                        let error: f64 = error.iter().map(|&e| f64::from(e) * f64::from(e)).sum();
                        stats.add(
                            Of::Rounded(index, *expert, *format),
                            Quantity::OutputError,
                            vec![error],
                        )?;
                    }
                }
                Ok((vec![], stats))
            })?;
        }
        Ok(())
    }
}
