//! Blocks: layers whose experts turn the hidden states most get the larger of two formats (QuantMoE-Bench,
//! arXiv 2406.08155).
//!
//! What ranks a layer is the mean cosine over tokens of the hidden states before and after its experts, the lowest
//! first. The paper trains a small network to predict that cosine; here it is measured.

use super::raise::raise;
use super::{Chosen, Method, Task};
use crate::evidence::Evidence;
use crate::stage::StageError;
use moepress_model::{Class, Tensor};
use moepress_quant::Format;
use moepress_stats::{Need, Needs, Of, Quantity};

pub(super) struct Block;

impl Method for Block {
    fn describe(&self) -> String {
        "block".to_owned()
    }

    fn classes(&self) -> &'static [Class] {
        &[Class::Experts, Class::SharedExperts]
    }

    fn may_leave(&self) -> bool {
        false
    }

    fn formats(&self) -> Option<usize> {
        Some(2)
    }

    fn needs(&self, _: &[Format]) -> Needs {
        Needs::of([Need::Routing, Need::Cosine])
    }

    fn choose(&self, task: &Task<'_>, evidence: &Evidence<'_>) -> Result<Chosen, StageError> {
        let mut ranked = Vec::new();
        for (layer, _) in evidence.spec.moe_layers() {
            // Every token passes every layer, so that sums rank as means do.
            ranked.push((evidence.stats.scalar(Of::Layer(layer), Quantity::Cosine)?, layer));
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let of_layer = |(_, layer): &(f64, usize)| {
            task.tensors.iter().filter(|tensor| tensor.layer() == Some(*layer)).copied().collect()
        };
        let units: Vec<Vec<Tensor>> = ranked.iter().map(of_layer).collect();
        Ok(raise(task, &units, "layers"))
    }
}
