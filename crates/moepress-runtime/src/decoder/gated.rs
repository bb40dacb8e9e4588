//! Gated MLPs: down(activation(gate x, up x)).

use super::Map;
use crate::RuntimeError;
use moepress_kernels::{Activations, Precision, clamped_swiglu, matmuls, silu_times};
use moepress_model::Activation;
use moepress_quant::Stored;
use rayon::prelude::*;
use std::sync::Arc;

/// Atoms below which threads cost more than they save.
const SMALL: usize = 1 << 14;

/// A gated MLP: a segment of an expert, or a dense one.
pub(crate) struct Gated {
    pub(crate) gate: Map,
    pub(crate) up: Map,
    pub(crate) down: Map,
    pub(crate) activation: Activation,
}

/// A routed expert: the sum of its segments.
pub(crate) struct Expert {
    pub(crate) segments: Vec<Gated>,
    /// Added to the sum.
    pub(crate) bias: Option<Vec<f32>>,
}

impl Expert {
    /// Its matrices, those that nobody else holds.
    pub(crate) fn into_weights(self) -> impl Iterator<Item = Stored> {
        let maps = self.segments.into_iter().flat_map(|Gated { gate, up, down, .. }| [gate, up, down]);
        maps.filter_map(|map| Arc::into_inner(map.weight))
    }
}

impl Gated {
    fn activate(&self, gate: &mut [f32], up: &mut [f32]) {
        self.gate.add_bias(gate);
        self.up.add_bias(up);
        match self.activation {
            Activation::Silu => silu_times(gate, up),
            Activation::ClampedSwiglu { alpha, limit } => {
                clamped_swiglu(gate, up, alpha as f32, limit as f32)
            }
        }
    }
}

/// Each MLP on its inputs, `[n, hidden]` → the same shape: two rounds of products, over all of them at once.
pub(crate) fn forward(
    mlps: &[(&Activations<'_>, &Gated)],
    precision: Precision,
) -> Result<Vec<Vec<f32>>, RuntimeError> {
    let products: Vec<_> =
        mlps.iter().flat_map(|(x, mlp)| [(*x, &*mlp.gate.weight), (*x, &*mlp.up.weight)]).collect();
    let mut outputs = matmuls(&products)?;
    let activate = |(pair, (_, mlp)): (&mut [Vec<f32>], &(&Activations<'_>, &Gated))| {
        if let [gate, up] = pair {
            mlp.activate(gate, up);
        }
    };
    match outputs.iter().map(Vec::len).sum::<usize>() < 2 * SMALL {
        true => outputs.chunks_exact_mut(2).zip(mlps).for_each(activate),
        false => outputs.par_chunks_exact_mut(2).zip(mlps).for_each(activate),
    }
    let atoms: Vec<_> = outputs
        .iter()
        .step_by(2)
        .zip(mlps)
        .map(|(atoms, (x, _))| Activations::new(atoms, x.len(), precision))
        .collect();
    let products: Vec<_> =
        atoms.iter().zip(mlps).map(|(atoms, (_, mlp))| (atoms, &*mlp.down.weight)).collect();
    let mut outputs = matmuls(&products)?;
    outputs.iter_mut().zip(mlps).for_each(|(y, (_, mlp))| mlp.down.add_bias(y));
    Ok(outputs)
}
