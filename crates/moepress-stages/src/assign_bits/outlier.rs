//! Outliers: matrices with the strongest outliers get the larger of two formats (QuantMoE-Bench, arXiv 2406.08155).
//!
//! score(W) = max over input columns c of max_r |W_rc| / mean_r |W_rc|, of the weights alone, so that no text is needed.
//! Matrices of all layers and classes are ranked together; of equals the first.

use super::raise::raise;
use super::{Chosen, Method, Task};
use crate::evidence::Evidence;
use crate::stage::StageError;
use moepress_model::{Class, Tensor};
use moepress_quant::Format;
use moepress_stats::{Needs, StatisticsError, WeightNeed};

pub(super) struct Outlier;

impl Method for Outlier {
    fn describe(&self) -> String {
        "outlier".to_owned()
    }

    fn classes(&self) -> &'static [Class] {
        use Class::{Attention, DenseMlp, Embeddings, Experts, SharedExperts};
        &[Experts, SharedExperts, Attention, Embeddings, DenseMlp]
    }

    fn may_leave(&self) -> bool {
        false
    }

    fn formats(&self) -> Option<usize> {
        Some(2)
    }

    fn needs(&self, _: &[Format]) -> Needs {
        Needs::default().and_weights(WeightNeed::Outliers)
    }

    fn choose(&self, task: &Task<'_>, evidence: &Evidence<'_>) -> Result<Chosen, StageError> {
        let score = |&tensor: &Tensor| {
            let missing = || StatisticsError::Missing(format!("outliers of {tensor}"));
            Ok((evidence.weights.outliers.get(&tensor).copied().ok_or_else(missing)?, tensor))
        };
        let mut ranked = task.tensors.iter().map(score).collect::<Result<Vec<_>, StatisticsError>>()?;
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let units: Vec<Vec<Tensor>> = ranked.into_iter().map(|(_, tensor)| vec![tensor]).collect();
        Ok(raise(task, &units, "matrices"))
    }
}
