//! What a decision is taken on.

use moepress_model::{ModelSpec, Part, Projection, Tensor};
use moepress_quant::formats::{Rung, half_power};
use moepress_quant::{Code, Format, Grouped};
use moepress_recipe::Coverage;
use moepress_stats::{
    LadderNeed, Ladders, Need, Needs, Of, Quantity, RoundingCosts, RunLadder, Statistics, StatisticsError,
    WeightNeed, WeightStatistics, salient_runs,
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
            costs.formats.insert((tensor, format), weights as f64 * rounding_error(format));
        }
        if needs.weights.contains(&WeightNeed::Outliers) {
            outliers.insert(tensor, 1.0);
        }
    }
    if let Some(need) = &needs.ladders {
        costs.ladders = ladders(spec, need);
    }
    Ok(Assumed { stats, costs, weights })
}

/// Ladders of weights that are normal and matter alike.
fn ladders(spec: &ModelSpec, need: &LadderNeed) -> Ladders {
    let wanted = |tensor: &Tensor| tensor.is_measured() && need.classes.contains(&tensor.class());
    let mut ladders = Ladders::default();
    for tensor in spec.tensors().into_iter().filter(wanted) {
        let Some(&[rows, cols]) = spec.shape(tensor).as_deref() else { continue };
        match tensor {
            Tensor::Layer(layer, Part::Expert { expert, projection: Projection::Gate, .. }) => {
                let width = spec.moe(layer).map_or(0, |moe| moe.experts[expert].width());
                let run = |atoms: Vec<usize>| RunLadder {
                    dropped: (3 * atoms.len() * spec.hidden) as f64,
                    rungs: [(); 3].map(|()| normal_rungs(atoms.len() * spec.hidden)),
                    atoms,
                };
                let runs = salient_runs(&vec![1.0; width], need.align);
                ladders.runs.insert((layer, expert), runs.into_iter().map(run).collect());
            }
            Tensor::Layer(_, Part::Expert { .. }) => {}
            _ => _ = ladders.matrices.insert(tensor, normal_rungs(rows * cols)),
        }
    }
    ladders
}

/// Rungs of normal weights: bits from the rate of a uniform quantizer with an entropy code, errors as of its steps.
fn normal_rungs(weights: usize) -> Vec<Rung> {
    let rung = |at: i32| {
        let step = half_power(at);
        let error = (f64::from(step).powi(2) / 12.0).min(1.0);
        let bits = (0.25 - 0.5 * error.log2()).max(0.05);
        let code = match step {
            step if step > 2.5 => Code::Ternary,
            step if step > 0.8 => Code::Int(3),
            step if step > 0.35 => Code::Int(4),
            _ => Code::Int(8),
        };
        let format = Grouped::new(code, Grouped::ROW, true);
        let bytes = (weights as f64 * bits / 8.0).ceil() as u64 + 16;
        Rung { format, step, bytes, cost: weights as f64 * error }
    };
    (-8..=4).map(rung).collect()
}

/// Squared error of a weight of unit scale, roughly: a quarter per bit.
fn rounding_error(format: Format) -> f64 {
    match format {
        // Nothing of low rank is rounded.
        Format::Plain(_) | Format::LowRank(_) => 0.0,
        Format::Grouped(Grouped { code: Code::Ternary, .. }) => 0.25f64.powf(1.58),
        Format::Grouped(grouped) => 0.25f64.powi(grouped.bits() as i32),
    }
}

static NO_COSTS: RoundingCosts = RoundingCosts {
    formats: BTreeMap::new(),
    ladders: Ladders { runs: BTreeMap::new(), mergers: BTreeMap::new(), matrices: BTreeMap::new() },
};
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
