//! `quantize`: rounds matrices to their formats.
//!
//! Parameters: `format` (one for all matrices of `classes`; absent: those that assign_bits chose), `group`,
//! `symmetric`, `classes`, `solver` (nearest: every weight to the nearest level of its group's grid).

use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError};
use crate::targets::{any_grouped, classes, code_names, format, matrices};
use moepress_model::{Class, Edit, ModelSpec, Solver, Tensor};
use moepress_quant::Format;
use moepress_recipe::{RecipeError, StageSpec};
use moepress_stats::Needs;

const SOLVERS: &[(&str, Solver)] = &[("nearest", Solver::Nearest)];

struct Quantize {
    /// One format for these classes; none: what was assigned.
    uniform: Option<(Format, Vec<Class>)>,
    solver: Solver,
    solver_name: String,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    let uniform = match params.has("format") {
        true => {
            params.only(&["format", "group", "symmetric", "classes", "solver"])?;
            let name = params.word("format", None, &code_names())?;
            Some((format(&name, params)?, classes(params)?))
        }
        false => {
            if let Some(key) = ["group", "symmetric", "classes"].into_iter().find(|key| params.has(key)) {
                return Err(params
                    .error(key, "belongs with `format`; without it the formats of assign_bits are used"));
            }
            params.only(&["format", "solver"])?;
            None
        }
    };
    let names: Vec<&str> = SOLVERS.iter().map(|(name, _)| *name).collect();
    let solver_name = params.word("solver", Some("nearest"), &names)?;
    let solver =
        SOLVERS.iter().find(|(name, _)| *name == solver_name).map_or(Solver::Nearest, |(_, solver)| *solver);
    Ok(Box::new(Quantize { uniform, solver, solver_name, params: spec.clone() }))
}

impl Stage for Quantize {
    fn describe(&self) -> String {
        match &self.uniform {
            Some((format, classes)) => {
                let classes: Vec<&str> = classes.iter().map(|class| class.name()).collect();
                format!("quantize {}: {format} for {}", self.solver_name, classes.join(", "))
            }
            None => format!("quantize {}: the formats of assign_bits", self.solver_name),
        }
    }

    fn check(&self, spec: &ModelSpec) -> Result<(), StageError> {
        let message = match &self.uniform {
            None if !any_grouped(spec) => {
                "no matrix has a format assigned; give `format`, or put an assign_bits stage with a smaller budget before"
            }
            Some((_, classes)) if matrices(spec, classes).is_empty() => {
                "the model has no matrices of these classes"
            }
            Some(_) if any_grouped(spec) => "formats were chosen before; leave `format` out, or assign_bits",
            _ => return Ok(()),
        };
        Err(self.params.error(message).into())
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let spec = evidence.spec;
        let targets: Vec<(Tensor, Format)> = match &self.uniform {
            Some((format, classes)) => {
                matrices(spec, classes).into_iter().map(|tensor| (tensor, *format)).collect()
            }
            None => {
                let assigned = |tensor| {
                    spec.format(tensor).filter(|f| matches!(f, Format::Grouped(_))).map(|f| (tensor, f))
                };
                spec.tensors().into_iter().filter_map(assigned).collect()
            }
        };
        let encode = |(tensor, format)| Edit::Encode { tensor, format, solver: self.solver };
        Ok(Decision { edits: targets.into_iter().map(encode).collect(), notes: vec![] })
    }
}

#[cfg(test)]
mod tests {
    use crate::toy::{decide, stage, toy};
    use moepress_stats::Statistics;

    #[test]
    fn one_format_for_the_classes_named() {
        let edits = decide(
            "quantize: {format: int4, group: 32, classes: [experts, attention]}",
            &Statistics::default(),
        )
        .edits;
        assert_eq!(edits.len(), 2 * (4 * 3 + 4));
        assert!(toy().after(&edits).unwrap().total_bytes() < toy().total_bytes());
        assert!(stage("quantize").check(&toy()).is_err());
    }
}
