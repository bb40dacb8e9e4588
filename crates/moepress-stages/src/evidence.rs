//! What a decision is taken on.

use moepress_model::{ModelSpec, Part, Projection, Tensor};
use moepress_quant::formats::{Rung, half_power};
use moepress_quant::{Code, Format, Grouped};
use moepress_recipe::Coverage;
use moepress_stats::{
    LadderNeed, Ladders, Needs, Of, Quantity, RoundingCosts, RunLadder, Statistics, StatisticsError,
    salient_runs,
};

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
            costs.formats.insert((tensor, format), weights as f64 * rounding_error(format));
        }
    }
    if let Some(need) = &needs.ladders {
        costs.ladders = ladders(spec, need);
    }
    Ok((stats, costs))
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
        Format::Plain(_) => 0.0,
        Format::Grouped(Grouped { code: Code::Ternary, .. }) => 0.25f64.powf(1.58),
        Format::Grouped(grouped) => 0.25f64.powi(grouped.bits() as i32),
    }
}

impl Evidence<'_> {
    /// Tokens routed to every expert of a layer.
    pub(crate) fn tokens(&self, layer: usize) -> Result<&[f64], StatisticsError> {
        self.stats.get(Of::Layer(layer), Quantity::Tokens)
    }
}
