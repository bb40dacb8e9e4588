//! `quantize`: rounds matrices to their formats.
//!
//! Parameters: `format` (one for all matrices of `classes`; absent: those that assign_bits chose), `group` (16, 32, 64, 128
//! or `row`), `symmetric`, `scales`, `grid`, `classes`, `solver`, `codec`, and for the solver gptq `damp`, `act_order` and
//! `weighted`.
//!
//! `codec`: `fields`, `best` (the smallest of all) or `planes`, of which a reader may do with the first: they hold the
//! highest bits of all codes (matryoshka weights, arXiv 2504.15299).
//!
//! Solver `nearest`: every weight to the nearest level of its group's grid. Solver `hqq` (Badri and Shaji, 2023): the
//! same, once grids are moved so that most errors are small and few are large. Solver `gptq` (arXiv 2210.17323): columns
//! in turn, the later ones making up for the errors of the earlier ones on the calibration text, whose hidden states
//! are those of the layers as they were rounded before.

use crate::evidence::Evidence;
use crate::stage::{Decision, Stage, StageError};
use crate::targets::{CODES, OF_FORMAT, any_grouped, classes, codec, format, grid, left_low_rank, matrices};
use moepress_model::{Class, Edit, ModelSpec, Solver, Tensor, await_inputs};
use moepress_quant::codec::{Codec, Packing};
use moepress_quant::formats::GridRule;
use moepress_quant::{Format, Grouped};
use moepress_recipe::{Params, RecipeError, StageSpec};
use moepress_stats::Needs;
use std::ops::Bound;

const SOLVERS: [&str; 3] = ["nearest", "hqq", "gptq"];

/// Parameters of the solver gptq.
const OF_GPTQ: [&str; 3] = ["damp", "act_order", "weighted"];

/// Damping unless told; that of the paper.
const DAMP: f64 = 0.01;

struct Quantize {
    /// One format for these classes; none: what was assigned.
    uniform: Option<(Format, Vec<Class>)>,
    solver: Solver,
    grid: Option<GridRule>,
    codec: Packing,
    params: StageSpec,
}

pub(crate) fn build(spec: &StageSpec) -> Result<Box<dyn Stage>, RecipeError> {
    let params = &spec.params;
    let known: &[&str] = &["format", "group", "symmetric", "scales", "grid", "classes", "solver", "codec"];
    params.only(&[known, &OF_GPTQ].concat())?;
    let solver = solver(params)?;
    let (mut uniform, mut rule) = (None, None);
    if params.has("format") {
        let format = format(&params.word("format", None, &CODES)?, params)?;
        if let Some(key) = OF_FORMAT.into_iter().find(|key| format == Grouped::MXFP4 && params.has(key)) {
            return Err(
                params.error(key, "is not for mxfp4: it has groups of 32 and scales that are powers of two")
            );
        }
        if params.has("grid") && solver == Solver::Hqq {
            return Err(params.error("grid", "is what the solver hqq chooses"));
        }
        rule = grid(format, params)?;
        uniform = Some((Format::Grouped(format), classes(params)?));
    } else if let Some(key) = OF_FORMAT.into_iter().chain(["grid", "classes"]).find(|key| params.has(key)) {
        return Err(
            params.error(key, "belongs with `format`; without it the formats of assign_bits are used")
        );
    }
    Ok(Box::new(Quantize { uniform, solver, grid: rule, codec: codec(params)?, params: spec.clone() }))
}

fn solver(params: &Params) -> Result<Solver, RecipeError> {
    let word = params.word("solver", Some("nearest"), &SOLVERS)?;
    if word == "gptq" {
        let damp = params.f64_in("damp", Some(DAMP), (Bound::Excluded(0.0), Bound::Included(10.0)))?;
        let [act_order, weighted] = ["act_order", "weighted"].map(|key| params.bool(key, Some(false)));
        return Ok(Solver::Gptq { damp, act_order: act_order?, weighted: weighted? });
    }
    match OF_GPTQ.into_iter().find(|key| params.has(key)) {
        Some(key) => Err(params.error(key, "belongs to `solver: gptq`")),
        None if word == "hqq" => Ok(Solver::Hqq),
        None => Ok(Solver::Nearest),
    }
}

impl Quantize {
    /// The matrices that are rounded, and their formats.
    fn targets(&self, spec: &ModelSpec) -> Vec<(Tensor, Format)> {
        match &self.uniform {
            Some((format, classes)) => {
                matrices(spec, classes).into_iter().map(|tensor| (tensor, *format)).collect()
            }
            None => {
                let assigned = |tensor| {
                    spec.format(tensor).filter(|f| matches!(f, Format::Grouped(_))).map(|f| (tensor, f))
                };
                spec.tensors().into_iter().filter_map(assigned).collect()
            }
        }
    }

    /// Planes are for whole numbers, and cost what was planned for rows of whole bytes.
    fn check_planes(&self, spec: &ModelSpec) -> Result<(), RecipeError> {
        if self.codec != Packing::Planes {
            return Ok(());
        }
        for (tensor, format) in self.targets(spec) {
            let message = match format {
                Format::Grouped(grouped) if !Codec::has_planes(grouped) => {
                    format!("planes are for int2, int3, int4 and int8, {tensor} is in {format}")
                }
                _ if spec
                    .shape(tensor)
                    .and_then(|shape| shape.last().copied())
                    .is_some_and(|cols| cols % 8 > 0) =>
                {
                    format!("planes need rows of a multiple of 8 weights, which those of {tensor} have not")
                }
                _ => continue,
            };
            return Err(self.params.params.error("codec", message));
        }
        Ok(())
    }

    /// How codes are found and stored, in words.
    fn how(&self) -> String {
        let mut words = match self.solver {
            Solver::Nearest => vec!["nearest".to_owned()],
            Solver::Hqq => vec!["hqq".to_owned()],
            Solver::Gptq { damp, .. } => vec!["gptq".to_owned(), format!("damp {damp}")],
            Solver::Within { damp, bytes, .. } => {
                vec!["gptq".to_owned(), format!("damp {damp}"), format!("within {bytes} bytes")]
            }
        };
        if let Solver::Gptq { act_order, weighted, .. } = self.solver {
            let flags = [(act_order, "act_order"), (weighted, "weighted")];
            words.extend(flags.into_iter().filter(|(on, _)| *on).map(|(_, word)| word.to_owned()));
        }
        words.extend(self.grid.map(|rule| format!("grid {}", rule.name())));
        words.extend(match self.codec {
            Packing::Fields => None,
            Packing::Best => Some("codec best".to_owned()),
            Packing::Planes => Some("in planes".to_owned()),
        });
        words.join(", ")
    }
}

impl Stage for Quantize {
    fn describe(&self) -> String {
        match &self.uniform {
            Some((format, classes)) => {
                let classes: Vec<&str> = classes.iter().map(|class| class.name()).collect();
                format!("quantize {}: {format} for {}", self.how(), classes.join(", "))
            }
            None => format!("quantize {}: the formats of assign_bits", self.how()),
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
            _ => return Ok(self.check_planes(spec)?),
        };
        Err(self.params.error(message).into())
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn decide(&self, evidence: &Evidence<'_>) -> Result<Decision, StageError> {
        let spec = evidence.spec;
        self.check_planes(spec)?;
        let targets = self.targets(spec);
        let Self { solver, grid, codec, .. } = *self;
        let encode = |(tensor, format)| Edit::Encode { tensor, format, solver, grid, codec };
        let edits: Vec<Edit> = targets.into_iter().map(encode).collect();
        let nearest = await_inputs(&edits).into_iter().filter(|waits| !waits).count();
        let note = match self.solver {
            Solver::Gptq { .. } if nearest > 0 => Some(format!(
                "quantize: {nearest} matrices outside the layers are rounded to nearest, gptq is for those inside"
            )),
            _ => None,
        };
        let notes = note.into_iter().chain(left_low_rank(spec, "quantize")).collect();
        Ok(Decision { edits, notes, predicted: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{decide, refused, stage, toy};
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
    fn formats_grids_and_solvers_are_words() {
        for (yaml, what) in [
            (
                "{format: ternary, group: row, grid: min_max, scales: ue5m3}",
                "nearest, grid min_max: ternary-row-ue5m3",
            ),
            ("{format: ternary-asym, group: 16, solver: hqq}", "hqq: ternary-asym-g16"),
            (
                "{format: int3, grid: optimal, solver: gptq, weighted: true}",
                "gptq, damp 0.01, weighted, grid optimal: int3-g64",
            ),
            ("{format: fp8, group: row}", "nearest: fp8-row"),
            ("{format: int8, codec: planes}", "nearest, in planes: int8-g64"),
            ("{format: mxfp4, solver: gptq}", "gptq, damp 0.01: mxfp4"),
        ] {
            let what = format!("quantize {what} for experts");
            assert_eq!(stage(&format!("quantize: {yaml}")).describe(), what);
        }
        for (yaml, error) in [
            ("{format: mxfp4, group: 32}", "quantize.group: is not for mxfp4"),
            ("{format: int2, symmetric: true, scales: ue5m3}", "there is no format int2-sym-g64-ue5m3"),
            ("{format: int4, grid: absmean}", "cannot be `absmean` for int4-g64"),
            ("{format: int4, grid: optimal, solver: hqq}", "is what the solver hqq chooses"),
            ("{format: int4, weighted: true}", "belongs to `solver: gptq`"),
            ("{grid: optimal}", "belongs with `format`"),
            ("{format: int5}", "unknown word"),
        ] {
            let found = refused(&format!("quantize: {yaml}"));
            assert!(found.contains(error), "{found}");
        }
    }

    #[test]
    fn planes_are_for_whole_numbers_and_whole_bytes() {
        let checked = |yaml: &str| stage(yaml).check(&toy()).err().map(|error| error.to_string());
        let attention = "classes: [attention], codec: planes";
        assert_eq!(checked(&format!("quantize: {{format: int8, {attention}}}")), None);
        let ternary = checked(&format!("quantize: {{format: ternary, {attention}}}")).unwrap();
        assert!(ternary.contains("quantize.codec: planes are for int2"), "{ternary}");
        let narrow = checked("quantize: {format: int8, codec: planes}").unwrap();
        assert!(narrow.contains("multiple of 8 weights") && narrow.contains("down_proj"), "{narrow}");
    }

    #[test]
    fn gptq_waits_for_inputs_except_outside_the_layers() {
        let decided = |yaml: &str| decide(yaml, &Statistics::default());
        let all = decided(
            "quantize: {format: int3, solver: gptq, act_order: true, classes: [experts, embeddings]}",
        );
        assert_eq!(await_inputs(&all.edits).iter().filter(|waits| !**waits).count(), 1);
        assert_eq!(all.notes.len(), 1);
        let gptq = Solver::Gptq { damp: 0.01, act_order: true, weighted: false };
        assert!(all.edits.iter().all(|edit| matches!(edit, Edit::Encode { solver, .. } if *solver == gptq)));
        assert!(!await_inputs(&decided("quantize: {format: int3}").edits).contains(&true));
        let what = stage("quantize: {format: int3, solver: gptq, damp: 0.1}").describe();
        assert_eq!(what, "quantize gptq, damp 0.1: int3-g64 for experts");
    }
}
