//! Names of statistics, read back.

use crate::statistics::{Key, Of, Quantity, StatisticsError};
use std::str::FromStr;

impl Quantity {
    /// Whether there is such a sum of that thing.
    const fn is_of(self, of: Of) -> bool {
        match self {
            Self::Tokens => matches!(of, Of::Model | Of::Layer(_)),
            Self::Predictions | Self::Loss | Self::TextTokens => matches!(of, Of::Model),
            Self::GateSum
            | Self::NormSum
            | Self::GateNormSum
            | Self::OutputMax
            | Self::RouterGram
            | Self::Coactivation
            | Self::TextLogits
            | Self::TextGates
            | Self::Cosine
            | Self::Affinity
            | Self::RunUses
            | Self::CacheHits => matches!(of, Of::Layer(_)),
            Self::OutputError => matches!(of, Of::Rounded(..)),
            Self::OutputSum
            | Self::AnyOutputSum
            | Self::AtomEnergy
            | Self::AtomGradient
            | Self::AtomCoupled => matches!(of, Of::Expert(..)),
            Self::ColumnWeight | Self::RowWeight => matches!(of, Of::Tensor(_)),
        }
    }
}

impl FromStr for Key {
    type Err = StatisticsError;

    /// Reads what `Display` writes of a statistic there can be, and nothing else.
    fn from_str(name: &str) -> Result<Self, StatisticsError> {
        let key = || {
            let (of, quantity) = name.rsplit_once('.')?;
            let quantity = Quantity::ALL.into_iter().find(|known| known.name() == quantity)?;
            Some(Self { of: of_from_name(of)?, quantity })
        };
        let found = key().filter(|key| key.quantity.is_of(key.of) && key.to_string() == name);
        found.ok_or_else(|| StatisticsError::Name(name.to_owned()))
    }
}

fn of_from_name(name: &str) -> Option<Of> {
    if name == "model" {
        return Some(Of::Model);
    }
    let expert = |rest: &str| {
        let (layer, expert) = rest.split_once(".mlp.experts.")?;
        let layer = layer.parse().ok()?;
        Some(match expert.split_once('.') {
            None => Of::Expert(layer, expert.parse().ok()?),
            Some((expert, format)) => Of::Rounded(layer, expert.parse().ok()?, format.parse().ok()?),
        })
    };
    let in_layer = |rest: &str| rest.parse().ok().map(Of::Layer).or_else(|| expert(rest));
    let in_layers = name.strip_prefix("model.layers.").and_then(in_layer);
    in_layers.or_else(|| name.parse().ok().map(Of::Tensor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_model::{Part, Projection, Tensor};
    use proptest::prelude::*;

    /// Everything that sums can be of, in a layer and an expert of any index.
    fn all_of(layer: usize, expert: usize, segment: usize) -> Vec<Of> {
        let mut parts: Vec<Part> = Part::fixed().collect();
        parts.extend(Projection::ALL.map(|projection| Part::Expert { expert, segment, projection }));
        parts.extend([
            Part::ExpertBias { expert, segment, projection: Projection::Up },
            Part::ExpertOutputBias { expert },
        ]);
        let tensors =
            Tensor::OUTSIDE.into_iter().chain(parts.into_iter().map(|part| Tensor::Layer(layer, part)));
        let rounded = Of::Rounded(layer, expert, "int3-sym-g64".parse().unwrap());
        [Of::Model, Of::Layer(layer), Of::Expert(layer, expert), rounded]
            .into_iter()
            .chain(tensors.map(Of::Tensor))
            .collect()
    }

    proptest! {
        #[test]
        fn names_round_trip(layer: usize, expert: usize, segment: usize) {
            for of in all_of(layer, expert, segment) {
                for quantity in Quantity::ALL {
                    let key = Key { of, quantity };
                    let read = key.to_string().parse::<Key>();
                    prop_assert_eq!(read.ok(), quantity.is_of(of).then_some(key), "{}", key);
                }
            }
        }

        #[test]
        fn what_is_read_is_what_is_written(name in "(model|lm_head|layers|mlp|experts|weight|tokens|row_weight|[0-9]|\\.){0,9}") {
            if let Ok(key) = name.parse::<Key>() {
                prop_assert_eq!(key.to_string(), name);
            }
        }
    }

    #[test]
    fn other_names_are_refused() {
        let wrong = [
            "",
            "tokens",
            ".tokens",
            "model",
            "model.",
            "model.tokens.",
            "model.token",
            "model.layers.tokens",
            "model.layers.01.tokens",
            "model.layers.+1.tokens",
            "model.layers.1.mlp.experts.tokens",
            "model.layers.1.mlp.experts.2.tokens",
            "model.layers.1.mlp.experts.2.output_error",
            "model.layers.1.mlp.experts.2.int5-g64.output_error",
            "model.layers.18446744073709551616.tokens",
            "model.norm.row_weight",
            "model.atom_energy",
        ];
        for name in wrong {
            assert_eq!(name.parse::<Key>(), Err(StatisticsError::Name(name.to_owned())));
        }
    }
}
