//! Applying edits to the weights of a layer. The only place where weights change.

use moepress_model::{Edit, Group, LayerWeights, ModelSpec, Part, Projection, Solver, Tensor};
use moepress_numerics::assignment::assign_max;
use moepress_quant::formats::{EncodeError, encode_nearest};
use moepress_quant::{Format, Plain, Stored};
use rayon::prelude::*;

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
    /// A tensor is not there, or is quantized where it must be plain.
    #[error("layer {layer}: {part} is missing or already quantized")]
    Missing {
        /// Layer index.
        layer: usize,
        /// Name of the part.
        part: String,
    },
}

/// The weights of `layer` after `edits`, of which only those of this layer count. `spec` is the model before.
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
            Edit::Assign { .. } | Edit::DropCarried => {}
            Edit::Encode { tensor, format, solver } => {
                if let Tensor::Layer(_, part) = tensor {
                    let stored = layer_weights.take(*part)?;
                    weights.insert(*part, encode(*tensor, Stored::Plain(stored), *format, *solver)?);
                }
            }
        }
        spec.edit(edit)?;
    }
    Ok(weights)
}

/// A tensor outside the layers after `edits`.
///
/// # Errors
/// As [`apply`].
pub fn apply_outside(tensor: Tensor, mut stored: Stored, edits: &[Edit]) -> Result<Stored, ApplyError> {
    for edit in edits {
        if let Edit::Encode { tensor: target, format, solver } = edit
            && *target == tensor
        {
            stored = encode(tensor, stored, *format, *solver)?;
        }
    }
    Ok(stored)
}

fn encode(tensor: Tensor, stored: Stored, format: Format, solver: Solver) -> Result<Stored, ApplyError> {
    let (rows, cols) = stored.matrix_shape();
    match (format, solver) {
        (Format::Plain(dtype), _) => {
            Ok(Stored::Plain(Plain::from_f32(dtype, stored.shape(), &stored.to_f32())))
        }
        (Format::Grouped(format), Solver::Nearest) => {
            encode_nearest(format, rows, cols, &stored.to_f32(), None)
                .map(Stored::Packed)
                .map_err(|source| ApplyError::Encode { tensor: tensor.to_string(), source })
        }
    }
}

struct Layer<'a> {
    layer: usize,
    weights: &'a mut LayerWeights,
}

impl Layer<'_> {
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
            if part == Part::Router || self.weights.contains_key(&part) {
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

    fn merge(&mut self, groups: &[Group], align: bool) -> Result<(), ApplyError> {
        let count = groups.iter().map(|group| group.members.len()).sum();
        let experts = (0..count).map(|expert| self.take_expert(expert)).collect::<Result<Vec<_>, _>>()?;
        let biases = (0..count).map(|expert| self.take_biases(expert)).collect::<Result<Vec<_>, _>>()?;
        let mut outputs = Vec::new();
        if self.weights.contains_key(&Part::ExpertOutputBias { expert: 0 }) {
            for expert in 0..count {
                outputs.push(self.take(Part::ExpertOutputBias { expert })?);
            }
        }
        for (index, group) in groups.iter().enumerate() {
            let members: Vec<&[Plain; 3]> = group.members.iter().map(|&expert| &experts[expert]).collect();
            let orders = orders(&members, align);
            self.put(index, 0, mean(&members, &group.weights, &orders));
            let of_members: Option<Vec<&[Plain; 2]>> =
                group.members.iter().map(|&expert| biases[expert].as_ref()).collect();
            if let Some(biases) = of_members {
                let mean = |i: usize| {
                    let vectors: Vec<&Plain> = biases.iter().map(|both| &both[i]).collect();
                    mean_vector(&vectors, &group.weights, Some(&orders))
                };
                self.put_biases(index, 0, [mean(0), mean(1)]);
            }
            if !outputs.is_empty() {
                let vectors: Vec<&Plain> = group.members.iter().map(|&expert| &outputs[expert]).collect();
                let mean = Stored::Plain(mean_vector(&vectors, &group.weights, None));
                self.weights.insert(Part::ExpertOutputBias { expert: index }, mean);
            }
        }
        Ok(())
    }
}

/// For every member the atoms that are joined with those of the first, matched by linear assignment over gate, up
/// and down (M-SMoE, arXiv 2310.01334, for gated experts).
fn orders(members: &[&[Plain; 3]], align: bool) -> Vec<Vec<usize>> {
    let width = members[0][0].shape[0];
    let unchanged = || (0..width).collect();
    if !align || members.len() == 1 {
        return members.iter().map(|_| unchanged()).collect();
    }
    let reference = members[0].each_ref().map(Plain::to_f32);
    let others =
        members[1..].iter().map(|other| matching(&reference, &other.each_ref().map(Plain::to_f32), width));
    [unchanged()].into_iter().chain(others).collect()
}

/// The weighted mean of experts whose atoms are joined in these orders. Sums in f64.
fn mean(members: &[&[Plain; 3]], weights: &[f64], orders: &[Vec<usize>]) -> [Plain; 3] {
    if let [only] = members {
        return (*only).clone();
    }
    let width = members[0][0].shape[0];
    let mut sums = members[0].each_ref().map(|plain| vec![0.0f64; plain.shape.iter().product()]);
    for ((member, weight), order) in members.iter().zip(weights).zip(orders) {
        let matrices = member.each_ref().map(Plain::to_f32);
        let hidden = matrices[0].len() / width;
        for (sums, values) in sums[..2].iter_mut().zip(&matrices) {
            for (sums, &atom) in sums.chunks_exact_mut(hidden).zip(order) {
                let row = &values[atom * hidden..(atom + 1) * hidden];
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += weight * f64::from(value));
            }
        }
        for (sums, row) in sums[2].chunks_exact_mut(width).zip(matrices[2].chunks_exact(width)) {
            sums.iter_mut().zip(order).for_each(|(sum, &atom)| *sum += weight * f64::from(row[atom]));
        }
    }
    let mut sums = sums.into_iter();
    members[0].each_ref().map(|plain| {
        let values: Vec<f32> = sums.next().unwrap_or_default().into_iter().map(|sum| sum as f32).collect();
        Plain::from_f32(plain.dtype, plain.shape.clone(), &values)
    })
}

/// The weighted mean of biases, each in its order.
fn mean_vector(vectors: &[&Plain], weights: &[f64], orders: Option<&[Vec<usize>]>) -> Plain {
    if let [only] = vectors {
        return (*only).clone();
    }
    let mut sums = vec![0.0f64; vectors[0].shape.iter().product()];
    for (member, (vector, weight)) in vectors.iter().zip(weights).enumerate() {
        let values = vector.to_f32();
        for (place, sum) in sums.iter_mut().enumerate() {
            *sum += weight * f64::from(values[orders.map_or(place, |orders| orders[member][place])]);
        }
    }
    let values: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
    Plain::from_f32(vectors[0].dtype, vectors[0].shape.clone(), &values)
}

/// For every atom of the reference the atom of the other expert that takes its place.
fn matching(reference: &[Vec<f32>; 3], other: &[Vec<f32>; 3], width: usize) -> Vec<usize> {
    let atoms = |matrices: &[Vec<f32>; 3]| -> Vec<Vec<f32>> {
        let hidden = matrices[0].len() / width;
        let atom = |atom: usize| {
            let row = |m: &[f32]| m[atom * hidden..(atom + 1) * hidden].to_vec();
            let column = matrices[2].iter().skip(atom).step_by(width).copied().collect();
            [row(&matrices[0]), row(&matrices[1]), column].concat()
        };
        (0..width).map(atom).collect()
    };
    let (reference, other) = (atoms(reference), atoms(other));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let gain: Vec<f64> =
        reference.par_iter().flat_map_iter(|a| other.iter().map(move |b| dot(a, b))).collect();
    assign_max(&gain, width)
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
mod tests {
    use super::*;
    use crate::toy::toy;
    use moepress_quant::Dtype;

    fn weights(seed: u32) -> LayerWeights {
        let spec = toy();
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let stored = |part| {
            let shape = spec.shape(Tensor::Layer(0, part)).unwrap();
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
            (part, Stored::Plain(Plain::from_f32(Dtype::Bf16, shape, &values)))
        };
        spec.parts(0).into_iter().map(stored).collect()
    }

    fn expert(expert: usize, projection: Projection) -> Part {
        Part::Expert { expert, segment: 0, projection }
    }

    fn plain(weights: &LayerWeights, part: Part) -> &Plain {
        match &weights[&part] {
            Stored::Plain(plain) => plain,
            Stored::Packed(_) => panic!("packed"),
        }
    }

    #[test]
    fn keeping_everything_changes_no_byte() {
        let edits = [
            Edit::KeepAtoms { layer: 0, expert: 1, atoms: (0..6).collect() },
            Edit::KeepExperts { layer: 0, experts: vec![0, 1, 2, 3] },
        ];
        assert_eq!(apply(&toy(), 0, weights(1), &edits).unwrap(), weights(1));
        assert_eq!(apply(&toy(), 0, weights(1), &[]).unwrap(), weights(1));
    }

    #[test]
    fn merging_recovers_a_shuffled_expert() {
        let mut weights = weights(2);
        let order = [3, 5, 0, 1, 4, 2];
        for projection in Projection::ALL {
            let source = plain(&weights, expert(0, projection)).clone();
            let shuffled = match projection {
                Projection::Down => columns(&source, &order),
                _ => rows(&source, &order),
            };
            weights.insert(expert(2, projection), Stored::Plain(shuffled));
        }
        let group = |members: &[usize], weights: &[f64]| Group {
            members: members.to_vec(),
            weights: weights.to_vec(),
        };
        let groups = vec![group(&[0, 2], &[0.25, 0.75]), group(&[1], &[1.0]), group(&[3], &[1.0])];
        let edit = Edit::MergeExperts { layer: 0, groups, align: true };
        let merged = apply(&toy(), 0, weights.clone(), &[edit]).unwrap();
        for projection in Projection::ALL {
            assert_eq!(merged[&expert(0, projection)], weights[&expert(0, projection)]);
            assert_eq!(merged[&expert(1, projection)], weights[&expert(1, projection)]);
            assert_eq!(merged[&expert(2, projection)], weights[&expert(3, projection)]);
        }
    }

    #[test]
    fn merging_without_alignment_is_the_weighted_mean() {
        let weights = weights(3);
        let groups = vec![Group { members: vec![1, 0, 2, 3], weights: vec![0.5, 0.25, 0.25, 0.0] }];
        let merged =
            apply(&toy(), 0, weights.clone(), &[Edit::MergeExperts { layer: 0, groups, align: false }])
                .unwrap();
        let value = |weights: &LayerWeights, e| plain(weights, expert(e, Projection::Up)).to_f32()[7];
        let wanted = 0.5 * value(&weights, 1) + 0.25 * value(&weights, 0) + 0.25 * value(&weights, 2);
        assert_eq!(value(&merged, 0), half_bf16(wanted));
    }

    fn half_bf16(value: f32) -> f32 {
        Plain::from_f32(Dtype::Bf16, vec![1], &[value]).to_f32()[0]
    }

    #[test]
    fn shapes_follow_the_description() {
        let edits = [
            Edit::KeepExperts { layer: 0, experts: vec![1, 3] },
            Edit::KeepAtoms { layer: 0, expert: 1, atoms: vec![4, 1, 2] },
            Edit::CutSegments { layer: 0, expert: 1, widths: vec![1, 2] },
            Edit::KeepAtoms { layer: 0, expert: 0, atoms: vec![] },
            Edit::Encode {
                tensor: Tensor::Layer(0, Part::Expert { expert: 1, segment: 1, projection: Projection::Up }),
                format: "int4-g32".parse().unwrap(),
                solver: Solver::Nearest,
            },
        ];
        let before = weights(4);
        let after = apply(&toy(), 0, before.clone(), &edits).unwrap();
        let spec = toy().after(&edits).unwrap();
        assert_eq!(after.keys().copied().collect::<Vec<_>>(), {
            let mut parts = spec.parts(0);
            parts.sort_unstable();
            parts
        });
        for (part, stored) in &after {
            assert_eq!(Some(stored.shape()), spec.shape(Tensor::Layer(0, *part)), "{part}");
            assert_eq!(Some(stored.format()), spec.format(Tensor::Layer(0, *part)), "{part}");
        }
        let down =
            plain(&after, Part::Expert { expert: 1, segment: 0, projection: Projection::Down }).to_f32();
        let source = plain(&before, expert(3, Projection::Down)).to_f32();
        assert_eq!(down, source.iter().skip(4).step_by(6).copied().collect::<Vec<_>>());
    }
}
