//! The container: named vectors of sums.

use moepress_model::Tensor;
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
    /// zᵢ zⱼ of the router logits over all tokens, `[rows, rows]`.
    RouterGram,
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
    pub const ALL: [Self; 12] = [
        Self::Tokens,
        Self::Predictions,
        Self::Loss,
        Self::GateSum,
        Self::NormSum,
        Self::GateNormSum,
        Self::RouterGram,
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
            Self::RouterGram => "router_gram",
            Self::AtomEnergy => "atom_energy",
            Self::AtomGradient => "atom_gradient",
            Self::AtomCoupled => "atom_coupled",
            Self::ColumnWeight => "column_weight",
            Self::RowWeight => "row_weight",
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
    /// Adds `values` to the vector of that name, which starts at zero.
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
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
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
