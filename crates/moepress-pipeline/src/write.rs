//! Streaming the edited model into shards, one layer at a time.

use crate::PipelineError;
use crate::edited::Edited;
use crate::rounded::Rounded;
use moepress_calibrate::{Gram, Matrices, Means, Walk};
use moepress_checkpoint::{CompactWriter, Progress, Source};
use moepress_model::{LayerWeights, Part, Tensor};
use moepress_stages::{Rounding, awaited, round};
use std::collections::{BTreeMap, BTreeSet};

/// Writes all tensors. Matrices whose solver waits for its inputs are rounded on a walk of the calibration windows
/// through the layers as they are written. Returns what is to be said about those.
pub(crate) fn write(
    writer: &mut CompactWriter,
    edited: &Edited<'_>,
    windows: &[Vec<u32>],
    means: &Means,
    progress: &dyn Progress,
) -> Result<Vec<String>, PipelineError> {
    let spec = edited.spec();
    let outside = spec.tensors().into_iter().filter(|tensor| tensor.layer().is_none());
    let outside = outside
        .map(|tensor| Ok((tensor, edited.tensor(tensor)?)))
        .collect::<Result<Vec<_>, PipelineError>>()?;
    writer.write_shard(outside)?;
    let layers = 0..spec.layers.len();
    let waiting = layers.map(|layer| awaited(layer, edited.edits())).collect::<Result<Vec<_>, _>>()?;
    let mut notes = vec![];
    if waiting.iter().all(BTreeMap::is_empty) {
        write_layers(writer, waiting.len(), progress, |layer| Ok(edited.layer(layer)?))?;
    } else {
        let unrounded = edited.unrounded()?;
        let tensors = |(layer, waiting): (usize, &BTreeMap<Part, Rounding>)| {
            waiting.keys().map(|&part| Tensor::Layer(layer, part)).collect::<Vec<_>>()
        };
        let tensors: BTreeSet<Tensor> = waiting.iter().enumerate().flat_map(tensors).collect();
        let mut walk = Walk::new(&unrounded, windows, &tensors, means, progress)?;
        let mut rounded = Rounded::default();
        let written = write_layers(writer, waiting.len(), progress, |layer| {
            let solve = |gram: &Gram, mut matrices: Matrices| {
                let solved = round(layer, &waiting[layer], &gram.sums, &mut matrices)?;
                Ok::<_, PipelineError>((matrices, solved))
            };
            let (weights, solved) = walk.layer(&solve)?;
            solved.iter().flatten().for_each(|solved| rounded.add(solved));
            Ok(weights)
        });
        // What went wrong first is the better story.
        let closed = walk.close();
        written?;
        closed?;
        notes = rounded.notes();
    }
    writer.write_carried(edited)?;
    Ok(notes)
}

fn write_layers(
    writer: &mut CompactWriter,
    count: usize,
    progress: &dyn Progress,
    mut weights: impl FnMut(usize) -> Result<LayerWeights, PipelineError>,
) -> Result<(), PipelineError> {
    for layer in 0..count {
        if progress.cancelled() {
            return Err(PipelineError::Cancelled);
        }
        let weights = weights(layer)?;
        writer.write_shard(weights.into_iter().map(|(part, stored)| (Tensor::Layer(layer, part), stored)))?;
        progress.step("write", layer as u64 + 1, count as u64);
    }
    Ok(())
}
