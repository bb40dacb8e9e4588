//! `assign_bits`: chooses a format for every matrix so that the whole model fits a budget.
//!
//! Parameters: `method`, one of `bpw` (bits per weight of the whole model) and `bytes` (of all tensors), `formats`,
//! `classes`, `group`, `symmetric`, and those of the method.

mod block;
mod frequency;
mod loss_aware;
mod mc_moe;
mod outlier;
mod raise;

use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError};
use crate::targets::{CODES, OF_FORMAT, any_grouped, classes, format, left_low_rank, matrices};
use moepress_model::{Class, Edit, ModelSpec, Tensor};
use moepress_quant::Format;
use moepress_recipe::{Params, RecipeError, StageSpec};
use moepress_stats::Needs;

/// A rule that chooses formats.
trait Method: Send + Sync {
    fn describe(&self) -> String;
    /// Classes of matrices that it knows how to choose for.
    fn classes(&self) -> &'static [Class];
    /// Whether a matrix may stay as it is beside the formats of the recipe.
    fn may_leave(&self) -> bool;
    /// How many formats it chooses among, if it does not take any number.
    fn formats(&self) -> Option<usize>;
    fn needs(&self, formats: &[Format]) -> Needs;
    /// A format for every matrix that gets one, and what is to be said about them.
    fn choose(&self, task: &Task<'_>, evidence: &Evidence<'_>) -> Result<Chosen, StageError>;
}

/// What is to be chosen.
struct Task<'a> {
    /// The matrices.
    tensors: Vec<Tensor>,
    /// Formats of the recipe.
    formats: &'a [Format],
    /// Bytes that these matrices may have.
    room: u64,
    spec: &'a ModelSpec,
    stage: &'a AssignBits,
}

impl Task<'_> {
    fn bytes(&self, tensor: Tensor, format: Format) -> u64 {
        bytes_in(self.spec, tensor, format)
    }

    /// The formats of the recipe, the one that makes these matrices smallest first.
    fn by_size(&self) -> Vec<Format> {
        let mut formats = self.formats.to_vec();
        let bytes = |format| self.tensors.iter().map(|&tensor| self.bytes(tensor, format)).sum::<u64>();
        formats.sort_by_key(|&format| bytes(format));
        formats
    }

    /// An error at the budget.
    fn too_small(&self, message: impl std::fmt::Display) -> StageError {
        self.stage.params.params.error(self.stage.key(), message.to_string()).into()
    }
}

/// Formats that were chosen.
#[derive(Default)]
struct Chosen {
    formats: Vec<(Tensor, Format)>,
    notes: Vec<String>,
    /// Increase of the negative log-likelihood, where the method predicts it.
    predicted: Option<f64>,
}

type Build = fn(&Params) -> Result<Box<dyn Method>, RecipeError>;
const METHODS: &[(&str, Build, &[&str])] = &[
    ("loss_aware", |_| Ok(Box::new(loss_aware::LossAware)), &[]),
    ("mc_moe", mc_moe::build, mc_moe::KEYS),
    ("frequency", |_| Ok(Box::new(frequency::Frequency)), &[]),
    ("outlier", |_| Ok(Box::new(outlier::Outlier)), &[]),
    ("block", |_| Ok(Box::new(block::Block)), &[]),
];

#[derive(Clone, Copy)]
enum Budget {
    Bpw(f64),
    Bytes(u64),
}

struct AssignBits {
    method: Box<dyn Method>,
    budget: Budget,
    formats: Vec<Format>,
    classes: Vec<Class>,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    let names: Vec<&str> = METHODS.iter().map(|(name, ..)| *name).collect();
    let name = params.word("method", Some("loss_aware"), &names)?;
    let (_, method, keys) = METHODS.iter().find(|(known, ..)| *known == name).unwrap_or(&METHODS[0]);
    let common = ["method", "bpw", "bytes", "formats", "classes"];
    params.only(&[&common, &OF_FORMAT[..], *keys].concat())?;
    let method = method(params)?;
    let budget = match (params.has("bpw"), params.bytes("bytes")?) {
        (true, None) => Budget::Bpw(params.f64_in("bpw", None, 0.1..=32.0)?),
        (false, Some(bytes)) => Budget::Bytes(bytes),
        (true, Some(_)) => return Err(params.error("bpw", "give a budget as bpw or as bytes, not both")),
        (false, None) => {
            return Err(spec.error("needs a budget: `bpw` (bits per weight of the whole model) or `bytes`"));
        }
    };
    let words = params.words("formats", None, &CODES)?;
    if let Some(count) = method.formats().filter(|&count| count != words.len()) {
        let message = format!("{name} chooses between {count} formats, the smaller and the larger");
        return Err(params.error("formats", message));
    }
    let formats =
        words.iter().map(|word| format(word, params).map(Format::Grouped)).collect::<Result<_, _>>()?;
    let classes = classes(params)?;
    if let Some(class) = classes.iter().find(|class| !method.classes().contains(class)) {
        let known: Vec<&str> = method.classes().iter().map(|class| class.name()).collect();
        let message = format!("{name} is for {}, not {}", known.join(" and "), class.name());
        return Err(params.error("classes", message));
    }
    Ok(Box::new(AssignBits { method, budget, formats, classes, params: spec.clone() }))
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

    /// The formats a matrix may have.
    fn choices(&self, spec: &ModelSpec, tensor: Tensor) -> Vec<Format> {
        let current = spec.format(tensor).filter(|_| self.method.may_leave());
        self.formats.iter().copied().chain(current).collect()
    }

    /// Bytes of everything but these matrices.
    fn rest(spec: &ModelSpec, tensors: &[Tensor]) -> u64 {
        spec.total_bytes() - tensors.iter().map(|&tensor| spec.stored_bytes(tensor)).sum::<u64>()
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
        let method = self.method.describe();
        format!("assign_bits {method}: {budget} over {} for {}", names.join(", "), classes.join(", "))
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
        let (rest, budget) = (Self::rest(spec, &tensors), self.budget(spec));
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
        self.method.needs(&self.formats)
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let spec = evidence.spec;
        // Checked again: pruning in runs may have left more than the plan assumed.
        self.check(spec)?;
        let tensors = matrices(spec, &self.classes);
        let (rest, budget) = (Self::rest(spec, &tensors), self.budget(spec));
        let task =
            Task { tensors, formats: &self.formats, room: budget.saturating_sub(rest), spec, stage: self };
        let chosen = self.method.choose(&task, evidence)?;
        let mut after = spec.clone();
        let mut decision = Decision::default();
        for (tensor, format) in chosen.formats {
            after.set_format(tensor, format);
            if matches!(format, Format::Grouped(_)) {
                decision.edits.push(Edit::Assign { tensor, format });
            }
        }
        decision.notes.push(format!("assign_bits: {} of {budget} bytes used", after.total_bytes()));
        decision.notes.extend(left_low_rank(spec, "assign_bits"));
        decision.notes.extend(chosen.notes);
        decision.predicted = chosen.predicted;
        Ok(decision)
    }
}

/// The names of all methods.
#[cfg(test)]
pub(crate) fn names() -> Vec<&'static str> {
    METHODS.iter().map(|(name, ..)| *name).collect()
}

#[cfg(test)]
mod tests;
