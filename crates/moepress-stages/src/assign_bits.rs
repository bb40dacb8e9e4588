//! `assign_bits`: chooses a format for every matrix so that the whole model fits a budget.
//!
//! Parameters: `method`, one of `bpw` (bits per weight of the whole model) and `bytes` (of all tensors),
//! `formats`, `classes`, `group`, `symmetric`, `scales`.
//!
//! Method `loss_aware`: a choice costs the loss that a diagonal Fisher predicts for its rounding errors, and
//! the cheapest choices within the budget are found by the convex hull of every matrix, with a proven gap
//! (methods.md 6, budget.md 1–3).

use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError};
use crate::targets::{CODES, any_grouped, classes, format, matrices};
use moepress_model::{Class, Edit, ModelSpec, Tensor};
use moepress_numerics::knapsack::{Choice, KnapsackError, allocate};
use moepress_quant::Format;
use moepress_recipe::{RecipeError, StageSpec};
use moepress_stats::{Need, Needs};

#[derive(Clone, Copy)]
enum Budget {
    Bpw(f64),
    Bytes(u64),
}

struct AssignBits {
    budget: Budget,
    formats: Vec<Format>,
    classes: Vec<Class>,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    params.only(&["method", "bpw", "bytes", "formats", "classes", "group", "symmetric", "scales"])?;
    params.word("method", Some("loss_aware"), &["loss_aware"])?;
    let budget = match (params.has("bpw"), params.bytes("bytes")?) {
        (true, None) => Budget::Bpw(params.f64_in("bpw", None, 0.1..=32.0)?),
        (false, Some(bytes)) => Budget::Bytes(bytes),
        (true, Some(_)) => return Err(params.error("bpw", "give a budget as bpw or as bytes, not both")),
        (false, None) => {
            return Err(spec.error("needs a budget: `bpw` (bits per weight of the whole model) or `bytes`"));
        }
    };
    let words = params.words("formats", None, &CODES)?;
    let formats =
        words.iter().map(|word| format(word, params).map(Format::Grouped)).collect::<Result<_, _>>()?;
    Ok(Box::new(AssignBits { budget, formats, classes: classes(params)?, params: spec.clone() }))
}

impl AssignBits {
    /// Bytes that all tensors together may have.
    fn budget(&self, spec: &ModelSpec) -> u64 {
        match self.budget {
            Budget::Bpw(bpw) => (spec.total_weights() as f64 * bpw / 8.0).floor() as u64,
            Budget::Bytes(bytes) => bytes,
        }
    }

    fn key(&self) -> &'static str {
        match self.budget {
            Budget::Bpw(_) => "bpw",
            Budget::Bytes(_) => "bytes",
        }
    }

    /// The formats a matrix may have: those of the recipe, or to stay as it is.
    fn choices(&self, spec: &ModelSpec, tensor: Tensor) -> Vec<Format> {
        self.formats.iter().copied().chain(spec.format(tensor)).collect()
    }
}

fn bytes_in(spec: &ModelSpec, tensor: Tensor, format: Format) -> u64 {
    match spec.shape(tensor).as_deref() {
        Some(&[rows, cols]) => format.stored_bytes(rows, cols),
        _ => 0,
    }
}

impl Stage for AssignBits {
    fn describe(&self) -> String {
        let names: Vec<String> = self.formats.iter().map(Format::to_string).collect();
        let budget = match self.budget {
            Budget::Bpw(bpw) => format!("{bpw} bits per weight"),
            Budget::Bytes(bytes) => format!("{bytes} bytes"),
        };
        let classes: Vec<&str> = self.classes.iter().map(|class| class.name()).collect();
        format!("assign_bits loss_aware: {budget} over {} for {}", names.join(", "), classes.join(", "))
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), StageError> {
        if any_grouped(spec) {
            return Err(self
                .params
                .error("formats were chosen before; one assign_bits stage, before quantize")
                .into());
        }
        let tensors = matrices(spec, &self.classes);
        if tensors.is_empty() {
            return Err(self.params.error("the model has no matrices of these classes").into());
        }
        let least: u64 = tensors
            .iter()
            .map(|&tensor| {
                self.choices(spec, tensor).iter().map(|&f| bytes_in(spec, tensor, f)).min().unwrap_or(0)
            })
            .sum();
        let rest = spec.total_bytes() - tensors.iter().map(|&tensor| spec.stored_bytes(tensor)).sum::<u64>();
        let budget = self.budget(spec);
        if least + rest > budget {
            let message = format!(
                "is {budget} bytes, but the smallest formats need {} ({rest} of them outside `classes`); raise it, add classes or prune more",
                least + rest
            );
            return Err(self.params.params.error(self.key(), message).into());
        }
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { formats: self.formats.iter().copied().collect(), ..Needs::of([Need::Fisher, Need::Routing]) }
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let spec = evidence.spec;
        // Checked again: pruning in runs may have left more than the plan assumed.
        self.check(spec)?;
        let tensors = matrices(spec, &self.classes);
        let rest = spec.total_bytes() - tensors.iter().map(|&tensor| spec.stored_bytes(tensor)).sum::<u64>();
        let mut items = Vec::with_capacity(tensors.len());
        for &tensor in &tensors {
            let choice = |&format: &Format| {
                let cost = match format {
                    Format::Plain(_) => Some(0.0),
                    Format::Grouped(_) => evidence.costs.get(tensor, format),
                };
                let missing =
                    || moepress_stats::StatisticsError::Missing(format!("{tensor}.rounding_cost.{format}"));
                Ok(Choice { bytes: bytes_in(spec, tensor, format), cost: cost.ok_or_else(missing)? })
            };
            let formats = self.choices(spec, tensor);
            items.push(
                formats.iter().map(choice).collect::<Result<Vec<_>, moepress_stats::StatisticsError>>()?,
            );
        }
        let room = self.budget(spec).saturating_sub(rest);
        let found = allocate(&items, room)
            .map_err(|e: KnapsackError| self.params.params.error(self.key(), e.to_string()))?;
        let mut decision = Decision::default();
        for (&tensor, &chosen) in tensors.iter().zip(&found.chosen) {
            let format = self.choices(spec, tensor)[chosen];
            if matches!(format, Format::Grouped(_)) {
                decision.edits.push(Edit::Assign { tensor, format });
            }
        }
        decision.notes.push(format!(
            "assign_bits: {} of {} bytes used, predicted increase of NLL {:.5} nats per token (at most {:.1e} above the optimum)",
            found.bytes + rest,
            self.budget(spec),
            found.cost,
            found.gap
        ));
        decision.notes.extend(evidence.unreached("cost nothing in any format")?);
        Ok(decision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::assumed;
    use crate::toy::{stage, toy};
    use moepress_recipe::Coverage;

    #[test]
    fn the_budget_is_kept_and_used() {
        let spec = toy();
        for bytes in [1950, 2000, 2200, 2500, 3000] {
            let stage = stage(&format!(
                "assign_bits: {{bytes: {bytes}, formats: [ternary, int2, int4, int8], group: 32}}"
            ));
            stage.check(&spec).unwrap();
            let (stats, costs) = assumed(&spec, &stage.needs()).unwrap();
            let decision = stage
                .decide(&Evidence {
                    spec: &spec,
                    stats: &stats,
                    costs: &costs,
                    coverage: Coverage::default(),
                })
                .unwrap();
            let after = spec.after(&decision.edits).unwrap().total_bytes();
            assert!(after <= bytes && after + 100 > bytes, "{after} of {bytes}");
        }
        let message =
            stage("assign_bits: {bytes: 900, formats: [ternary]}").check(&spec).unwrap_err().to_string();
        assert!(message.contains("smallest formats need"), "{message}");
    }
}
