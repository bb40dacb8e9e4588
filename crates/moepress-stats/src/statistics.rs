//! The container: named vectors of sums.

use moepress_model::Tensor;
use moepress_quant::Format;
use std::collections::BTreeMap;
use std::fmt;

/// What a vector of sums belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Of {
    /// The whole model.
    Model,
    /// A layer.
    Layer(usize),
    /// An expert of a layer.
    Expert(usize, usize),
    /// An expert of a layer whose matrices are rounded to nearest in a format.
    Rounded(usize, usize, Format),
    /// A weight.
    Tensor(Tensor),
}

/// What was summed. L is the negative log-likelihood summed over all predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quantity {
    /// Tokens seen: `[1]` of the model, `[experts]` routed to each expert of a layer.
    Tokens,
    /// Predictions scored, `[1]`.
    Predictions,
    /// L in nats, `[1]`.
    Loss,
    /// Gates p over the tokens routed to each expert, `[experts]`.
    GateSum,
    /// ‖E(x)‖₂ over routed tokens, `[experts]`.
    NormSum,
    /// p ‖E(x)‖₂ over routed tokens, `[experts]` (REAP, arXiv 2510.13999).
    GateNormSum,
    /// Largest |E(x)| in any channel over routed tokens, `[experts]`: no sum but a maximum (super experts,
    /// arXiv 2507.23279).
    OutputMax,
    /// zᵢ zⱼ of the router logits over all tokens, `[rows, rows]`.
    RouterGram,
    /// Tokens that are routed to both experts of a pair, `[experts, experts]`; on the diagonal those of each.
    Coactivation,
    /// E(x) over routed tokens, `[hidden]`.
    OutputSum,
    /// E(x) over all tokens, routed to the expert or not, `[hidden]` (HC-SMoE, arXiv 2410.08589).
    AnyOutputSum,
    /// Tokens of each calibration text, `[texts]`.
    TextTokens,
    /// Router logits of each text's tokens, each under the place it takes among the `top_k` largest of its token,
    /// `[texts, top_k, experts]` (PreMoe, arXiv 2505.17639).
    TextLogits,
    /// Gates p of each text's tokens, `[texts, experts]`.
    TextGates,
    /// cos(x, y) of the hidden states before and after the experts of a layer over all tokens, `[1]`
    /// (QuantMoE-Bench, arXiv 2406.08155).
    Cosine,
    /// p² ‖E(x) − Ê(x)‖² over routed tokens, Ê being rounded, `[1]` (MC-MoE, arXiv 2410.06270).
    OutputError,
    /// Tokens that are routed to expert i in the layer with experts before and to expert j in this one,
    /// `[experts before, experts]` (ExFlow, arXiv 2401.08383).
    Affinity,
    /// How many times experts are used in runs of consecutive tokens: for every length of run m, runs and experts with
    /// c uses, `[m + 1]`, one after the other (moe-lrc, arXiv 2505.16056).
    RunUses,
    /// For every length of run, uses of experts that caches of s experts and more have and those of fewer have not,
    /// `[lengths, experts]`.
    CacheHits,
    /// h² per atom over routed tokens, `[atoms]`.
    AtomEnergy,
    /// (∂L/∂h)² per atom over routed tokens, `[atoms]`.
    AtomGradient,
    /// (h · ∂L/∂h)² per atom over routed tokens, `[atoms]`.
    AtomCoupled,
    /// x² per input channel of a linear map, `[in]`; of the embedding: (∂L/∂x)² per hidden channel.
    ColumnWeight,
    /// (∂L/∂z)² per output channel of a linear map, `[out]`; of the embedding: uses of every token.
    RowWeight,
}

impl Quantity {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::Tokens,
        Self::Predictions,
        Self::Loss,
        Self::GateSum,
        Self::NormSum,
        Self::GateNormSum,
        Self::OutputMax,
        Self::RouterGram,
        Self::Coactivation,
        Self::OutputSum,
        Self::AnyOutputSum,
        Self::TextTokens,
        Self::TextLogits,
        Self::TextGates,
        Self::Cosine,
        Self::OutputError,
        Self::Affinity,
        Self::RunUses,
        Self::CacheHits,
        Self::AtomEnergy,
        Self::AtomGradient,
        Self::AtomCoupled,
        Self::ColumnWeight,
        Self::RowWeight,
    ];

    /// The name in statistics files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Predictions => "predictions",
            Self::Loss => "loss",
            Self::GateSum => "gate_sum",
            Self::NormSum => "norm_sum",
            Self::GateNormSum => "gate_norm_sum",
            Self::OutputMax => "output_max",
            Self::RouterGram => "router_gram",
            Self::Coactivation => "coactivation",
            Self::OutputSum => "output_sum",
            Self::AnyOutputSum => "any_output_sum",
            Self::TextTokens => "text_tokens",
            Self::TextLogits => "text_logits",
            Self::TextGates => "text_gates",
            Self::Cosine => "cosine",
            Self::OutputError => "output_error",
            Self::Affinity => "affinity",
            Self::RunUses => "run_uses",
            Self::CacheHits => "cache_hits",
            Self::AtomEnergy => "atom_energy",
            Self::AtomGradient => "atom_gradient",
            Self::AtomCoupled => "atom_coupled",
            Self::ColumnWeight => "column_weight",
            Self::RowWeight => "row_weight",
        }
    }

    /// What two parts of the calibration come to together.
    fn join(self, a: f64, b: f64) -> f64 {
        match self {
            // A number that is none stays that, whichever side it is on.
            Self::OutputMax if b.is_nan() || b > a => b,
            Self::OutputMax => a,
            _ => a + b,
        }
    }
}

/// The name of one vector of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it belongs to.
    pub of: Of,
    /// What was summed.
    pub quantity: Quantity,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of {
            Of::Model => write!(f, "model.{}", self.quantity.name()),
            Of::Layer(layer) => write!(f, "model.layers.{layer}.{}", self.quantity.name()),
            Of::Expert(layer, expert) => {
                write!(f, "model.layers.{layer}.mlp.experts.{expert}.{}", self.quantity.name())
            }
            Of::Rounded(layer, expert, format) => {
                write!(f, "model.layers.{layer}.mlp.experts.{expert}.{format}.{}", self.quantity.name())
            }
            Of::Tensor(tensor) => write!(f, "{tensor}.{}", self.quantity.name()),
        }
    }
}

/// A statistic that is missing or cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatisticsError {
    /// A decision asked for something its stage did not declare.
    #[error("statistic {0} was not measured")]
    Missing(String),
    /// An overflow, or a NaN from the weights.
    #[error(
        "statistic {0}: element {1} is not finite; check the weights of that layer for NaN, infinite or huge values"
    )]
    NotFinite(String, usize),
    /// Two statistics of different models.
    #[error("statistic {0} has {1} elements in one part and {2} in the other")]
    Length(String, usize, usize),
    /// A name that no statistic has.
    #[error("`{0}` is the name of no statistic")]
    Name(String),
    /// A negative sum of squares, a count that is not whole, or no number.
    #[error("statistic {0}: element {1} is {2}, which such a sum cannot be")]
    Value(String, usize, String),
    /// A statistic of something the model does not have.
    #[error("statistic {0} is of something this model does not have")]
    NotInModel(String),
    /// A statistic of another model.
    #[error("statistic {0} has {1} elements, in this model it has {2}")]
    Misfit(String, usize, usize),
}

/// Sums over tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    pub(crate) sums: BTreeMap<Key, Vec<f64>>,
}

impl Statistics {
    /// Adds `values` to the vector of that name, which starts at zero; a maximum takes the larger.
    ///
    /// # Errors
    /// The vector exists with another length.
    pub fn add(&mut self, of: Of, quantity: Quantity, values: Vec<f64>) -> Result<(), StatisticsError> {
        let key = Key { of, quantity };
        match self.sums.get_mut(&key) {
            None => {
                self.sums.insert(key, values);
            }
            Some(sums) if sums.len() == values.len() => {
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = quantity.join(*sum, value));
            }
            Some(sums) => return Err(StatisticsError::Length(key.to_string(), sums.len(), values.len())),
        }
        Ok(())
    }

    /// Adds another part of the calibration.
    ///
    /// # Errors
    /// The parts are of different models.
    pub fn merge(&mut self, other: Self) -> Result<(), StatisticsError> {
        other.sums.into_iter().try_for_each(|(key, values)| self.add(key.of, key.quantity, values))
    }

    /// The vector of that name.
    ///
    /// # Errors
    /// It was not measured.
    pub fn get(&self, of: Of, quantity: Quantity) -> Result<&[f64], StatisticsError> {
        let key = Key { of, quantity };
        self.sums.get(&key).map(Vec::as_slice).ok_or_else(|| StatisticsError::Missing(key.to_string()))
    }

    /// The only element of a vector of one.
    ///
    /// # Errors
    /// It was not measured.
    pub fn scalar(&self, of: Of, quantity: Quantity) -> Result<f64, StatisticsError> {
        let missing = || StatisticsError::Missing(Key { of, quantity }.to_string());
        self.get(of, quantity)?.first().copied().ok_or_else(missing)
    }

    /// All vectors in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &[f64])> {
        self.sums.iter().map(|(key, values)| (*key, values.as_slice()))
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Checks that every sum is finite.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_finite(&self) -> Result<(), StatisticsError> {
        for (key, values) in &self.sums {
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                return Err(StatisticsError::NotFinite(key.to_string(), index));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maxima_are_the_larger() {
        let joined = |values: &[f64]| {
            let mut stats = Statistics::default();
            for &value in values {
                stats.add(Of::Layer(0), Quantity::OutputMax, vec![value]).unwrap();
            }
            stats.scalar(Of::Layer(0), Quantity::OutputMax).unwrap()
        };
        assert_eq!((joined(&[1.0, 3.0, 2.0]), joined(&[3.0, 1.0])), (3.0, 3.0));
        assert!(joined(&[1.0, f64::NAN, 2.0]).is_nan() && joined(&[f64::NAN, 1.0]).is_nan());
    }

    #[test]
    fn parts_add_up() {
        let part = |x: f64| {
            let mut part = Statistics::default();
            part.add(Of::Layer(0), Quantity::Tokens, vec![x, 2.0 * x]).unwrap();
            part
        };
        let mut whole = part(1.0);
        whole.merge(part(2.0)).unwrap();
        assert_eq!(whole, part(3.0));
        assert!(whole.add(Of::Layer(0), Quantity::Tokens, vec![0.0]).is_err());
        assert!(whole.get(Of::Model, Quantity::Loss).is_err());
        whole.add(Of::Layer(0), Quantity::Tokens, vec![0.0, f64::NAN]).unwrap();
        assert_eq!(
            whole.check_finite().unwrap_err().to_string(),
            "statistic model.layers.0.tokens: element 1 is not finite; check the weights of that layer for NaN, infinite or huge values"
        );
    }
}
