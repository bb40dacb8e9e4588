//! Applying edits to the weights of a layer. The only place where weights change.

mod low_rank;
mod merge;
mod refit;
mod round;
mod waiting;

use moepress_model::{Edit, Group, LayerWeights, ModelSpec, Part, Projection, Solver, Tensor};
use moepress_numerics::linalg::LinalgError;
use moepress_quant::formats::{EncodeError, GridRule, encode_on};
use moepress_quant::solve::{Factor, Run, SolveError, search_scales};
use moepress_quant::{Format, Plain, Stored, StoredError};
use std::collections::BTreeSet;

pub use moepress_numerics::ridge::Sums;
pub use round::{Decided, Inputs, Refitted, Solved, round};
pub use waiting::{Rounding, Waiting, awaited};

/// An edit that the weights do not allow.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The edit does not fit the model.
    #[error(transparent)]
    Edit(#[from] moepress_model::EditError),
    /// A weight that no format can hold.
    #[error("{tensor}: {source}")]
    Encode {
        /// The tensor.
        tensor: String,
        /// Where and why.
        source: EncodeError,
    },
    /// A gram or weights that no solver can work with.
    #[error("{tensor}: {source}")]
    Solve {
        /// The tensor.
        tensor: String,
        /// Where and why.
        source: SolveError,
    },
    /// Sums that no map can be fitted to.
    #[error("{tensor}: cannot be fitted anew: {source}")]
    Refit {
        /// The tensor.
        tensor: String,
        /// Index of its expert.
        expert: usize,
        /// What is wrong.
        source: LinalgError,
    },
    /// A matrix that has no part of low rank.
    #[error("{tensor}: {source}")]
    LowRank {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        source: LinalgError,
    },
    /// Parts of a matrix of low rank that cannot be stored.
    #[error("{tensor}: {source}")]
    Stored {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        source: StoredError,
    },
    /// A tensor is not there, or is quantized where it must be plain.
    #[error("layer {layer}: {part} is missing or already quantized")]
    Missing {
        /// Layer index.
        layer: usize,
        /// Name of the part.
        part: String,
    },
}

/// The experts of the source that experts of a layer are made of after `edits`, ascending.
pub fn sources(layer: usize, experts: &[usize], edits: &[Edit]) -> Vec<usize> {
    let mut wanted: BTreeSet<usize> = experts.iter().copied().collect();
    for edit in edits.iter().rev().filter(|edit| edit.layer() == Some(layer)) {
        wanted = match edit {
            Edit::KeepExperts { experts, .. } => {
                wanted.into_iter().filter_map(|expert| experts.get(expert).copied()).collect()
            }
            Edit::MergeExperts { groups, .. } => {
                let group = |expert| groups.get(expert).map_or(&[][..], |group: &Group| &group.members);
                wanted.into_iter().flat_map(|expert| group(expert).iter().copied()).collect()
            }
            _ => continue,
        };
    }
    wanted.into_iter().collect()
}

/// The weights of `layer` after `edits`, of which only those of this layer count. `spec` is the model before.
/// Experts that are not among the weights are left out, those merged with one that is not too. Where an edit asks
/// for a solver that needs the inputs of a matrix, rounding to nearest stands in for it: they are known only on the
/// walk that writes, see [`awaited`].
///
/// # Errors
/// An edit does not fit, or weights hold values that a format cannot.
pub fn apply(
    spec: &ModelSpec,
    layer: usize,
    mut weights: LayerWeights,
    edits: &[Edit],
) -> Result<LayerWeights, ApplyError> {
    let mut spec = spec.clone();
    for edit in edits.iter().filter(|edit| edit.layer() == Some(layer)) {
        let mut layer_weights = Layer { layer, weights: &mut weights };
        match edit {
            Edit::MergeExperts { groups, align, .. } => layer_weights.merge(groups, *align)?,
            Edit::KeepExperts { experts, .. } => {
                let rows = spec.moe(layer).map(|moe| moe.router.clone()).unwrap_or_default();
                layer_weights.keep_experts(experts, &rows)?;
            }
            Edit::KeepAtoms { expert, .. } | Edit::CutSegments { expert, .. }
                if !layer_weights.has_expert(*expert) => {}
            Edit::KeepAtoms { expert, atoms, .. } => {
                layer_weights.runs(*expert, std::slice::from_ref(atoms))?
            }
            Edit::CutSegments { expert, widths, .. } => {
                let runs = widths.iter().scan(0, |end, &width| {
                    *end += width;
                    Some((*end - width..*end).collect())
                });
                layer_weights.runs(*expert, &runs.collect::<Vec<_>>())?;
            }
            // Fitted on the walk that writes.
            Edit::Refit { .. } | Edit::Assign { .. } | Edit::DropCarried => {}
            Edit::Encode { tensor, .. } => {
                if let Tensor::Layer(_, part) = tensor
                    && layer_weights.has(*part)
                {
                    let stored = layer_weights.take(*part)?;
                    weights.insert(*part, encode(*tensor, Stored::Plain(stored), edit)?);
                }
            }
        }
        spec.edit(edit)?;
    }
    Ok(weights)
}

/// A tensor outside the layers after `edits`. No solver of theirs waits for inputs: they are rounded to nearest.
///
/// # Errors
/// As [`apply`].
pub fn apply_outside(tensor: Tensor, mut stored: Stored, edits: &[Edit]) -> Result<Stored, ApplyError> {
    for edit in edits {
        if let Edit::Encode { tensor: target, .. } = edit
            && *target == tensor
        {
            stored = encode(tensor, stored, edit)?;
        }
    }
    Ok(stored)
}

/// What an [`Edit::Encode`] makes of a tensor.
fn encode(tensor: Tensor, stored: Stored, edit: &Edit) -> Result<Stored, ApplyError> {
    let Edit::Encode { format, solver, grid, codec, .. } = *edit else { return Ok(stored) };
    let (rows, cols) = stored.matrix_shape();
    let format = match format {
        Format::Grouped(format) => format,
        Format::Plain(dtype) => {
            return Ok(Stored::Plain(Plain::from_f32(dtype, stored.shape(), &stored.to_f32())));
        }
        Format::LowRank(format) => return low_rank::factored(tensor, &stored, format),
    };
    let w = stored.to_f32();
    let packed = match solver {
        Solver::Within { step, bytes, .. } => {
            let run = Run { format, cols, step };
            let solved = Factor::unknown(cols).solve_within(&[run], bytes, rows, &w);
            let failed = |source| ApplyError::Solve { tensor: tensor.to_string(), source };
            let missing =
                || ApplyError::Missing { layer: tensor.layer().unwrap_or(0), part: tensor.to_string() };
            return Ok(Stored::Packed(solved.map_err(failed)?.0.pop().ok_or_else(missing)?));
        }
        Solver::Hqq => search_scales(format, rows, cols, &w).map(|(packed, _)| packed),
        Solver::Nearest | Solver::Gptq { .. } => {
            encode_on(format, grid.unwrap_or(GridRule::usual(format)), rows, cols, &w, None)
        }
    };
    let failed = |source| ApplyError::Encode { tensor: tensor.to_string(), source };
    Ok(Stored::Packed(packed.map_err(failed)?.repacked(codec)))
}

struct Layer<'a> {
    layer: usize,
    weights: &'a mut LayerWeights,
}

impl Layer<'_> {
    /// Parts of experts may be left out on purpose, others are asked for and found missing.
    fn has(&self, part: Part) -> bool {
        part.expert().is_none() || self.weights.contains_key(&part)
    }

    fn has_expert(&self, expert: usize) -> bool {
        self.weights.keys().any(|part| part.expert() == Some(expert))
    }

    fn take(&mut self, part: Part) -> Result<Plain, ApplyError> {
        match self.weights.remove(&part) {
            Some(Stored::Plain(plain)) => Ok(plain),
            _ => Err(ApplyError::Missing { layer: self.layer, part: part.to_string() }),
        }
    }

    /// Gate, up and down of an expert of one segment.
    fn take_expert(&mut self, expert: usize) -> Result<[Plain; 3], ApplyError> {
        let [gate, up, down] =
            Projection::ALL.map(|projection| self.take(Part::Expert { expert, segment: 0, projection }));
        Ok([gate?, up?, down?])
    }

    fn put(&mut self, expert: usize, segment: usize, matrices: [Plain; 3]) {
        for (projection, plain) in Projection::ALL.into_iter().zip(matrices) {
            self.weights.insert(Part::Expert { expert, segment, projection }, Stored::Plain(plain));
        }
    }

    /// Biases of gate and up of an expert of one segment; none where experts have no biases.
    fn take_biases(&mut self, expert: usize) -> Result<Option<[Plain; 2]>, ApplyError> {
        let part = |projection| Part::ExpertBias { expert, segment: 0, projection };
        if !self.weights.contains_key(&part(Projection::Gate)) {
            return Ok(None);
        }
        Ok(Some([self.take(part(Projection::Gate))?, self.take(part(Projection::Up))?]))
    }

    fn put_biases(&mut self, expert: usize, segment: usize, biases: [Plain; 2]) {
        for (projection, plain) in [Projection::Gate, Projection::Up].into_iter().zip(biases) {
            self.weights.insert(Part::ExpertBias { expert, segment, projection }, Stored::Plain(plain));
        }
    }

    /// Rebuilds an expert as one segment per run of atoms; an empty run is no segment.
    fn runs(&mut self, expert: usize, runs: &[Vec<usize>]) -> Result<(), ApplyError> {
        let [gate, up, down] = self.take_expert(expert)?;
        let biases = self.take_biases(expert)?;
        for (segment, atoms) in runs.iter().filter(|atoms| !atoms.is_empty()).enumerate() {
            self.put(expert, segment, [rows(&gate, atoms), rows(&up, atoms), columns(&down, atoms)]);
            if let Some(biases) = &biases {
                self.put_biases(expert, segment, biases.each_ref().map(|bias| rows(bias, atoms)));
            }
        }
        Ok(())
    }

    fn keep_experts(&mut self, experts: &[usize], router: &[usize]) -> Result<(), ApplyError> {
        let kept: Vec<usize> =
            (0..router.len()).filter(|&row| experts.binary_search(&router[row]).is_ok()).collect();
        for part in [Part::Router, Part::RouterBias, Part::Correction] {
            if self.weights.contains_key(&part) {
                let plain = self.take(part)?;
                self.weights.insert(part, Stored::Plain(rows(&plain, &kept)));
            }
        }
        for (part, stored) in std::mem::take(self.weights) {
            let place = match part.expert() {
                Some(expert) => experts.binary_search(&expert).ok().map(|expert| part.of_expert(expert)),
                None => Some(part),
            };
            if let Some(part) = place {
                self.weights.insert(part, stored);
            }
        }
        Ok(())
    }
}

/// Rows of a matrix or elements of a vector, their bytes unchanged.
fn rows(plain: &Plain, indices: &[usize]) -> Plain {
    let inner = &plain.shape[1..];
    let width = inner.iter().product::<usize>() * plain.dtype.bytes();
    let bytes =
        indices.iter().flat_map(|&row| &plain.bytes[row * width..(row + 1) * width]).copied().collect();
    Plain { dtype: plain.dtype, shape: [&[indices.len()], inner].concat(), bytes }
}

/// Columns of a matrix, their bytes unchanged.
fn columns(plain: &Plain, indices: &[usize]) -> Plain {
    let size = plain.dtype.bytes();
    let mut bytes = Vec::with_capacity(plain.shape[0] * indices.len() * size);
    if plain.shape[1] > 0 {
        for row in plain.bytes.chunks_exact(plain.shape[1] * size) {
            indices.iter().for_each(|&col| bytes.extend_from_slice(&row[col * size..(col + 1) * size]));
        }
    }
    Plain { dtype: plain.dtype, shape: vec![plain.shape[0], indices.len()], bytes }
}

#[cfg(test)]
mod tests;
