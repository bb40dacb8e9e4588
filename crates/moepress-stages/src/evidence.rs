//! What a decision is taken on.

use moepress_model::ModelSpec;
use moepress_quant::{Format, Grouped};
use moepress_recipe::Coverage;
use moepress_stats::{Needs, Of, Quantity, RoundingCosts, Statistics, StatisticsError};

/// A model and what was measured on it.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The model as the stages before left it.
    pub spec: &'a ModelSpec,
    /// Sums over calibration tokens.
    pub stats: &'a Statistics,
    /// Expected costs of rounding.
    pub costs: &'a RoundingCosts,
    /// What becomes of experts that too few tokens reached.
    pub coverage: Coverage,
}

/// Statistics of a model whose experts and atoms are all alike. A plan decides on these: sizes come out as
/// they will, only the choice of experts and atoms does not.
///
/// # Errors
/// Never in practice: every vector is added once.
pub fn assumed(spec: &ModelSpec, needs: &Needs) -> Result<(Statistics, RoundingCosts), StatisticsError> {
    let mut stats = Statistics::default();
    stats.add(Of::Model, Quantity::Tokens, vec![1.0])?;
    for (layer, moe) in spec.moe_layers() {
        let (experts, rows) = (moe.experts.len(), moe.router.len());
        for quantity in [Quantity::Tokens, Quantity::GateSum, Quantity::NormSum, Quantity::GateNormSum] {
            stats.add(Of::Layer(layer), quantity, vec![1.0; experts])?;
        }
        stats.add(Of::Layer(layer), Quantity::RouterGram, vec![1.0; rows * rows])?;
        stats.add(Of::Layer(layer), Quantity::Coactivation, vec![1.0; experts * experts])?;
        for (expert, e) in moe.experts.iter().enumerate() {
            for quantity in [Quantity::AtomEnergy, Quantity::AtomGradient, Quantity::AtomCoupled] {
                stats.add(Of::Expert(layer, expert), quantity, vec![1.0; e.width()])?;
            }
        }
    }
    let mut costs = RoundingCosts::default();
    for tensor in spec.tensors() {
        let weights = spec.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>());
        for &format in &needs.formats {
            costs.0.insert((tensor, format), weights as f64 * rounding_error(format));
        }
    }
    Ok((stats, costs))
}

/// Squared error of a weight of unit scale, roughly: a quarter per bit.
fn rounding_error(format: Format) -> f64 {
    match format {
        Format::Plain(_) => 0.0,
        Format::Grouped(Grouped { code: moepress_quant::Code::Ternary, .. }) => 0.25f64.powf(1.58),
        Format::Grouped(grouped) => 0.25f64.powi(grouped.bits() as i32),
    }
}

impl Evidence<'_> {
    /// Tokens routed to every expert of a layer.
    pub(crate) fn tokens(&self, layer: usize) -> Result<&[f64], StatisticsError> {
        self.stats.get(Of::Layer(layer), Quantity::Tokens)
    }
}
