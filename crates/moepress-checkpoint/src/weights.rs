//! Weights by their place in the model, wherever they come from.

use crate::{CheckpointError, RawTensor};
use moepress_model::{LayerWeights, ModelSpec, Part, Tensor};
use moepress_quant::Stored;
use std::path::Path;

/// Some of the tensors of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// Everything but the routed experts.
    Core,
    /// These routed experts, ascending.
    Experts(Vec<usize>),
}

impl Share {
    /// Whether a part belongs to it.
    pub fn holds(&self, part: Part) -> bool {
        match (self, part.expert()) {
            (Self::Core, expert) => expert.is_none(),
            (Self::Experts(_), None) => false,
            (Self::Experts(experts), Some(expert)) => experts.binary_search(&expert).is_ok(),
        }
    }
}

/// Something that has the weights of a model: a checkpoint, or one with edits applied on the way.
pub trait Source: Sync {
    /// The model that the weights belong to.
    fn spec(&self) -> &ModelSpec;

    /// A tensor outside the layers, in the shape that [`Self::spec`] says.
    ///
    /// # Errors
    /// It cannot be read, or its values are not usable.
    fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError>;

    /// All tensors of a layer, in the shapes that [`Self::spec`] says.
    ///
    /// # Errors
    /// One of them cannot be read, or its values are not usable.
    fn layer(&self, layer: usize) -> Result<LayerWeights, CheckpointError>;

    /// Some of the tensors of a layer, so that not all of them have to be held at a time.
    ///
    /// # Errors
    /// As [`Self::layer`].
    fn share(&self, layer: usize, share: &Share) -> Result<LayerWeights, CheckpointError> {
        let mut weights = self.layer(layer)?;
        weights.retain(|part, _| share.holds(*part));
        Ok(weights)
    }

    /// From now on weights are read here and there, so that nothing beyond them is worth reading.
    fn scattered(&self) {}

    /// Memory of weights that are no longer needed, for what is read next.
    fn reuse(&self, _weights: Stored) {}

    /// A tensor that is carried along, as it is stored; `name` is a key of [`ModelSpec::carried`]. Sources of
    /// models that carry nothing need not say how.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be read.
    fn carried(&self, name: &str) -> Result<RawTensor, CheckpointError> {
        Err(CheckpointError::bad_input(
            Path::new("model"),
            &format!("tensor {name:?}"),
            "is not carried along",
        ))
    }
}
