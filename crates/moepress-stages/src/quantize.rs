//! `quantize`: rounds matrices to their formats.
//!
//! Parameters: `format` (one for all matrices of `classes`; absent: those that assign_bits chose), `group` (16, 32, 64, 128
//! or `row`), `symmetric`, `classes`, `solver`, `codec`, and for the solver gptq `damp` and `act_order`.
//!
//! Solver `nearest`: every weight to the nearest level of its group's grid. Solver `gptq` (arXiv 2210.17323): columns
//! in turn, the later ones making up for the errors of the earlier ones on the calibration text, whose hidden states
//! are those of the layers as they were rounded before.

use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError};
use crate::targets::{any_grouped, classes, code_names, codec, format, matrices};
use moepress_model::{Class, Edit, ModelSpec, Solver, Tensor, await_inputs};
use moepress_quant::Format;
use moepress_quant::codec::Packing;
use moepress_recipe::{Params, RecipeError, StageSpec};
use moepress_stats::Needs;
use std::ops::Bound;

const SOLVERS: [&str; 2] = ["nearest", "gptq"];

/// Damping unless told; that of the paper.
const DAMP: f64 = 0.01;

struct Quantize {
    /// One format for these classes; none: what was assigned.
    uniform: Option<(Format, Vec<Class>)>,
    solver: Solver,
    codec: Packing,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    let uniform = match params.has("format") {
        true => {
            params.only(&[
                "format",
                "group",
                "symmetric",
                "classes",
                "solver",
                "damp",
                "act_order",
                "codec",
            ])?;
            let name = params.word("format", None, &code_names())?;
            Some((format(&name, params)?, classes(params)?))
        }
        false => {
            if let Some(key) = ["group", "symmetric", "classes"].into_iter().find(|key| params.has(key)) {
                return Err(params
                    .error(key, "belongs with `format`; without it the formats of assign_bits are used"));
            }
            params.only(&["format", "solver", "damp", "act_order", "codec"])?;
            None
        }
    };
    Ok(Box::new(Quantize { uniform, solver: solver(params)?, codec: codec(params)?, params: spec.clone() }))
}

fn solver(params: &Params) -> Result<Solver, RecipeError> {
    if params.word("solver", Some("nearest"), &SOLVERS)? == "gptq" {
        let damp = params.f64_in("damp", Some(DAMP), (Bound::Excluded(0.0), Bound::Included(10.0)))?;
        return Ok(Solver::Gptq { damp, act_order: params.bool("act_order", Some(false))? });
    }
    match ["damp", "act_order"].into_iter().find(|key| params.has(key)) {
        Some(key) => Err(params.error(key, "belongs to `solver: gptq`")),
        None => Ok(Solver::Nearest),
    }
}

fn describe(solver: Solver, codec: Packing) -> String {
    let solver = match solver {
        Solver::Nearest => "nearest".to_owned(),
        Solver::Gptq { damp, act_order } => {
            format!("gptq, damp {damp}{}", if act_order { ", act_order" } else { "" })
        }
        Solver::Within { damp, bytes, .. } => format!("gptq, damp {damp}, within {bytes} bytes"),
    };
    match codec {
        Packing::Fields => solver,
        Packing::Best => format!("{solver}, codec best"),
    }
}

impl Stage for Quantize {
    fn describe(&self) -> String {
        match &self.uniform {
            Some((format, classes)) => {
                let classes: Vec<&str> = classes.iter().map(|class| class.name()).collect();
                format!("quantize {}: {format} for {}", describe(self.solver, self.codec), classes.join(", "))
            }
            None => format!("quantize {}: the formats of assign_bits", describe(self.solver, self.codec)),
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
        let encode =
            |(tensor, format)| Edit::Encode { tensor, format, solver: self.solver, codec: self.codec };
        let edits: Vec<Edit> = targets.into_iter().map(encode).collect();
        let nearest = await_inputs(&edits).into_iter().filter(|waits| !waits).count();
        let note = match self.solver {
            Solver::Gptq { .. } if nearest > 0 => Some(format!(
                "quantize: {nearest} matrices outside the layers are rounded to nearest, gptq is for those inside"
            )),
            _ => None,
        };
        Ok(Decision { edits, notes: note.into_iter().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let what = stage("quantize: {format: int4, group: row, symmetric: true}").describe();
        assert_eq!(what, "quantize nearest: int4-sym-row for experts");
        let best = decide("quantize: {format: int4, codec: best}", &Statistics::default()).edits;
        assert!(best.iter().all(|edit| matches!(edit, Edit::Encode { codec: Packing::Best, .. })));
        assert_eq!(
            stage("quantize: {format: int4, codec: best}").describe(),
            "quantize nearest, codec best: int4-g64 for experts"
        );
    }

    #[test]
    fn gptq_waits_for_inputs_except_outside_the_layers() {
        let decided = |yaml: &str| decide(yaml, &Statistics::default());
        let all = decided(
            "quantize: {format: int3, solver: gptq, act_order: true, classes: [experts, embeddings]}",
        );
        assert_eq!(await_inputs(&all.edits).iter().filter(|waits| !**waits).count(), 1);
        assert_eq!(all.notes.len(), 1);
        let gptq = Solver::Gptq { damp: 0.01, act_order: true };
        assert!(all.edits.iter().all(|edit| matches!(edit, Edit::Encode { solver, .. } if *solver == gptq)));
        assert!(!await_inputs(&decided("quantize: {format: int3}").edits).contains(&true));
        let what = stage("quantize: {format: int3, solver: gptq, damp: 0.1}").describe();
        assert_eq!(what, "quantize gptq, damp 0.1: int3-g64 for experts");
    }
}
