//! Weights by their place in the model, wherever they come from.

use crate::{CheckpointError, RawTensor};
use moepress_model::{LayerWeights, ModelSpec, Tensor};
use moepress_quant::Stored;
use std::path::Path;

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
