//! A small random model in memory, for tests.

use moepress_checkpoint::{CheckpointError, Source};
use moepress_model::{Config, LayerWeights, ModelSpec, Tensor, family};
use moepress_quant::{Dtype, Plain, Stored};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::collections::BTreeMap;

/// Two layers, four experts, a vocabulary of 32 and a context of 24.
pub(crate) struct Toy {
    pub(crate) spec: ModelSpec,
    pub(crate) weights: BTreeMap<Tensor, Stored>,
}

impl Toy {
    pub(crate) fn new() -> Self {
        let config = json!({
            "model_type": "qwen3_moe", "hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 6, "vocab_size": 32, "num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 10, "norm_topk_prob": true, "max_position_embeddings": 24,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "eos_token_id": 31, "rope_theta": 1e4,
        });
        let config = Config(config.as_object().unwrap());
        let spec = (family(config).unwrap().spec)(config).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(9);
        let mut stored = |tensor| {
            let shape = spec.shape(tensor).unwrap();
            // Vectors are weights of norms, around 1.
            let offset = if shape.len() == 1 { 1.0 } else { 0.0 };
            let values: Vec<f32> =
                (0..shape.iter().product()).map(|_| offset + random.random_range(-0.6..0.6)).collect();
            Stored::Plain(Plain::from_f32(Dtype::Bf16, shape, &values))
        };
        let weights = spec.tensors().into_iter().map(|tensor| (tensor, stored(tensor))).collect();
        Self { spec, weights }
    }
}

impl Source for Toy {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
        Ok(self.weights[&tensor].clone())
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights, CheckpointError> {
        let parts = self.weights.iter().filter_map(|(tensor, stored)| match tensor {
            Tensor::Layer(of, part) if *of == layer => Some((*part, stored.clone())),
            _ => None,
        });
        Ok(parts.collect())
    }
}

/// Asserts that two lists agree within `tolerance`, relative to the largest element.
pub(crate) fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "element {i}: {a} and {b}");
    }
    assert!(largest.is_finite() && largest > 0.0);
}
