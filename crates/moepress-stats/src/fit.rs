//! Whether statistics that come from elsewhere can be those of a model.

use crate::locality::{RUNS, run_uses_len};
use crate::needs::{Need, Needs};
use crate::statistics::{Key, Of, Quantity, Statistics, StatisticsError};
use moepress_model::{ModelSpec, Tensor};

impl Key {
    /// Elements of that vector in a model, measured on that many texts; `None` when the model has nothing it could
    /// be of.
    pub fn len_in(self, spec: &ModelSpec, texts: usize) -> Option<usize> {
        match (self.of, self.quantity) {
            (Of::Model, Quantity::TextTokens) => Some(texts),
            (Of::Model, _) => Some(1),
            (Of::Layer(layer), Quantity::RouterGram) => {
                spec.moe(layer).map(|moe| moe.router.len() * moe.router.len())
            }
            (Of::Layer(layer), Quantity::Coactivation) => {
                spec.moe(layer).map(|moe| moe.experts.len() * moe.experts.len())
            }
            (Of::Layer(layer), quantity) => {
                let moe = spec.moe(layer)?;
                let experts = moe.experts.len();
                match quantity {
                    Quantity::TextLogits => Some(texts * moe.routing.top_k * experts),
                    Quantity::TextGates => Some(texts * experts),
                    Quantity::Cosine => Some(1),
                    Quantity::RunUses => Some(run_uses_len()),
                    Quantity::CacheHits => Some(RUNS.len() * experts),
                    Quantity::Affinity => {
                        let before = spec.moe_layers().take_while(|(index, _)| *index < layer).last();
                        before.map(|(_, before)| before.experts.len() * experts)
                    }
                    _ => Some(experts),
                }
            }
            (Of::Rounded(layer, expert, _), _) => spec.moe(layer)?.experts.get(expert).map(|_| 1),
            (Of::Expert(layer, expert), Quantity::OutputSum | Quantity::AnyOutputSum) => {
                spec.moe(layer)?.experts.get(expert).map(|_| spec.hidden)
            }
            (Of::Expert(layer, expert), _) => {
                spec.moe(layer)?.experts.get(expert)?.segments.first().map(|segment| segment.width)
            }
            (Of::Tensor(tensor), quantity) => {
                // A tied head is no tensor of its own, but a map of its own.
                let shape = match tensor {
                    Tensor::Head => vec![spec.vocab, spec.hidden],
                    tensor => spec.shape(tensor)?,
                };
                let [rows, cols] = shape[..] else { return None };
                Some(if quantity == Quantity::RowWeight { rows } else { cols })
            }
        }
    }
}

impl Quantity {
    /// Whether an element of a vector of `len` can have this value.
    fn allows(self, index: usize, len: usize, value: f64) -> bool {
        match self {
            Self::Tokens
            | Self::Predictions
            | Self::Coactivation
            | Self::TextTokens
            | Self::Affinity
            | Self::RunUses
            | Self::CacheHits => value >= 0.0 && value.fract() == 0.0,
            Self::Loss | Self::OutputSum | Self::AnyOutputSum | Self::TextLogits | Self::Cosine => true,
            // Squares are on the diagonal.
            Self::RouterGram => value >= 0.0 || !index.is_multiple_of(len.isqrt() + 1),
            Self::GateSum
            | Self::NormSum
            | Self::GateNormSum
            | Self::OutputMax
            | Self::TextGates
            | Self::OutputError
            | Self::AtomEnergy
            | Self::AtomGradient
            | Self::AtomCoupled
            | Self::ColumnWeight
            | Self::RowWeight => value >= 0.0,
        }
    }
}

/// What every layer with experts has when a need was measured. Affinity is left out: the first such layer has none.
const fn of_layer(need: Need) -> &'static [Quantity] {
    use Quantity::{
        CacheHits, Coactivation, GateNormSum, GateSum, NormSum, OutputMax, RouterGram, RunUses, TextGates,
        TextLogits,
    };
    match need {
        Need::Routing => &[GateSum, NormSum, GateNormSum, OutputMax, RouterGram, Coactivation],
        Need::Texts => &[TextLogits, TextGates],
        Need::Cosine => &[Quantity::Cosine],
        Need::Locality => &[RunUses, CacheHits],
        Need::MeanOutputs | Need::RoundedOutputs | Need::Atoms | Need::Fisher => &[],
    }
}

impl Statistics {
    /// Checks that every element is a number such a sum can come to.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check_values(&self) -> Result<(), StatisticsError> {
        for (key, values) in self.iter() {
            let wrong = |(index, value): &(usize, f64)| {
                !(value.is_finite() && key.quantity.allows(*index, values.len(), *value))
            };
            if let Some((index, value)) = values.iter().copied().enumerate().find(wrong) {
                return Err(StatisticsError::Value(key.to_string(), index, value.to_string()));
            }
        }
        Ok(())
    }

    /// Checks that every vector is of something the model has, in its length, and that what stages decide on
    /// when they have these needs is there. An expert that no token reached has no vectors.
    ///
    /// # Errors
    /// The first vector that does not fit or is missing.
    pub fn check_fit(&self, spec: &ModelSpec, texts: usize, needs: &Needs) -> Result<(), StatisticsError> {
        for (key, values) in self.iter() {
            match key.len_in(spec, texts) {
                None => return Err(StatisticsError::NotInModel(key.to_string())),
                Some(len) if len != values.len() => {
                    return Err(StatisticsError::Misfit(key.to_string(), values.len(), len));
                }
                Some(_) => {}
            }
        }
        self.get(Of::Model, Quantity::Tokens)?;
        for (layer, moe) in spec.moe_layers() {
            let tokens = self.get(Of::Layer(layer), Quantity::Tokens)?;
            let wanted = needs.groups.iter().flat_map(|need| of_layer(*need));
            wanted.map(|&quantity| self.get(Of::Layer(layer), quantity)).collect::<Result<Vec<_>, _>>()?;
            for (expert, _) in moe.experts.iter().enumerate().filter(|_| needs.has(Need::MeanOutputs)) {
                self.get(Of::Expert(layer, expert), Quantity::AnyOutputSum)?;
            }
            let reached = moe.experts.iter().zip(tokens).enumerate();
            let reached = reached.filter(|(_, (expert, n))| **n > 0.0 && expert.width() > 0);
            for (expert, _) in reached {
                if needs.has(Need::Atoms) {
                    for quantity in [Quantity::AtomEnergy, Quantity::AtomGradient, Quantity::AtomCoupled] {
                        self.get(Of::Expert(layer, expert), quantity)?;
                    }
                }
                for &format in needs.formats.iter().filter(|_| needs.has(Need::RoundedOutputs)) {
                    self.get(Of::Rounded(layer, expert, format), Quantity::OutputError)?;
                }
            }
        }
        if needs.has(Need::Texts) {
            self.get(Of::Model, Quantity::TextTokens)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_model::{Config, family};

    /// Two layers, the first dense, of four experts of six atoms; tied.
    fn toy() -> ModelSpec {
        let config = serde_json::json!({
            "model_type": "qwen3_moe", "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 4, "vocab_size": 16, "num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 6, "intermediate_size": 10, "mlp_only_layers": [0],
            "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "norm_topk_prob": true,
            "tie_word_embeddings": true,
        });
        let config = Config(config.as_object().unwrap());
        (family(config).unwrap().spec)(config).unwrap()
    }

    fn key(name: &str) -> Key {
        name.parse().unwrap()
    }

    #[test]
    fn lengths_are_the_models() {
        let lengths = [
            ("model.loss", Some(1)),
            ("model.layers.0.tokens", None),
            ("model.layers.1.tokens", Some(4)),
            ("model.layers.1.router_gram", Some(16)),
            ("model.text_tokens", Some(3)),
            ("model.layers.1.text_logits", Some(3 * 2 * 4)),
            ("model.layers.1.text_gates", Some(3 * 4)),
            ("model.layers.1.affinity", None),
            ("model.layers.1.cache_hits", Some(4 * 4)),
            ("model.layers.1.mlp.experts.3.int4-g64.output_error", Some(1)),
            ("model.layers.1.mlp.experts.4.int4-g64.output_error", None),
            ("model.layers.2.tokens", None),
            ("model.layers.1.mlp.experts.3.atom_energy", Some(6)),
            ("model.layers.1.mlp.experts.4.atom_energy", None),
            ("model.layers.1.mlp.experts.3.segments.0.down_proj.weight.row_weight", Some(8)),
            ("model.layers.1.mlp.experts.3.segments.0.down_proj.weight.column_weight", Some(6)),
            ("model.layers.1.mlp.experts.3.segments.1.down_proj.weight.column_weight", None),
            ("model.layers.0.mlp.up_proj.weight.row_weight", Some(10)),
            ("model.embed_tokens.weight.row_weight", Some(16)),
            ("lm_head.weight.row_weight", Some(16)),
            ("lm_head.weight.column_weight", Some(8)),
            ("model.norm.weight.row_weight", None),
        ];
        for (name, len) in lengths {
            assert_eq!(key(name).len_in(&toy(), 3), len, "{name}");
        }
    }

    fn stats(vectors: &[(&str, &[f64])]) -> Statistics {
        let mut stats = Statistics::default();
        for (name, values) in vectors {
            let Key { of, quantity } = key(name);
            stats.add(of, quantity, values.to_vec()).unwrap();
        }
        stats
    }

    #[test]
    fn values_that_no_sum_comes_to_are_refused() {
        let check = |name: &str, values: &[f64]| stats(&[(name, values)]).check_values().is_ok();
        assert!(check("model.layers.1.router_gram", &[1.0, -1.0, -1.0, 1.0]));
        assert!(!check("model.layers.1.router_gram", &[1.0, -1.0, -1.0, -1.0]));
        assert!(check("model.layers.1.tokens", &[0.0, 3.0]));
        assert!(!check("model.layers.1.tokens", &[0.0, 3.5]));
        assert!(!check("model.layers.1.tokens", &[-1.0]));
        assert!(!check("model.layers.1.gate_sum", &[-1e-300]));
        assert!(!check("model.loss", &[f64::NAN]) && !check("model.loss", &[f64::INFINITY]));
        let error = stats(&[("model.layers.1.gate_sum", &[0.0, f64::NAN])]).check_values().unwrap_err();
        assert_eq!(
            error.to_string(),
            "statistic model.layers.1.gate_sum: element 1 is NaN, which such a sum cannot be"
        );
    }

    #[test]
    fn what_decisions_need_must_be_there_and_fit() {
        let fit = |vectors: &[(&str, &[f64])], groups: &[Need]| {
            stats(vectors).check_fit(&toy(), 1, &Needs::of(groups.iter().copied())).map_err(|e| e.to_string())
        };
        let none = ("model.layers.1.tokens", &[0.0; 4][..]);
        let one = ("model.layers.1.tokens", &[0.0, 2.0, 0.0, 0.0][..]);
        let all = ("model.tokens", &[1.0][..]);
        assert_eq!(fit(&[all, none], &[Need::Atoms]), Ok(()));
        let missing = |name: &str| Err(format!("statistic {name} was not measured"));
        assert_eq!(fit(&[none], &[]), missing("model.tokens"));
        assert_eq!(fit(&[all], &[]), missing("model.layers.1.tokens"));
        assert_eq!(fit(&[all, none], &[Need::Routing]), missing("model.layers.1.gate_sum"));
        assert_eq!(fit(&[all, one], &[Need::Atoms]), missing("model.layers.1.mlp.experts.1.atom_energy"));
        assert_eq!(
            fit(&[all, none, ("model.layers.1.gate_sum", &[1.0])], &[]),
            Err("statistic model.layers.1.gate_sum has 1 elements, in this model it has 4".into())
        );
        assert_eq!(
            fit(&[all, none, ("model.layers.0.gate_sum", &[1.0])], &[]),
            Err("statistic model.layers.0.gate_sum is of something this model does not have".into())
        );
    }
}
