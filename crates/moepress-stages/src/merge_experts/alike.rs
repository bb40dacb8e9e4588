//! What makes experts alike: `grouping: router_logits | outputs | weights`.

use crate::evidence::Evidence;
use moepress_recipe::{Params, RecipeError};
use moepress_stats::{Need, Needs, Of, Quantity, StatisticsError, WeightNeed};

/// Every expert as a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alike {
    /// Its router logits over all tokens (M-SMoE, arXiv 2310.01334).
    RouterLogits,
    /// Its mean output over all tokens, routed to it or not (HC-SMoE, arXiv 2410.08589).
    Outputs,
    /// All its weights, in the order in which they lie: an expert with shuffled atoms is another vector.
    Weights,
}

const WORDS: [(&str, Alike); 3] =
    [("router_logits", Alike::RouterLogits), ("outputs", Alike::Outputs), ("weights", Alike::Weights)];

impl Alike {
    pub(super) fn read(params: &Params, default: &str) -> Result<Self, RecipeError> {
        let word = params.word("grouping", Some(default), &WORDS.map(|(word, _)| word))?;
        Ok(WORDS.iter().find(|(known, _)| *known == word).map_or(Self::RouterLogits, |(_, alike)| *alike))
    }

    pub(super) fn word(self) -> &'static str {
        WORDS.iter().find(|(_, alike)| *alike == self).map_or("", |(word, _)| word)
    }

    /// Besides routing, which tells how much every expert is used.
    pub(super) fn needs(self) -> Needs {
        match self {
            Self::RouterLogits => Needs::of([Need::Routing]),
            Self::Outputs => Needs::of([Need::Routing, Need::MeanOutputs]),
            Self::Weights => Needs::of([Need::Routing]).and_weights(WeightNeed::Grams),
        }
    }

    /// Dot products of the vectors of the experts of a layer, `[experts, experts]`.
    pub(super) fn gram(self, evidence: &Evidence<'_>, layer: usize) -> Result<Vec<f64>, StatisticsError> {
        match self {
            Self::RouterLogits => {
                evidence.stats.get(Of::Layer(layer), Quantity::RouterGram).map(<[f64]>::to_vec)
            }
            Self::Weights => {
                let missing = || StatisticsError::Missing(format!("weights of layer {layer}"));
                evidence.weights.grams.get(&layer).cloned().ok_or_else(missing)
            }
            Self::Outputs => {
                let tokens = evidence.stats.scalar(Of::Model, Quantity::Tokens)?;
                let experts = evidence.tokens(layer)?.len();
                let sums = (0..experts)
                    .map(|expert| evidence.stats.get(Of::Expert(layer, expert), Quantity::AnyOutputSum))
                    .collect::<Result<Vec<_>, _>>()?;
                let dot = |a: &[f64], b: &[f64]| {
                    a.iter().zip(b).map(|(a, b)| a / tokens * (b / tokens)).sum::<f64>()
                };
                Ok(sums.iter().flat_map(|a| sums.iter().map(move |b| dot(a, b))).collect())
            }
        }
    }
}
