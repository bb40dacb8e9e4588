//! Merging experts into weighted means.

use super::{ApplyError, Layer};
use moepress_model::{Group, Part};
use moepress_numerics::alignment::matching;
use moepress_quant::{Plain, Stored};
use rayon::prelude::*;

impl Layer<'_> {
    /// Replaces the experts by the means of groups; groups that are not wholly there are left out.
    pub(super) fn merge(&mut self, groups: &[Group], align: bool) -> Result<(), ApplyError> {
        // Taken out before any is put back: new experts have the numbers of old ones.
        let whole = |group: &&Group| group.members.iter().all(|&expert| self.has_expert(expert));
        let present: Vec<bool> = groups.iter().map(|group| whole(&group)).collect();
        let mut taken = Vec::new();
        for (index, group) in groups.iter().enumerate().filter(|(index, _)| present[*index]) {
            let members = group.members.iter().map(|&expert| self.take_member(expert));
            taken.push((index, group, members.collect::<Result<Vec<_>, _>>()?));
        }
        self.weights.retain(|part, _| part.expert().is_none());
        for (index, group, members) in taken {
            let matrices: Vec<&[Plain; 3]> = members.iter().map(|member| &member.matrices).collect();
            let orders = orders(&matrices, align);
            self.put(index, 0, mean(&matrices, &group.weights, &orders));
            let biases: Option<Vec<&[Plain; 2]>> =
                members.iter().map(|member| member.biases.as_ref()).collect();
            if let Some(biases) = biases {
                let mean = |i: usize| {
                    let vectors: Vec<&Plain> = biases.iter().map(|both| &both[i]).collect();
                    mean_vector(&vectors, &group.weights, Some(&orders))
                };
                self.put_biases(index, 0, [mean(0), mean(1)]);
            }
            let outputs: Option<Vec<&Plain>> = members.iter().map(|member| member.output.as_ref()).collect();
            if let Some(outputs) = outputs {
                let mean = Stored::Plain(mean_vector(&outputs, &group.weights, None));
                self.weights.insert(Part::ExpertOutputBias { expert: index }, mean);
            }
        }
        Ok(())
    }

    fn take_member(&mut self, expert: usize) -> Result<Member, ApplyError> {
        let output = Part::ExpertOutputBias { expert };
        Ok(Member {
            matrices: self.take_expert(expert)?,
            biases: self.take_biases(expert)?,
            output: if self.weights.contains_key(&output) { Some(self.take(output)?) } else { None },
        })
    }
}

/// An expert of one segment.
struct Member {
    matrices: [Plain; 3],
    biases: Option<[Plain; 2]>,
    output: Option<Plain>,
}

/// For every member the atoms that are joined with those of the first.
fn orders(members: &[&[Plain; 3]], align: bool) -> Vec<Vec<usize>> {
    let width = members[0][0].shape[0];
    let unchanged = || (0..width).collect();
    if !align || members.len() == 1 {
        return members.iter().map(|_| unchanged()).collect();
    }
    let reference = members[0].each_ref().map(Plain::to_f32);
    let others = members[1..].par_iter();
    let others = others.map(|other| matching(&reference, &other.each_ref().map(Plain::to_f32), width));
    [unchanged()].into_par_iter().chain(others).collect()
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
