//! What families call their tensors on disk.

use crate::part::{Part, Projection};
use crate::place::{Half, Place};
use crate::tensor::Tensor;

/// The names in which families differ; everything else is called as in a compact checkpoint.
pub struct Names {
    /// The module of the mixture within a layer.
    pub moe: &'static str,
    /// Gate, up and down of an expert that has tensors of its own.
    pub expert: [&'static str; 3],
    /// The router within the mixture.
    pub router: &'static str,
    /// The bias of the choice, within the mixture.
    pub correction: &'static str,
    /// The shared expert, within the mixture.
    pub shared: &'static str,
}

/// The names most families use.
pub const USUAL: Names = Names {
    moe: "mlp",
    expert: ["gate_proj", "up_proj", "down_proj"],
    router: "gate",
    correction: "gate.e_score_correction_bias",
    shared: "shared_experts",
};

/// The names of Mixtral and its relatives.
pub const MIXTRAL: Names = Names {
    moe: "block_sparse_moe",
    expert: ["w1", "w3", "w2"],
    correction: "e_score_correction_bias",
    ..USUAL
};

impl Names {
    /// Every spelling of a tensor, the family's own first.
    pub fn places(&self, tensor: Tensor) -> Vec<Place> {
        let Tensor::Layer(layer, part) = tensor else { return vec![Place::whole(tensor.to_string())] };
        let moe = format!("model.layers.{layer}.{}", self.moe);
        match part {
            Part::Router => vec![Place::whole(format!("{moe}.{}.weight", self.router))],
            Part::RouterBias => vec![Place::whole(format!("{moe}.{}.bias", self.router))],
            Part::Correction => vec![Place::whole(format!("{moe}.{}", self.correction))],
            Part::Shared(projection) => {
                vec![Place::whole(format!("{moe}.{}.{}.weight", self.shared, projection.name()))]
            }
            Part::SharedBias(projection) => {
                vec![Place::whole(format!("{moe}.{}.{}.bias", self.shared, projection.name()))]
            }
            Part::Expert { expert, projection, .. } => {
                let name = self.expert[projection as usize];
                let mut places = vec![Place::whole(format!("{moe}.experts.{expert}.{name}.weight"))];
                let modules = [self.moe, "mlp"].into_iter().take(if self.moe == "mlp" { 1 } else { 2 });
                for module in modules {
                    let experts = format!("model.layers.{layer}.{module}.experts");
                    places.extend(["", ".weight"].map(|suffix| fused(&experts, suffix, expert, projection)));
                }
                places
            }
            other => vec![Place::whole(format!("model.layers.{layer}.{other}"))],
        }
    }
}

/// Where `transformers` 5 holds an expert in memory, and some checkpoints on disk.
fn fused(experts: &str, suffix: &str, expert: usize, projection: Projection) -> Place {
    match projection {
        Projection::Gate => {
            Place::slice(format!("{experts}.gate_up_proj{suffix}"), expert, Some(Half::First), false)
        }
        Projection::Up => {
            Place::slice(format!("{experts}.gate_up_proj{suffix}"), expert, Some(Half::Second), false)
        }
        Projection::Down => Place::slice(format!("{experts}.down_proj{suffix}"), expert, None, false),
    }
}
