//! What the weights say by themselves.

use moepress_model::Tensor;
use std::collections::{BTreeMap, BTreeSet};

/// Something that is measured of weights alone, without any text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightNeed {
    /// Dot products of the weights of experts, per layer.
    Grams,
    /// The strongest outlier of every matrix.
    Outliers,
}

/// What was measured of weights alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightStatistics {
    /// By layer, ⟨Wᵢ, Wⱼ⟩ over all elements of gate, up and down of two experts, `[experts, experts]`.
    pub grams: BTreeMap<usize, Vec<f64>>,
    /// max over input columns c of max_r |W_rc| / mean_r |W_rc|; columns of zeros have no outliers
    /// (QuantMoE-Bench, arXiv 2406.08155).
    pub outliers: BTreeMap<Tensor, f64>,
}

/// Which of it stages ask for.
pub type WeightNeeds = BTreeSet<WeightNeed>;
