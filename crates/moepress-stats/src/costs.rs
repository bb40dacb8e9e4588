//! What rounding a tensor to a format is expected to cost.

use crate::ladders::Ladders;
use moepress_model::Tensor;
use moepress_quant::Format;
use std::collections::BTreeMap;

/// Predicted increase of the mean negative log-likelihood, in nats per token, for each tensor and format.
///
/// The model is a diagonal Fisher: rounding W by Δ costs ½ Σᵢⱼ Δᵢⱼ² rᵢ cⱼ / N with the row and column
/// weights r, c summed over the N tokens that pass through the map.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundingCosts {
    /// Of whole tensors.
    pub formats: BTreeMap<(Tensor, Format), f64>,
    /// Of tensors and runs of atoms on ever coarser grids.
    pub ladders: Ladders,
}

impl RoundingCosts {
    /// The cost of one choice, if it was measured.
    pub fn get(&self, tensor: Tensor, format: Format) -> Option<f64> {
        self.formats.get(&(tensor, format)).copied()
    }
}
