//! Rounding matrices whose inputs are known.

use super::ApplyError;
use moepress_model::{Edit, Part, Solver, Tensor};
use moepress_quant::codec::Packing;
use moepress_quant::solve::{Factor, Options, Report, SolveError};
use moepress_quant::{Format, Grouped, Stored};
use std::collections::BTreeMap;

/// How a matrix is rounded once its inputs are known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    /// Its format.
    pub format: Grouped,
    /// Damping, see [`Options::damp`].
    pub damp: f64,
    /// Order of the columns, see [`Options::act_order`].
    pub act_order: bool,
    /// How its codes are stored.
    pub codec: Packing,
}

/// What became of a matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Solved {
    /// Rows of the matrix.
    pub rows: usize,
    /// What the solver did.
    pub report: Report,
}

/// The matrices of a layer that wait for their inputs after `edits`, by their parts in the model as it is then. The
/// same edits without those that wait ([`Edit::awaits_inputs`]) leave these matrices plain.
///
/// # Errors
/// A later edit takes the weights of a matrix that waits.
pub fn awaited(layer: usize, edits: &[Edit]) -> Result<BTreeMap<Part, Rounding>, ApplyError> {
    let mut waiting: BTreeMap<Part, Rounding> = BTreeMap::new();
    for edit in edits.iter().filter(|edit| edit.layer() == Some(layer)) {
        let taken = match edit {
            Edit::Encode { tensor: Tensor::Layer(_, part), format, solver, codec } => {
                match (*format, *solver) {
                    (Format::Grouped(format), Solver::Gptq { damp, act_order }) => {
                        waiting.insert(*part, Rounding { format, damp, act_order, codec: *codec });
                        None
                    }
                    _ => waiting.keys().find(|waits| *waits == part),
                }
            }
            Edit::KeepExperts { experts, .. } => {
                let kept = |(part, rounding): (Part, Rounding)| match part.expert() {
                    None => Some((part, rounding)),
                    Some(expert) => Some((part.of_expert(experts.binary_search(&expert).ok()?), rounding)),
                };
                waiting = waiting.into_iter().filter_map(kept).collect();
                None
            }
            Edit::MergeExperts { .. } => waiting.keys().find(|part| part.expert().is_some()),
            Edit::KeepAtoms { expert, .. } | Edit::CutSegments { expert, .. } => {
                waiting.keys().find(|part| part.expert() == Some(*expert))
            }
            Edit::Encode { .. } | Edit::Assign { .. } | Edit::DropCarried => None,
        };
        if let Some(part) = taken {
            return Err(ApplyError::Missing { layer, part: part.to_string() });
        }
    }
    Ok(waiting)
}

/// Rounds those matrices of `layer` that share their inputs, of which `gram` is Σ x xᵀ, `[cols, cols]`; those that
/// `waiting` does not name are left as they are.
///
/// # Errors
/// A matrix or the gram holds what no solver can work with.
pub fn round(
    layer: usize,
    waiting: &BTreeMap<Part, Rounding>,
    gram: &[f64],
    matrices: &mut [(Part, Stored)],
) -> Result<Vec<Solved>, ApplyError> {
    let mut factor: Option<(Options, Factor)> = None;
    let mut solved = vec![];
    for (part, stored) in matrices {
        let Some(rounding) = waiting.get(part) else { continue };
        let failed = |source: SolveError| ApplyError::Solve {
            tensor: Tensor::Layer(layer, *part).to_string(),
            source,
        };
        let (rows, cols) = stored.matrix_shape();
        let options = Options { damp: rounding.damp, act_order: rounding.act_order, weighted: false };
        let (_, factor) = match factor.take().filter(|(of, _)| *of == options) {
            Some(known) => factor.insert(known),
            None => factor.insert((options, Factor::new(gram, cols, options).map_err(failed)?)),
        };
        let (packed, report) = factor.solve(rounding.format, rows, &stored.to_f32()).map_err(failed)?;
        *stored = Stored::Packed(packed.repacked(rounding.codec));
        solved.push(Solved { rows, report });
    }
    Ok(solved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_model::Projection;
    use moepress_quant::solve::Curvature;
    use moepress_quant::{Dtype, Plain};

    fn part(expert: usize) -> Part {
        Part::Expert { expert, segment: 0, projection: Projection::Up }
    }

    fn encode(part: Part, solver: Solver) -> Edit {
        let format = "int3-g32".parse().unwrap();
        Edit::Encode { tensor: Tensor::Layer(2, part), format, solver, codec: Packing::Best }
    }

    const GPTQ: Solver = Solver::Gptq { damp: 0.01, act_order: true };

    #[test]
    fn what_waits_follows_the_experts_that_are_kept() {
        let edits = [
            encode(part(0), GPTQ),
            encode(part(1), Solver::Nearest),
            encode(part(3), GPTQ),
            Edit::KeepExperts { layer: 2, experts: vec![1, 3] },
        ];
        let waiting = awaited(2, &edits).unwrap();
        assert_eq!(waiting.keys().copied().collect::<Vec<_>>(), [part(1)]);
        assert!(waiting[&part(1)].act_order && awaited(1, &edits).unwrap().is_empty());
        assert_eq!(edits.map(|edit| edit.awaits_inputs()), [true, false, true, false]);
    }

    #[test]
    fn weights_that_wait_cannot_be_taken() {
        let atoms = |expert| Edit::KeepAtoms { layer: 2, expert, atoms: vec![0] };
        let refused = awaited(2, &[encode(part(0), GPTQ), atoms(0)]).unwrap_err().to_string();
        assert!(refused.contains("already quantized"), "{refused}");
        assert!(awaited(2, &[encode(part(0), GPTQ), atoms(1)]).is_ok());
        let merge = Edit::MergeExperts { layer: 2, groups: vec![], align: false };
        assert!(awaited(2, &[encode(part(0), GPTQ), merge.clone()]).is_err());
        assert!(awaited(2, &[merge, encode(part(0), GPTQ)]).is_ok());
        assert!(awaited(2, &[encode(part(0), GPTQ), encode(part(0), Solver::Nearest)]).is_err());
    }

    #[test]
    fn one_factor_serves_all_and_no_token_means_nearest() {
        let cols = 40;
        let value = |at: usize| ((at * 37 % 101) as f32 - 50.0) / 64.0;
        let matrix = |rows: usize, salt: usize| {
            let values: Vec<f32> = (0..rows * cols).map(|at| value(at * 7 + salt)).collect();
            Stored::Plain(Plain::from_f32(Dtype::F32, vec![rows, cols], &values))
        };
        let inputs: Vec<f64> = (0..90 * cols).map(|at| f64::from(value(at * at + 3))).collect();
        let mut gram = vec![0.0; cols * cols];
        for x in inputs.chunks(cols) {
            (0..cols * cols).for_each(|at| gram[at] += x[at / cols] * x[at % cols]);
        }
        let waiting = awaited(2, &[encode(part(0), GPTQ), encode(part(1), GPTQ)]).unwrap();
        let matrices = || vec![(part(0), matrix(5, 1)), (part(1), matrix(3, 2)), (part(2), matrix(2, 3))];
        let mut rounded = matrices();
        let solved = round(2, &waiting, &gram, &mut rounded).unwrap();
        let options = Options { damp: 0.01, act_order: true, weighted: false };
        let factor = Factor::new(&gram, cols, options).unwrap();
        for (at, (part, stored)) in matrices().into_iter().enumerate().take(2) {
            let rounding = waiting[&part];
            let (packed, report) =
                factor.solve(rounding.format, stored.matrix_shape().0, &stored.to_f32()).unwrap();
            assert_eq!(rounded[at], (part, Stored::Packed(packed.repacked(Packing::Best))));
            assert_eq!(solved[at].report, report);
            assert!(report.objective < report.objective_nearest);
        }
        assert_eq!((&rounded[2], solved.len()), (&matrices()[2], 2));
        let mut rounded = matrices();
        let solved = round(2, &waiting, &vec![0.0; cols * cols], &mut rounded).unwrap();
        assert_eq!(solved[0].report.curvature, Curvature::Empty);
        let nearest = super::super::encode(
            Tensor::Layer(2, part(0)),
            matrix(5, 1),
            "int3-g32".parse().unwrap(),
            Solver::Nearest,
            Packing::Best,
        );
        assert_eq!(rounded[0].1, nearest.unwrap());
        let error =
            round(2, &waiting, &vec![f64::NAN; cols * cols], &mut matrices()).unwrap_err().to_string();
        assert!(error.contains("model.layers.2.mlp.experts.0") && error.contains("not finite"), "{error}");
    }
}
