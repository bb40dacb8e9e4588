//! What became of every expert of the original.

use moepress_model::{Expert, ModelSpec, Part, Projection, Tensor};
use serde::Serialize;
use std::collections::BTreeMap;

/// The experts of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// Index of the layer.
    pub layer: usize,
    /// Experts of the original, by index.
    pub experts: Vec<ExpertReport>,
}

/// One expert of the original.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ExpertReport {
    /// Its atoms in the original.
    pub atoms_before: usize,
    /// Atoms of the expert it became part of; 0 when it was removed or emptied.
    pub atoms: usize,
    /// The experts of the original that share those atoms, itself included; empty when it was removed.
    pub shared_by: Vec<usize>,
    /// Bytes of those atoms.
    pub bytes: u64,
    /// Bits per weight of those atoms, scales and offsets included; 0 without atoms.
    pub bpw: f64,
    /// Tokens routed to it on the original; none when that was not measured.
    pub tokens: Option<u64>,
}

impl ExpertReport {
    /// Fraction of its atoms that are left. Experts that were merged count an equal part of what they share.
    pub fn kept(&self) -> f64 {
        self.atoms as f64 / (self.atoms_before * self.shared_by.len()).max(1) as f64
    }
}

/// The fate of the experts of `before` in `after`; `routed` holds tokens per expert by layer.
pub(crate) fn layers(
    before: &ModelSpec,
    after: &ModelSpec,
    routed: &BTreeMap<usize, Vec<u64>>,
) -> Vec<LayerReport> {
    let layer = |(layer, moe): (usize, &moepress_model::Moe)| {
        // A sweep that came after experts were removed or merged counted others.
        let routed = routed.get(&layer).filter(|tokens| tokens.len() == moe.experts.len());
        let left = after.moe(layer).map_or(&[][..], |moe| &moe.experts);
        let expert = |(index, original): (usize, &Expert)| {
            let mut report = ExpertReport { atoms_before: original.width(), ..ExpertReport::default() };
            report.tokens = routed.map(|tokens| tokens[index]);
            let sources = |(_, expert): &(usize, &Expert)| expert.sources.contains(&index);
            if let Some((at, expert)) = left.iter().enumerate().find(sources) {
                report.atoms = expert.width();
                report.shared_by.clone_from(&expert.sources);
                report.bytes = bytes(after, layer, at, expert);
                let weights = Projection::ALL.len() * expert.width() * after.hidden;
                report.bpw = 8.0 * report.bytes as f64 / weights.max(1) as f64;
            }
            report
        };
        LayerReport { layer, experts: moe.experts.iter().enumerate().map(expert).collect() }
    };
    before.moe_layers().map(layer).collect()
}

fn bytes(spec: &ModelSpec, layer: usize, index: usize, expert: &Expert) -> u64 {
    let matrices = (0..expert.segments.len()).flat_map(|segment| {
        Projection::ALL.map(|projection| Part::Expert { expert: index, segment, projection })
    });
    matrices.map(|part| spec.stored_bytes(Tensor::Layer(layer, part))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_model::{Config, Edit, Group, family};
    use moepress_quant::{Dtype, Format};

    fn toy() -> ModelSpec {
        let config = serde_json::json!({
            "model_type": "qwen3_moe", "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 4, "vocab_size": 16, "num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 6, "intermediate_size": 10, "mlp_only_layers": [0],
            "max_position_embeddings": 32, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "norm_topk_prob": true,
        });
        let config = Config(config.as_object().unwrap());
        let mut spec = (family(config).unwrap().spec)(config).unwrap();
        for tensor in spec.tensors() {
            spec.set_format(tensor, Format::Plain(Dtype::Bf16));
        }
        spec
    }

    #[test]
    fn every_original_expert_is_followed() {
        let group = |members: &[usize]| {
            let weights = vec![1.0 / members.len() as f64; members.len()];
            Group { members: members.to_vec(), weights }
        };
        let groups = vec![group(&[0, 2]), group(&[1]), group(&[3])];
        let edits = [
            Edit::MergeExperts { layer: 1, groups, align: false },
            Edit::KeepExperts { layer: 1, experts: vec![0, 2] },
            Edit::KeepAtoms { layer: 1, expert: 1, atoms: vec![4, 1, 0] },
        ];
        let after = toy().after(&edits).unwrap();
        let layers = layers(&toy(), &after, &BTreeMap::from([(1, vec![5, 0, 7, 9])]));
        assert_eq!((layers.len(), layers[0].layer), (1, 1));
        let experts = &layers[0].experts;
        assert_eq!(experts.iter().map(ExpertReport::kept).collect::<Vec<_>>(), [0.5, 0.0, 0.5, 0.5]);
        assert_eq!(experts[2].shared_by, [0, 2]);
        assert_eq!((experts[3].atoms, experts[3].bytes, experts[3].bpw), (3, 3 * 8 * 3 * 2, 16.0));
        assert_eq!((experts[1].bytes, experts[1].bpw, experts[1].tokens), (0, 0.0, Some(0)));
    }
}
