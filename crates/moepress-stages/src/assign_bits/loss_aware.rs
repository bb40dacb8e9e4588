//! A choice costs the loss that a diagonal Fisher predicts for its rounding errors; the cheapest choices within the
//! budget are found on the convex hull of every matrix, with a proven gap.

use super::{Chosen, Method, Task};
use crate::evidence::Evidence;
use crate::stage::StageError;
use moepress_model::Class;
use moepress_numerics::knapsack::{Choice, allocate};
use moepress_quant::Format;
use moepress_stats::{Need, Needs, StatisticsError};

pub(super) struct LossAware;

impl Method for LossAware {
    fn describe(&self) -> String {
        "loss_aware".to_owned()
    }

    fn classes(&self) -> &'static [Class] {
        use Class::{Attention, DenseMlp, Embeddings, Experts, SharedExperts};
        &[Experts, SharedExperts, Attention, Embeddings, DenseMlp]
    }

    fn may_leave(&self) -> bool {
        true
    }

    fn formats(&self) -> Option<usize> {
        None
    }

    fn needs(&self, formats: &[Format]) -> Needs {
        Needs { formats: formats.iter().copied().collect(), ..Needs::of([Need::Fisher, Need::Routing]) }
    }

    fn choose(&self, task: &Task<'_>, evidence: &Evidence<'_>) -> Result<Chosen, StageError> {
        let mut items = Vec::with_capacity(task.tensors.len());
        let choices = |tensor| task.stage.choices(task.spec, tensor);
        for &tensor in &task.tensors {
            let choice = |format: Format| {
                let cost = match format {
                    Format::Plain(_) | Format::LowRank(_) => Some(0.0),
                    Format::Grouped(_) => evidence.costs.get(tensor, format),
                };
                let missing = || StatisticsError::Missing(format!("{tensor}.rounding_cost.{format}"));
                Ok(Choice { bytes: task.bytes(tensor, format), cost: cost.ok_or_else(missing)? })
            };
            items.push(choices(tensor).into_iter().map(choice).collect::<Result<Vec<_>, StatisticsError>>()?);
        }
        let found = allocate(&items, task.room).map_err(|e| task.too_small(e))?;
        let format = |(&tensor, &chosen): (&_, &usize)| (tensor, choices(tensor)[chosen]);
        let mut notes = vec![format!(
            "assign_bits: predicted increase of NLL {:.5} nats per token (at most {:.1e} above the optimum)",
            found.cost, found.gap
        )];
        notes.extend(evidence.unreached("cost nothing in any format")?);
        let formats = task.tensors.iter().zip(&found.chosen).map(format).collect();
        Ok(Chosen { formats, notes, predicted: Some(found.cost) })
    }
}
