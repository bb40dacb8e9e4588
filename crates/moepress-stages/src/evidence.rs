//! What a decision is taken on.

use moepress_model::ModelSpec;
use moepress_quant::{Format, Grouped};
use moepress_recipe::Coverage;
use moepress_stats::{
    Need, Needs, Of, Quantity, RoundingCosts, Statistics, StatisticsError, WeightNeed, WeightStatistics,
};
use std::collections::BTreeMap;

/// A model and what was measured on it.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The model as the stages before left it.
    pub spec: &'a ModelSpec,
    /// Sums over calibration tokens.
    pub stats: &'a Statistics,
    /// Expected costs of rounding.
    pub costs: &'a RoundingCosts,
    /// What the weights say by themselves.
    pub weights: &'a WeightStatistics,
    /// Names of the calibration texts, in the order of sums by text.
    pub texts: &'a [String],
    /// What becomes of experts that too few tokens reached.
    pub coverage: Coverage,
}

/// What is assumed of a model before anything is measured.
#[derive(Clone, Debug, Default)]
pub struct Assumed {
    stats: Statistics,
    costs: RoundingCosts,
    weights: WeightStatistics,
}

impl Assumed {
    /// The evidence that a plan decides on. What is assumed reaches all experts alike: that says nothing of those
    /// that calibration will not reach.
    pub fn evidence<'a>(&'a self, spec: &'a ModelSpec, texts: &'a [String]) -> Evidence<'a> {
        Evidence { costs: &self.costs, weights: &self.weights, texts, ..Evidence::new(spec, &self.stats) }
    }
}

/// Statistics of a model whose experts and atoms are all alike. A plan decides on these: sizes come out as
/// they will, only the choice of experts and atoms does not.
///
/// # Errors
/// Never in practice: every vector is added once.
pub fn assumed(spec: &ModelSpec, needs: &Needs, texts: &[String]) -> Result<Assumed, StatisticsError> {
    let Assumed { mut stats, mut costs, mut weights } = Assumed::default();
    stats.add(Of::Model, Quantity::Tokens, vec![1.0])?;
    stats.add(Of::Model, Quantity::TextTokens, vec![1.0; texts.len()])?;
    for (layer, moe) in spec.moe_layers() {
        let (experts, rows) = (moe.experts.len(), moe.router.len());
        use Quantity::{GateNormSum, GateSum, NormSum, OutputMax, Tokens};
        for quantity in [Tokens, GateSum, NormSum, GateNormSum, OutputMax] {
            stats.add(Of::Layer(layer), quantity, vec![1.0; experts])?;
        }
        let by_text = texts.len() * experts;
        stats.add(Of::Layer(layer), Quantity::TextLogits, vec![1.0; by_text * moe.routing.top_k])?;
        stats.add(Of::Layer(layer), Quantity::TextGates, vec![1.0; by_text])?;
        stats.add(Of::Layer(layer), Quantity::Cosine, vec![1.0])?;
        stats.add(Of::Layer(layer), Quantity::RouterGram, vec![1.0; rows * rows])?;
        stats.add(Of::Layer(layer), Quantity::Coactivation, vec![1.0; experts * experts])?;
        for (expert, e) in moe.experts.iter().enumerate() {
            let of = Of::Expert(layer, expert);
            for quantity in [Quantity::AtomEnergy, Quantity::AtomGradient, Quantity::AtomCoupled] {
                stats.add(of, quantity, vec![1.0; e.width()])?;
            }
            if needs.has(Need::MeanOutputs) {
                stats.add(of, Quantity::AnyOutputSum, vec![1.0; spec.hidden])?;
            }
            if needs.has(Need::RoundedOutputs) {
                for &format in &needs.formats {
                    let of = Of::Rounded(layer, expert, format);
                    stats.add(of, Quantity::OutputError, vec![rounding_error(format)])?;
                }
            }
        }
        if needs.weights.contains(&WeightNeed::Grams) {
            weights.grams.insert(layer, vec![1.0; experts * experts]);
        }
    }
    let outliers = &mut weights.outliers;
    for tensor in spec.tensors() {
        let weights = spec.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>());
        for &format in &needs.formats {
            costs.0.insert((tensor, format), weights as f64 * rounding_error(format));
        }
        if needs.weights.contains(&WeightNeed::Outliers) {
            outliers.insert(tensor, 1.0);
        }
    }
    Ok(Assumed { stats, costs, weights })
}

/// Squared error of a weight of unit scale, roughly: a quarter per bit.
fn rounding_error(format: Format) -> f64 {
    match format {
        Format::Plain(_) => 0.0,
        Format::Grouped(Grouped { code: moepress_quant::Code::Ternary, .. }) => 0.25f64.powf(1.58),
        Format::Grouped(grouped) => 0.25f64.powi(grouped.bits() as i32),
    }
}

static NO_COSTS: RoundingCosts = RoundingCosts(BTreeMap::new());
static NO_WEIGHTS: WeightStatistics = WeightStatistics { grams: BTreeMap::new(), outliers: BTreeMap::new() };

impl<'a> Evidence<'a> {
    /// Nothing but these sums.
    pub fn new(spec: &'a ModelSpec, stats: &'a Statistics) -> Self {
        Self {
            spec,
            stats,
            costs: &NO_COSTS,
            weights: &NO_WEIGHTS,
            texts: &[],
            coverage: Coverage::default(),
        }
    }
}

impl Evidence<'_> {
    /// Tokens routed to every expert of a layer.
    pub(crate) fn tokens(&self, layer: usize) -> Result<&[f64], StatisticsError> {
        self.stats.get(Of::Layer(layer), Quantity::Tokens)
    }

    /// Atoms of an expert.
    pub(crate) fn width(&self, layer: usize, expert: usize) -> usize {
        let expert = self.spec.moe(layer).and_then(|moe| moe.experts.get(expert));
        expert.map_or(0, moepress_model::Expert::width)
    }
}
