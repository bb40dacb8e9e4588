//! The expected cost of rounding every tensor to every format asked for.

use crate::CalibrateError;
use moepress_checkpoint::{CheckpointError, Progress, Share, Source};
use moepress_model::{Part, Tensor};
use moepress_quant::{Format, Stored, formats::rounding_cost};
use moepress_stats::{Needs, Of, Quantity, RoundingCosts, Statistics};
use std::path::Path;

/// Rounds the matrices of the model to nearest in each format of `needs` and weighs the errors with the row
/// and column weights of `stats`: nats per calibration token, see [`RoundingCosts`]. Norms and routers are
/// left out.
///
/// # Errors
/// The weights cannot be read or hold numbers no format can, or a statistic is missing.
pub fn rounding_costs(
    source: &dyn Source,
    stats: &Statistics,
    needs: &Needs,
    progress: &dyn Progress,
) -> Result<RoundingCosts, CalibrateError> {
    let mut costs = RoundingCosts::default();
    let spec = source.spec();
    let tokens = stats.scalar(Of::Model, Quantity::Tokens)?;
    let mut add = |tensor: Tensor, stored: &Stored, terms: &[Tensor], seen: f64| {
        let weights = stored.to_f32();
        let (rows, cols) = stored.matrix_shape();
        for &format in &needs.formats {
            let mut cost = 0.0;
            if let Format::Grouped(grouped) = format {
                for &term in terms {
                    let row = stats.get(Of::Tensor(term), Quantity::RowWeight)?;
                    let col = stats.get(Of::Tensor(term), Quantity::ColumnWeight)?;
                    let error = rounding_cost(grouped, rows, cols, &weights, row, col).map_err(|e| {
                        CheckpointError::bad_input(Path::new("model"), &tensor.to_string(), e.to_string())
                    })?;
                    cost += 0.5 * error / seen / tokens;
                }
            }
            costs.formats.insert((tensor, format), cost);
        }
        Ok::<_, CalibrateError>(())
    };
    for layer in 0..spec.layers.len() {
        let routed = match spec.moe(layer) {
            Some(_) => stats.get(Of::Layer(layer), Quantity::Tokens)?,
            None => &[],
        };
        // One expert at a time, so that a layer never has to be held.
        let experts = (0..routed.len()).map(|expert| Share::Experts(vec![expert]));
        for share in [Share::Core].into_iter().chain(experts) {
            for (part, stored) in &source.share(layer, &share)? {
                let tensor = Tensor::Layer(layer, *part);
                match part {
                    Part::Expert { expert, .. } => match routed[*expert] {
                        // No token, no error to weigh: the expert costs nothing in any format.
                        0.0 => add(tensor, stored, &[], 1.0)?,
                        seen => add(tensor, stored, &[tensor], seen)?,
                    },
                    part if part.is_measured() => add(tensor, stored, &[tensor], tokens)?,
                    _ => {}
                }
            }
        }
        progress.step("rounding costs", layer as u64 + 1, spec.layers.len() as u64);
    }
    let embedding = source.tensor(Tensor::Embedding)?;
    let terms: &[Tensor] =
        if spec.tied_embeddings { &[Tensor::Embedding, Tensor::Head] } else { &[Tensor::Embedding] };
    add(Tensor::Embedding, &embedding, terms, tokens)?;
    if !spec.tied_embeddings {
        add(Tensor::Head, &source.tensor(Tensor::Head)?, &[Tensor::Head], tokens)?;
    }
    Ok(costs)
}
