//! Chunks of windows through a model, in parallel and in order.

use crate::base::Records;
use crate::evaluate::Beside;
use crate::score::{Chunk, Original, Scores, score};
use crate::{EvalError, Subject};
use moepress_calibrate::windows_per_chunk;
use moepress_checkpoint::Progress;
use moepress_text::Window;
use rayon::prelude::*;

/// Scores all chunks and hands them to `take` in order; tokens per second of the model and of what is beside it.
pub(crate) fn pass(
    model: &Subject<'_>,
    beside: &mut Beside<'_>,
    chunks: &[Chunk],
    phase: &str,
    progress: &dyn Progress,
    take: &mut dyn FnMut(&Chunk, Scores),
) -> Result<[Option<f64>; 2], EvalError> {
    let vocab = model.spec().vocab;
    let other = match beside {
        Beside::Model(original) => original.spec().vocab,
        Beside::Base(base) => base.vocab(),
        Beside::Nothing | Beside::Keep(_) => vocab,
    };
    if other != vocab {
        return Err(EvalError::Vocabulary { model: vocab, against: other });
    }
    let keep = match beside {
        Beside::Keep(writer) => Some(writer.top()),
        _ => None,
    };
    let model = model.start(chunks, "evaluate, model", progress)?;
    let original = match beside {
        Beside::Model(original) => Some(original.start(chunks, "evaluate, original", progress)?),
        _ => None,
    };
    let (mut done, mut seconds) = (0, [0.0; 2]);
    for group in chunks.chunks(2 * rayon::current_num_threads()) {
        if progress.cancelled() {
            return Err(EvalError::Cancelled);
        }
        let one = |chunk: &Chunk| {
            let records: Records;
            let original = match (beside_base(beside), &original) {
                (Some(base), _) => {
                    records = base.read(chunk.record, chunk.scored().len())?;
                    Original::Kept(&records)
                }
                (None, Some(original)) => Original::Running(original),
                (None, None) => Original::None,
            };
            score(&model, original, chunk, keep)
        };
        let results: Vec<_> = group.par_iter().map(one).collect();
        for (chunk, result) in group.iter().zip(results) {
            let mut scores = result?;
            if let Beside::Keep(writer) = beside {
                writer.append(&std::mem::take(&mut scores.records))?;
            }
            seconds = [0, 1].map(|index| seconds[index] + scores.seconds[index]);
            take(chunk, scores);
        }
        done += group.len();
        progress.step(phase, done as u64, chunks.len() as u64);
    }
    let tokens: usize = chunks.iter().map(|chunk| chunk.ids.len()).sum();
    let threads = rayon::current_num_threads() as f64;
    let speed = |index: usize, before: f64| tokens as f64 / (before + seconds[index] / threads).max(1e-9);
    let mut speeds = [Some(speed(0, model.seconds())), None];
    model.close()?;
    if let Some(original) = original {
        speeds[1] = Some(speed(1, original.seconds()));
        original.close()?;
    }
    Ok(speeds)
}

fn beside_base<'a>(beside: &'a Beside<'_>) -> Option<&'a crate::Base> {
    match beside {
        Beside::Base(base) => Some(base),
        _ => None,
    }
}

/// Chunks that know their place, and that of their first scored token among all.
pub(crate) fn in_order(mut chunks: Vec<Chunk>) -> Vec<Chunk> {
    let mut record = 0;
    for (index, chunk) in chunks.iter_mut().enumerate() {
        (chunk.index, chunk.record) = (index, record);
        record += chunk.scored().len();
    }
    chunks
}

/// Windows of one text in batches of equal length.
pub(crate) fn chunks(text: usize, windows: &[Window]) -> impl Iterator<Item = Chunk> {
    let predict = |run: &&[Window]| run[0].ids.len() > 1;
    windows.chunk_by(|a, b| a.ids.len() == b.ids.len()).filter(predict).flat_map(move |run| {
        let window = run[0].ids.len();
        run.chunks(windows_per_chunk(window)).map(move |windows| Chunk {
            index: 0,
            record: 0,
            text,
            ids: windows.iter().flat_map(|window| window.ids.iter().copied()).collect(),
            window,
            first: windows.iter().map(|window| window.first).collect(),
        })
    })
}
