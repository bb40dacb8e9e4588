//! What of a layer can be decided only when its inputs are known.

use super::ApplyError;
use moepress_model::{Edit, ModelSpec, Part, Projection, Solver, Tensor, await_inputs};
use moepress_quant::codec::Packing;
use moepress_quant::formats::GridRule;
use moepress_quant::solve::Options;
use moepress_quant::{Format, Grouped};
use std::collections::{BTreeMap, BTreeSet};

/// How a matrix is rounded once its inputs are known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rounding {
    /// Not at all.
    Plain,
    /// To nearest.
    Nearest {
        /// Its format.
        format: Grouped,
        /// How grids are chosen.
        grid: GridRule,
        /// How its codes are stored.
        codec: Packing,
    },
    /// See [`Solver::Hqq`].
    Hqq {
        /// Its format.
        format: Grouped,
        /// How its codes are stored.
        codec: Packing,
    },
    /// See [`Solver::Gptq`].
    Gptq {
        /// Its format.
        format: Grouped,
        /// How the solver works.
        options: Options,
        /// How its codes are stored.
        codec: Packing,
    },
    /// See [`Solver::Within`].
    Within {
        /// Its format.
        format: Grouped,
        /// Damping.
        damp: f64,
        /// Distance of levels to begin with.
        step: f32,
        /// Most bytes.
        bytes: u64,
    },
}

/// What waits in one layer, by the numbers that parts and experts have after all edits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waiting {
    /// Matrices; of an expert all segments of its `down_proj` or none.
    pub matrices: BTreeMap<Part, Rounding>,
    /// Experts whose `down_proj` is fitted anew.
    pub refit: BTreeSet<usize>,
}

impl Waiting {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.matrices.is_empty()
    }

    fn has_expert(&self, expert: usize) -> bool {
        self.refit.contains(&expert) || self.matrices.keys().any(|part| part.expert() == Some(expert))
    }

    /// Follows an edit that is carried out beforehand; what it takes must not wait.
    fn follow(&mut self, edit: &Edit) -> Result<(), String> {
        match edit {
            Edit::KeepExperts { experts, .. } => {
                let place = |expert: usize| experts.binary_search(&expert).ok();
                let kept = |(part, rounding): (Part, Rounding)| match part.expert() {
                    None => Some((part, rounding)),
                    Some(expert) => Some((part.of_expert(place(expert)?), rounding)),
                };
                self.matrices = std::mem::take(&mut self.matrices).into_iter().filter_map(kept).collect();
                self.refit = self.refit.iter().filter_map(|&expert| place(expert)).collect();
                Ok(())
            }
            Edit::MergeExperts { .. } if self.matrices.keys().any(|part| part.expert().is_some()) => {
                Err("an expert".to_owned())
            }
            Edit::KeepAtoms { expert, .. } | Edit::CutSegments { expert, .. } if self.has_expert(*expert) => {
                Err(format!("expert {expert}"))
            }
            Edit::Encode { tensor: Tensor::Layer(_, part), .. } if self.matrices.contains_key(part) => {
                Err(part.to_string())
            }
            _ => Ok(()),
        }
    }

    fn wait(&mut self, edit: &Edit) -> Result<(), String> {
        let (part, rounding) = match *edit {
            Edit::Refit { expert, .. } => {
                self.refit.insert(expert);
                return Ok(());
            }
            Edit::Encode { tensor: Tensor::Layer(_, part), format, solver, grid, codec } => {
                let rounding = match (format, solver) {
                    (Format::Plain(_) | Format::LowRank(_), _) => Rounding::Plain,
                    (Format::Grouped(format), Solver::Nearest) => {
                        Rounding::Nearest { format, grid: grid.unwrap_or(GridRule::usual(format)), codec }
                    }
                    (Format::Grouped(format), Solver::Hqq) => Rounding::Hqq { format, codec },
                    (Format::Grouped(format), Solver::Gptq { damp, act_order, weighted }) => {
                        Rounding::Gptq { format, options: Options { damp, act_order, weighted, grid }, codec }
                    }
                    (Format::Grouped(format), Solver::Within { damp, step, bytes }) => {
                        Rounding::Within { format, damp, step, bytes }
                    }
                };
                (part, rounding)
            }
            _ => return Ok(()),
        };
        match self.matrices.insert(part, rounding) {
            Some(_) => Err(part.to_string()),
            None => Ok(()),
        }
    }
}

/// What waits in a layer of `spec`, the model after all of `edits`. The same edits without those that wait
/// ([`await_inputs`]) leave these matrices plain.
///
/// # Errors
/// A later edit takes the weights of a matrix that waits.
pub fn awaited(spec: &ModelSpec, layer: usize, edits: &[Edit]) -> Result<Waiting, ApplyError> {
    let mut waiting = Waiting::default();
    let here = edits.iter().zip(await_inputs(edits)).filter(|(edit, _)| edit.layer() == Some(layer));
    for (edit, waits) in here {
        let done = if waits { waiting.wait(edit) } else { waiting.follow(edit) };
        done.map_err(|part| ApplyError::Missing { layer, part })?;
    }
    for (expert, of) in spec.moe(layer).iter().flat_map(|moe| moe.experts.iter().enumerate()) {
        let down = |segment| Part::Expert { expert, segment, projection: Projection::Down };
        let all = || (0..of.segments.len()).map(down);
        if waiting.refit.contains(&expert) || all().any(|part| waiting.matrices.contains_key(&part)) {
            all().for_each(|part| _ = waiting.matrices.entry(part).or_insert(Rounding::Plain));
        }
    }
    Ok(waiting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::toy;

    fn part(expert: usize) -> Part {
        Part::Expert { expert, segment: 0, projection: Projection::Up }
    }

    fn down(expert: usize, segment: usize) -> Part {
        Part::Expert { expert, segment, projection: Projection::Down }
    }

    fn encode(part: Part, solver: Solver) -> Edit {
        let format = "int3-g32".parse().unwrap();
        Edit::Encode { tensor: Tensor::Layer(1, part), format, solver, grid: None, codec: Packing::Best }
    }

    fn awaited(edits: &[Edit]) -> Result<Waiting, ApplyError> {
        super::awaited(&toy(), 1, edits)
    }

    const GPTQ: Solver = Solver::Gptq { damp: 0.01, act_order: true, weighted: false };

    #[test]
    fn what_waits_follows_the_experts_that_are_kept() {
        let edits = [
            encode(part(0), GPTQ),
            encode(part(1), Solver::Nearest),
            encode(part(3), GPTQ),
            Edit::Refit { layer: 1, expert: 1 },
            Edit::KeepExperts { layer: 1, experts: vec![1, 3] },
        ];
        let waiting = awaited(&edits).unwrap();
        assert_eq!(waiting.matrices.keys().copied().collect::<Vec<_>>(), [down(0, 0), part(1)]);
        assert_eq!(waiting.matrices[&down(0, 0)], Rounding::Plain);
        assert!(matches!(
            waiting.matrices[&part(1)],
            Rounding::Gptq { options: Options { act_order: true, .. }, .. }
        ));
        assert_eq!(waiting.refit, BTreeSet::from([0]));
        assert!(super::awaited(&toy(), 0, &edits).unwrap().is_empty());
        assert_eq!(await_inputs(&edits), [true, false, true, true, false]);
    }

    #[test]
    fn what_is_fitted_anew_is_rounded_after_that() {
        let edits = [
            encode(down(1, 0), Solver::Nearest),
            Edit::Refit { layer: 1, expert: 2 },
            encode(down(2, 0), Solver::Nearest),
            encode(part(2), Solver::Nearest),
        ];
        assert_eq!(await_inputs(&edits), [false, true, true, false]);
        let waiting = awaited(&edits).unwrap();
        assert_eq!(waiting.matrices.len(), 1);
        assert!(matches!(waiting.matrices[&down(2, 0)], Rounding::Nearest { .. }));
    }

    #[test]
    fn segments_of_down_proj_wait_together() {
        let cut = Edit::CutSegments { layer: 1, expert: 0, widths: vec![2, 3, 1] };
        let edits = [cut, encode(down(0, 1), GPTQ), encode(down(1, 0), Solver::Nearest)];
        let waiting = super::awaited(&toy().after(&edits).unwrap(), 1, &edits).unwrap();
        let plain: Vec<Part> =
            waiting.matrices.iter().filter(|(_, r)| **r == Rounding::Plain).map(|(part, _)| *part).collect();
        assert_eq!((waiting.matrices.len(), plain), (3, vec![down(0, 0), down(0, 2)]));
    }

    #[test]
    fn weights_that_wait_cannot_be_taken() {
        let atoms = |expert| Edit::KeepAtoms { layer: 1, expert, atoms: vec![0] };
        let refused = awaited(&[encode(part(0), GPTQ), atoms(0)]).unwrap_err().to_string();
        assert!(refused.contains("already quantized"), "{refused}");
        assert!(awaited(&[Edit::Refit { layer: 1, expert: 0 }, atoms(0)]).is_err());
        assert!(awaited(&[encode(part(0), GPTQ), atoms(1)]).is_ok());
        let merge = Edit::MergeExperts { layer: 1, groups: vec![], align: false };
        assert!(awaited(&[encode(part(0), GPTQ), merge.clone()]).is_err());
        assert!(awaited(&[merge, encode(part(0), GPTQ)]).is_ok());
        assert!(awaited(&[encode(part(0), GPTQ), encode(part(0), Solver::Nearest)]).is_err());
        assert!(awaited(&[encode(part(0), GPTQ), encode(part(0), GPTQ)]).is_err());
    }
}
