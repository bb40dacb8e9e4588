//! Streaming the edited model into shards, one layer at a time.

use crate::PipelineError;
use crate::edited::Edited;
use crate::rounded::Rounded;
use moepress_calibrate::{Matrices, Means, Reached, Undecided, Walk};
use moepress_checkpoint::{CompactWriter, Progress, Source};
use moepress_model::{LayerWeights, Tensor, rows_left};
use moepress_stages::{Inputs, Sums, Waiting, awaited, round};

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
    let waiting = layers.map(|layer| awaited(spec, layer, edited.edits())).collect::<Result<Vec<_>, _>>()?;
    let mut notes = vec![];
    if waiting.iter().all(Waiting::is_empty) {
        write_layers(writer, waiting.len(), progress, |layer| Ok(edited.layer(layer)?))?;
    } else {
        let (unrounded, original) = (edited.unrounded()?, edited.source());
        let rows = rows_left(original.spec(), edited.edits());
        let layers = || waiting.iter().enumerate();
        let tensors = layers().flat_map(|(layer, waiting)| {
            waiting.matrices.keys().map(move |&part| Tensor::Layer(layer, part))
        });
        let refit =
            layers().flat_map(|(layer, waiting)| waiting.refit.iter().map(move |&expert| (layer, expert)));
        let (tensors, refit) = (tensors.collect(), refit.collect());
        let undecided = Undecided { rounded: &tensors, refit: &refit, original, rows: &rows };
        let mut walk = Walk::new(&unrounded, windows, undecided, means, progress)?;
        let mut rounded = Rounded::default();
        let written = write_layers(writer, waiting.len(), progress, |layer| {
            let solve = |reached: &Reached, mut matrices: Matrices| {
                let decided = round(layer, &waiting[layer], inputs(reached), &mut matrices)?;
                Ok::<_, PipelineError>((matrices, decided))
            };
            let (weights, decided) = walk.layer(&solve)?;
            decided.iter().for_each(|decided| rounded.add(decided));
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

/// What solvers are told of what reaches matrices.
fn inputs(reached: &Reached) -> Inputs<'_> {
    fn sums(of: &moepress_calibrate::Sums) -> Option<Sums<'_>> {
        let wanted = of.wanted.as_ref()?;
        Some(Sums { gram: &of.gram.sums, cross: &wanted.cross, power: wanted.power })
    }
    let wanted = sums(&reached.all).zip(reached.held_out.as_ref().and_then(sums));
    Inputs { gram: &reached.all.gram.sums, wanted }
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
