//! The closed vocabulary of edits, and what each makes of a description.

use crate::moe::{Expert, Moe, Segment};
use crate::part::{Part, Projection};
use crate::spec::{Mlp, ModelSpec};
use crate::tensor::Tensor;
use moepress_quant::Format;
use moepress_quant::codec::Packing;
use moepress_quant::formats::GridRule;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One change of the model. Edits apply in order; indices mean the model as the edits before left it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// Leaves out the tensors that are carried along and never run.
    DropCarried,
    /// Replaces the experts of a layer by weighted means of groups; router rows stay and lead to the group.
    MergeExperts {
        /// Layer index.
        layer: usize,
        /// Groups that partition the experts; the new experts in order.
        groups: Vec<Group>,
        /// Whether the atoms of every member are first matched to those of the first member.
        align: bool,
    },
    /// Removes the other experts of a layer together with the router rows that lead to them.
    KeepExperts {
        /// Layer index.
        layer: usize,
        /// Experts that stay, ascending.
        experts: Vec<usize>,
    },
    /// Removes the other atoms of an expert and puts the kept ones in the order given.
    KeepAtoms {
        /// Layer index.
        layer: usize,
        /// Expert index.
        expert: usize,
        /// Atoms that stay.
        atoms: Vec<usize>,
    },
    /// Cuts an expert into runs of atoms of these widths, in order.
    CutSegments {
        /// Layer index.
        layer: usize,
        /// Expert index.
        expert: usize,
        /// Width of each run; they sum to the expert's width.
        widths: Vec<usize>,
    },
    /// Fits `down_proj` of an expert anew, so that what is left of the expert returns what it did before atoms were
    /// taken: by least squares on the inputs that reach it, on the walk that writes.
    Refit {
        /// Layer index.
        layer: usize,
        /// Expert index.
        expert: usize,
    },
    /// Chooses a format, to be carried out by a later [`Edit::Encode`].
    Assign {
        /// Name of the tensor.
        #[serde(with = "tensor_name")]
        tensor: Tensor,
        /// Chosen format.
        format: Format,
    },
    /// Rounds a tensor to a format.
    Encode {
        /// Name of the tensor.
        #[serde(with = "tensor_name")]
        tensor: Tensor,
        /// Its new format.
        format: Format,
        /// How codes are found.
        solver: Solver,
        /// How grids are chosen; none: as is usual for the format.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grid: Option<GridRule>,
        /// How codes are stored.
        codec: Packing,
    },
}

/// Experts merged into one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Member experts; the first is the reference of the alignment.
    pub members: Vec<usize>,
    /// Weight of each member in the mean; they sum to 1.
    pub weights: Vec<f64>,
}

/// How the codes of a quantized tensor are found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Solver {
    /// Every weight to the nearest level.
    Nearest,
    /// To nearest, on grids moved until Σ |w − q|^0.7 is small: HQQ (Badri and Shaji, 2023). Without any inputs.
    Hqq,
    /// GPTQ, arXiv 2210.17323, on the inputs that reach the matrix through the layers as rounded before it.
    Gptq {
        /// What is added to the diagonal of the gram of the inputs, relative to its mean.
        damp: f64,
        /// Whether columns with stronger inputs are rounded first.
        act_order: bool,
        /// Whether grids are fitted to weights that count by the diagonal of the gram.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        weighted: bool,
    },
    /// As GPTQ, on one grid for the whole tensor. Codes are stored in the codec of fewest bytes, and the step grows
    /// until that takes no more bytes than allowed: what a budget gave the tensor is kept to.
    Within {
        /// As of GPTQ.
        damp: f64,
        /// Distance of levels to begin with.
        step: f32,
        /// Most bytes that the tensor may take, everything counted.
        bytes: u64,
    },
}

/// An edit that does not fit the model it is applied to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EditError(pub String);

fn err<T>(message: String) -> Result<T, EditError> {
    Err(EditError(message))
}

impl Edit {
    /// The layer it changes; `None` for embeddings, final norm and head.
    pub fn layer(&self) -> Option<usize> {
        match self {
            Self::MergeExperts { layer, .. }
            | Self::KeepExperts { layer, .. }
            | Self::KeepAtoms { layer, .. }
            | Self::CutSegments { layer, .. }
            | Self::Refit { layer, .. } => Some(*layer),
            Self::Assign { tensor, .. } | Self::Encode { tensor, .. } => tensor.layer(),
            Self::DropCarried => None,
        }
    }

    /// Whether routing is different afterwards, so that statistics measured before are stale.
    pub fn changes_routing(&self) -> bool {
        matches!(self, Self::MergeExperts { .. } | Self::KeepExperts { .. })
    }
}

/// For each of `edits`, whether it can be carried out only when the inputs of its matrix are known: on the walk that
/// writes. What is fitted anew is rounded after that. Embedding and head never wait: they are rounded to nearest.
pub fn await_inputs(edits: &[Edit]) -> Vec<bool> {
    let mut refit = BTreeSet::new();
    let awaits = |edit: &Edit| match edit {
        Edit::Refit { layer, expert } => {
            refit.insert((*layer, *expert));
            true
        }
        Edit::Encode { tensor: Tensor::Layer(layer, part), format, solver, .. } => {
            let fitted = matches!(part, Part::Expert { expert, projection: Projection::Down, .. }
                if refit.contains(&(*layer, *expert)));
            let solves = matches!(solver, Solver::Gptq { .. } | Solver::Within { .. });
            fitted || (matches!(format, Format::Grouped(_)) && solves)
        }
        _ => false,
    };
    edits.iter().map(awaits).collect()
}

impl ModelSpec {
    /// The description after `edits`, applied in order.
    ///
    /// # Errors
    /// The first edit that names something the model does not have or would leave it invalid.
    pub fn after(&self, edits: &[Edit]) -> Result<Self, EditError> {
        let mut spec = self.clone();
        for edit in edits {
            spec.edit(edit)?;
        }
        spec.validate().map_err(|e| EditError(e.0))?;
        Ok(spec)
    }

    /// Applies one edit.
    ///
    /// # Errors
    /// It names something the model does not have.
    pub fn edit(&mut self, edit: &Edit) -> Result<(), EditError> {
        match edit {
            Edit::Encode { tensor, solver: Solver::Within { bytes, .. }, .. } => {
                self.packed.insert(*tensor, *bytes);
            }
            Edit::Encode { tensor, .. } | Edit::Assign { tensor, .. } => {
                self.packed.remove(tensor);
            }
            Edit::KeepAtoms { layer, expert, .. }
            | Edit::CutSegments { layer, expert, .. }
            | Edit::Refit { layer, expert } => {
                let of = |tensor: &Tensor| matches!(tensor, Tensor::Layer(at, part) if at == layer && part.expert() == Some(*expert));
                self.packed.retain(|tensor, _| !of(tensor));
            }
            Edit::MergeExperts { .. } | Edit::KeepExperts { .. } => {
                self.packed.retain(|tensor, _| edit.layer() != tensor.layer());
            }
            Edit::DropCarried => {}
        }
        match edit {
            Edit::DropCarried => {
                self.carried.clear();
                Ok(())
            }
            Edit::MergeExperts { layer, groups, .. } => merge(self.moe_mut(*layer)?, groups)
                .or_else(|reason| err(format!("layer {layer}: cannot merge experts: {reason}"))),
            Edit::KeepExperts { layer, experts } => keep_experts(self.moe_mut(*layer)?, experts)
                .or_else(|reason| err(format!("layer {layer}: cannot keep experts: {reason}"))),
            Edit::KeepAtoms { layer, expert, atoms } => keep_atoms(self.expert_mut(*layer, *expert)?, atoms)
                .or_else(|reason| {
                    err(format!("layer {layer}, expert {expert}: cannot keep atoms: {reason}"))
                }),
            Edit::Refit { layer, expert } => self.expert_mut(*layer, *expert).map(drop),
            Edit::CutSegments { layer, expert, widths } => cut(self.expert_mut(*layer, *expert)?, widths)
                .or_else(|reason| {
                    err(format!("layer {layer}, expert {expert}: cannot cut segments: {reason}"))
                }),
            Edit::Assign { tensor, format } | Edit::Encode { tensor, format, .. } => {
                match self.set_format(*tensor, *format) {
                    true => Ok(()),
                    false => err(format!("the model has no tensor {tensor}")),
                }
            }
        }
    }

    fn moe_mut(&mut self, layer: usize) -> Result<&mut Moe, EditError> {
        match self.layers.get_mut(layer).map(|layer| &mut layer.mlp) {
            Some(Mlp::Moe(moe)) => Ok(moe),
            _ => err(format!("layer {layer} has no experts")),
        }
    }

    fn expert_mut(&mut self, layer: usize, expert: usize) -> Result<&mut Expert, EditError> {
        let experts = &mut self.moe_mut(layer)?.experts;
        let count = experts.len();
        experts
            .get_mut(expert)
            .ok_or_else(|| EditError(format!("layer {layer} has no expert {expert}, only {count}")))
    }
}

fn merge(moe: &mut Moe, groups: &[Group]) -> Result<(), String> {
    let mut members: Vec<usize> = groups.iter().flat_map(|group| group.members.iter().copied()).collect();
    members.sort_unstable();
    if !members.iter().copied().eq(0..moe.experts.len()) {
        return Err("the groups are no partition of the experts".into());
    }
    let mut target = vec![0; moe.experts.len()];
    let mut merged = Vec::with_capacity(groups.len());
    for (index, group) in groups.iter().enumerate() {
        let [first, rest @ ..] = group.members.as_slice() else { return Err("a group is empty".into()) };
        let sum: f64 = group.weights.iter().sum();
        if group.weights.len() != group.members.len()
            || group.weights.iter().any(|w| !w.is_finite() || *w < 0.0)
            || (sum - 1.0).abs() > 1e-6
        {
            return Err(format!(
                "the weights of group {index} must be one per member, not negative, and sum to 1"
            ));
        }
        let segments = moe.experts[*first].segments.clone();
        if segments.len() > 1 || rest.iter().any(|&e| moe.experts[e].segments != segments) {
            return Err(format!("the experts of group {index} differ in width or format"));
        }
        group.members.iter().for_each(|&e| target[e] = index);
        let mut sources: Vec<usize> =
            group.members.iter().flat_map(|&e| moe.experts[e].sources.clone()).collect();
        sources.sort_unstable();
        merged.push(Expert { sources, segments });
    }
    moe.router.iter_mut().for_each(|expert| *expert = target[*expert]);
    moe.experts = merged;
    Ok(())
}

fn keep_experts(moe: &mut Moe, experts: &[usize]) -> Result<(), String> {
    if !experts.is_sorted_by(|a, b| a < b) || experts.last().is_none_or(|&last| last >= moe.experts.len()) {
        return Err(format!("{experts:?} is no ascending list of experts below {}", moe.experts.len()));
    }
    if let Some(groups) = moe.routing.groups {
        let mut left = vec![0; groups.count];
        for (row, expert) in moe.router.iter().enumerate() {
            left[moe.group_of(row)] += usize::from(experts.binary_search(expert).is_ok());
        }
        if left.iter().any(|&rows| rows != left[0]) {
            return Err(format!("the groups of the router must keep equally many rows, not {left:?}"));
        }
    }
    moe.router = moe.router.iter().filter_map(|expert| experts.binary_search(expert).ok()).collect();
    moe.experts = experts.iter().map(|&expert| moe.experts[expert].clone()).collect();
    match moe.routing.top_k > moe.router.len() {
        true => {
            Err(format!("{} router rows are left for top-{} routing", moe.router.len(), moe.routing.top_k))
        }
        false => Ok(()),
    }
}

fn keep_atoms(expert: &mut Expert, atoms: &[usize]) -> Result<(), String> {
    let [segment] = expert.segments.as_mut_slice() else {
        return Err("the expert is not one segment".into());
    };
    let distinct: BTreeSet<usize> = atoms.iter().copied().collect();
    if distinct.len() != atoms.len() || distinct.last().is_some_and(|&last| last >= segment.width) {
        return Err(format!("the atoms are not distinct indices below {}", segment.width));
    }
    segment.width = atoms.len();
    expert.segments.retain(|segment| segment.width > 0);
    Ok(())
}

fn cut(expert: &mut Expert, widths: &[usize]) -> Result<(), String> {
    let [segment] = expert.segments[..] else { return Err("the expert is not one segment".into()) };
    if widths.contains(&0) || widths.iter().sum::<usize>() != segment.width {
        return Err(format!("the widths {widths:?} are not above 0 with the sum {}", segment.width));
    }
    expert.segments = widths.iter().map(|&width| Segment { width, ..segment }).collect();
    Ok(())
}

mod tensor_name {
    use crate::tensor::Tensor;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(tensor: &Tensor, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(tensor)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tensor, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Config, family};
    use moepress_quant::Dtype;

    pub(crate) fn toy() -> ModelSpec {
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
    fn merging_keeps_rows_and_keeping_drops_them() {
        let group = |members: &[usize]| Group {
            members: members.to_vec(),
            weights: vec![1.0 / members.len() as f64; members.len()],
        };
        let merged = Edit::MergeExperts {
            layer: 1,
            groups: vec![group(&[0, 2]), group(&[1]), group(&[3])],
            align: true,
        };
        let spec = toy().after(std::slice::from_ref(&merged)).unwrap();
        assert_eq!(spec.moe(1).unwrap().router, [0, 1, 0, 2]);
        assert_eq!(spec.moe(1).unwrap().experts[0].sources, [0, 2]);
        let spec = spec.after(&[Edit::KeepExperts { layer: 1, experts: vec![0, 2] }]).unwrap();
        assert_eq!(spec.moe(1).unwrap().router, [0, 0, 1]);
        assert_eq!(spec.shape(Tensor::Layer(1, crate::Part::Router)), Some(vec![3, 8]));
    }

    #[test]
    fn atoms_and_segments_change_shapes_and_bytes() {
        let edits = [
            Edit::KeepAtoms { layer: 1, expert: 3, atoms: vec![5, 0, 2] },
            Edit::CutSegments { layer: 1, expert: 3, widths: vec![1, 2] },
            Edit::KeepAtoms { layer: 1, expert: 0, atoms: vec![] },
        ];
        let spec = toy().after(&edits).unwrap();
        assert_eq!(spec.moe(1).unwrap().experts[3].segments.len(), 2);
        assert!(spec.moe(1).unwrap().experts[0].segments.is_empty());
        assert_eq!(toy().total_bytes() - spec.total_bytes(), (3 + 6) * 3 * 8 * 2);
        let json = serde_json::to_string(&edits).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Edit>>(&json).unwrap(), edits);
    }

    #[test]
    fn sizes_beyond_any_model_are_refused() {
        let wrong: [fn(&mut ModelSpec); 8] = [
            |spec| spec.attention.head_dim = 1 << 63,
            |spec| spec.attention.heads = 1 << 40,
            |spec| spec.vocab = 0,
            |spec| spec.context = 1 << 62,
            |spec| spec.end_tokens = vec![u32::MAX],
            |spec| spec.norm.eps = 1e300,
            |spec| spec.layers[0].mlp = Mlp::Dense { width: 1 << 63, biases: false },
            |spec| spec.layers[0].mlp = Mlp::Dense { width: 0, biases: false },
        ];
        assert_eq!(toy().validate(), Ok(()));
        for change in wrong {
            let mut spec = toy();
            change(&mut spec);
            assert!(spec.validate().is_err());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let spec = toy();
        let wrong = [
            Edit::KeepExperts { layer: 0, experts: vec![0, 1] },
            Edit::KeepExperts { layer: 1, experts: vec![1, 0] },
            Edit::KeepExperts { layer: 1, experts: vec![0] },
            Edit::KeepExperts { layer: 9, experts: vec![0, 1] },
            Edit::KeepAtoms { layer: 1, expert: 4, atoms: vec![0] },
            Edit::KeepAtoms { layer: 1, expert: 0, atoms: vec![0, 0] },
            Edit::CutSegments { layer: 1, expert: 0, widths: vec![3, 2] },
            Edit::MergeExperts { layer: 1, groups: vec![], align: false },
            Edit::Assign {
                tensor: Tensor::Head.to_string().replace("lm_head", "model.norm").parse().unwrap(),
                format: Format::Plain(Dtype::F32),
            },
        ];
        for edit in &wrong[..8] {
            assert!(spec.after(std::slice::from_ref(edit)).is_err(), "{edit:?}");
        }
        assert!(spec.after(&wrong[8..]).is_ok());
    }
}
