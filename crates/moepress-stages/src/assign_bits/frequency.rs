//! Frequency: the most used experts of every layer get the larger of two formats (QuantMoE-Bench, arXiv 2406.08155).
//!
//! The first of every layer by tokens routed to it, then the second of every layer, and so on while the budget lasts.

use super::raise::raise;
use super::{Chosen, Method, Task};
use crate::evidence::Evidence;
use crate::stage::StageError;
use moepress_model::{Class, Part, Tensor};
use moepress_quant::Format;
use moepress_stats::{Need, Needs};

pub(super) struct Frequency;

impl Method for Frequency {
    fn describe(&self) -> String {
        "frequency".to_owned()
    }

    fn classes(&self) -> &'static [Class] {
        &[Class::Experts]
    }

    fn may_leave(&self) -> bool {
        false
    }

    fn formats(&self) -> Option<usize> {
        Some(2)
    }

    fn needs(&self, _: &[Format]) -> Needs {
        Needs::of([Need::Routing])
    }

    fn choose(&self, task: &Task<'_>, evidence: &Evidence<'_>) -> Result<Chosen, StageError> {
        let mut ranked = Vec::new();
        for (layer, moe) in evidence.spec.moe_layers() {
            let tokens = evidence.tokens(layer)?;
            let mut order: Vec<usize> = (0..moe.experts.len()).collect();
            order.sort_by(|&a, &b| tokens[b].total_cmp(&tokens[a]).then(a.cmp(&b)));
            ranked.extend(order.into_iter().enumerate().map(|(rank, expert)| (rank, layer, expert)));
        }
        ranked.sort_unstable();
        let units: Vec<Vec<Tensor>> =
            ranked.into_iter().map(|(_, layer, expert)| of_expert(task, layer, expert)).collect();
        Ok(raise(task, &units, "experts"))
    }
}

/// The matrices of an expert that get a format.
pub(super) fn of_expert(task: &Task<'_>, layer: usize, expert: usize) -> Vec<Tensor> {
    let ours = |tensor: &&Tensor| matches!(tensor, Tensor::Layer(l, Part::Expert { expert: e, .. }) if (*l, *e) == (layer, expert));
    task.tensors.iter().filter(ours).copied().collect()
}
