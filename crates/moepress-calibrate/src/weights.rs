//! What is measured of weights alone.

use crate::CalibrateError;
use moepress_checkpoint::{Progress, Share, Source};
use moepress_model::{Part, Projection, Tensor};
use moepress_quant::Stored;
use moepress_stats::{WeightNeed, WeightNeeds, WeightStatistics};
use rayon::prelude::*;

/// Elements of every expert whose products are added at a time.
const PANEL: usize = 4096;

/// Reads the model as `source` has it, layer by layer, and measures `needs`.
///
/// # Errors
/// The weights cannot be read, or the caller cancelled.
pub fn weight_statistics(
    source: &dyn Source,
    needs: &WeightNeeds,
    progress: &dyn Progress,
) -> Result<WeightStatistics, CalibrateError> {
    let mut found = WeightStatistics::default();
    if needs.is_empty() {
        return Ok(found);
    }
    let spec = source.spec();
    for layer in 0..spec.layers.len() {
        if progress.cancelled() {
            return Err(CalibrateError::Cancelled);
        }
        if needs.contains(&WeightNeed::Grams) && spec.moe(layer).is_some() {
            found.grams.insert(layer, gram(source, layer)?);
        }
        if needs.contains(&WeightNeed::Outliers) {
            let experts = spec.moe(layer).map_or(0, |moe| moe.experts.len());
            let shares = (0..experts).map(|expert| Share::Experts(vec![expert]));
            for share in [Share::Core].into_iter().chain(shares) {
                let parts = source.share(layer, &share)?;
                let measured = parts.iter().filter(|(part, _)| part.is_measured());
                found.outliers.extend(measured.map(|(&part, w)| (Tensor::Layer(layer, part), outlier(w))));
            }
        }
        progress.step("weights", layer as u64 + 1, spec.layers.len() as u64);
    }
    if needs.contains(&WeightNeed::Outliers) {
        let outside = spec.tensors().into_iter().filter(|t| t.layer().is_none() && t.is_measured());
        for tensor in outside {
            found.outliers.insert(tensor, outlier(&source.tensor(tensor)?));
        }
    }
    Ok(found)
}

/// max over columns c of max_r |W_rc| / mean_r |W_rc|.
fn outlier(stored: &Stored) -> f64 {
    let (rows, cols) = stored.matrix_shape();
    let (mut largest, mut sums) = (vec![0.0f64; cols], vec![0.0f64; cols]);
    for row in stored.to_f32().chunks_exact(cols.max(1)) {
        for ((largest, sum), &weight) in largest.iter_mut().zip(&mut sums).zip(row) {
            let size = f64::from(weight).abs();
            *largest = largest.max(size);
            *sum += size;
        }
    }
    let ratio = |(largest, sum): (f64, f64)| if sum > 0.0 { largest * rows as f64 / sum } else { 0.0 };
    largest.into_iter().zip(sums).map(ratio).fold(0.0, f64::max)
}

/// ⟨Wᵢ, Wⱼ⟩ of the experts of a layer, `[experts, experts]`. One projection of all experts is held at a time.
fn gram(source: &dyn Source, layer: usize) -> Result<Vec<f64>, CalibrateError> {
    let experts = source.spec().moe(layer).map_or(0, |moe| moe.experts.len());
    let mut gram = vec![0.0; experts * experts];
    for wanted in Projection::ALL {
        let weights = |expert| -> Result<Vec<f32>, CalibrateError> {
            let parts = source.share(layer, &Share::Experts(vec![expert]))?;
            let ours = |part: &Part| matches!(part, Part::Expert { projection, .. } if *projection == wanted);
            Ok(parts.iter().filter(|(part, _)| ours(part)).flat_map(|(_, stored)| stored.to_f32()).collect())
        };
        let weights = (0..experts).map(weights).collect::<Result<Vec<_>, _>>()?;
        let longest = weights.iter().map(Vec::len).max().unwrap_or(0);
        for start in (0..longest).step_by(PANEL) {
            let panel = |weights: &Vec<f32>| -> Vec<f64> {
                weights.iter().skip(start).take(PANEL).map(|&w| f64::from(w)).collect()
            };
            let panel: Vec<Vec<f64>> = weights.iter().map(panel).collect();
            // Every element is summed on one thread, in order.
            gram.par_chunks_exact_mut(experts).zip(&panel).enumerate().for_each(|(i, (sums, a))| {
                for (sum, b) in sums.iter_mut().zip(&panel).take(i + 1) {
                    *sum += a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                }
            });
        }
    }
    for i in 0..experts {
        for j in 0..i {
            gram[j * experts + i] = gram[i * experts + j];
        }
    }
    Ok(gram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_quant::{Dtype, Plain};

    #[test]
    fn one_spike_in_a_column_of_ones() {
        let score = |scale: f32, spike: f32| {
            let rows = 7;
            let mut values = vec![scale; rows * 3];
            values[2 * 3 + 1] = -spike * scale;
            outlier(&Stored::Plain(Plain::from_f32(Dtype::F32, vec![rows, 3], &values)))
        };
        let closed = |c: f64| c * 7.0 / (7.0 - 1.0 + c);
        assert!((score(1.0, 12.0) - closed(12.0)).abs() < 1e-12);
        assert!((score(1.0, 3.0) - closed(3.0)).abs() < 1e-12);
        // What the weights are measured in means nothing.
        assert!((score(0.25, 12.0) - closed(12.0)).abs() < 1e-12);
        assert_eq!(score(0.0, 1.0), 0.0);
    }
}
