//! Texts through a model, in parallel.

use crate::distance::{Histogram, Increase, Pairs};
use crate::score::{Chunk, Scores, score};
use crate::subject::Subject;
use crate::{Divergence, EvalError, Likelihood};
use moepress_calibrate::windows_per_chunk;
use moepress_checkpoint::Progress;
use moepress_text::Window;
use rayon::prelude::*;
use serde::Serialize;

/// A text to predict.
#[derive(Clone, Debug)]
pub struct Text {
    /// What it is called in results.
    pub name: String,
    /// Its windows; the scored tokens of each are predicted from those before them in it.
    pub windows: Vec<Window>,
}

/// One text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextScore {
    /// Its name.
    pub name: String,
    /// How likely the model finds it.
    #[serde(flatten)]
    pub likelihood: Likelihood,
    /// Distance to the original, when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
}

/// All texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overall {
    /// The plain mean over texts.
    #[serde(flatten)]
    pub likelihood: Likelihood,
    /// The mean over predictions of all texts.
    pub by_token: Likelihood,
    /// Distance to the original over predictions of all texts, when there is an original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// How those divergences are spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub histogram: Option<Histogram>,
    /// What the plain mean over texts is above the original's, when there is an original.
    #[serde(flatten)]
    pub increase: Option<Increase>,
}

/// What texts came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// All texts.
    pub overall: Overall,
    /// Every text, in the order given.
    pub texts: Vec<TextScore>,
    /// Tokens per second that the model alone runs at, on all threads; reading its layers counts where it is not in
    /// memory. Differs from run to run.
    pub tokens_per_second: f64,
    /// The original on the same texts, when the model was compared with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<Box<Evaluation>>,
}

/// Scores `texts` under `model`; with `against`, the original, also the distance to it.
///
/// Memory beyond the models: per thread the activations of 1024 tokens and 16 MiB of logits of each model. The figures
/// do not depend on whether a model is in memory.
///
/// # Errors
/// A text without predictions, tokens the model cannot run on, vocabularies that differ, logits that are
/// not finite, or the caller cancelled.
pub fn evaluate(
    model: &Subject<'_>,
    against: Option<&Subject<'_>>,
    texts: &[Text],
    progress: &dyn Progress,
) -> Result<Evaluation, EvalError> {
    if let Some(original) = against.filter(|original| original.spec().vocab != model.spec().vocab) {
        return Err(EvalError::Vocabulary { model: model.spec().vocab, against: original.spec().vocab });
    }
    let predicts = |text: &Text| text.windows.iter().any(|window| window.ids.len() > window.first);
    if let Some(text) = texts.iter().find(|text| !predicts(text)) {
        return Err(EvalError::Empty(text.name.clone()));
    }
    if texts.is_empty() {
        return Err(EvalError::NoTexts);
    }
    let mut chunks: Vec<Chunk> =
        texts.iter().enumerate().flat_map(|(index, text)| chunks(index, &text.windows)).collect();
    chunks.iter_mut().enumerate().for_each(|(index, chunk)| chunk.index = index);
    let model = model.start(&chunks, "evaluate, model", progress)?;
    let original = against.map(|it| it.start(&chunks, "evaluate, original", progress)).transpose()?;
    let mut scores: Vec<Scores> = texts.iter().map(|_| Scores::default()).collect();
    let mut done = 0;
    for group in chunks.chunks(2 * rayon::current_num_threads()) {
        if progress.cancelled() {
            return Err(EvalError::Cancelled);
        }
        let results: Vec<_> = group.par_iter().map(|chunk| score(&model, original.as_ref(), chunk)).collect();
        for (chunk, result) in group.iter().zip(results) {
            scores[chunk.text].append(result?);
        }
        done += group.len();
        progress.step("evaluate", done as u64, chunks.len() as u64);
    }
    let tokens: usize = chunks.iter().map(|chunk| chunk.ids.len()).sum();
    if let Some((text, _)) = texts.iter().zip(&scores).find(|(_, scores)| !scores.is_finite()) {
        return Err(EvalError::NotFinite(text.name.clone()));
    }
    let threads = rayon::current_num_threads() as f64;
    let speed = |index: usize, before: f64| {
        let seconds: f64 = scores.iter().map(|scores| scores.seconds[index]).sum();
        tokens as f64 / (before + seconds / threads).max(1e-9)
    };
    let tokens_per_second = speed(0, model.seconds());
    model.close()?;
    let original = original.map(|original| {
        let tokens_per_second = speed(1, original.seconds());
        original.close()?;
        let losses: Vec<_> = scores.iter().map(|scores| scores.pairs.original_losses.as_slice()).collect();
        Ok::<_, EvalError>(Box::new(Evaluation { tokens_per_second, ..collect(texts, &losses) }))
    });
    let original = original.transpose()?;
    let losses: Vec<_> = scores.iter().map(|scores| scores.pairs.losses.as_slice()).collect();
    let mut evaluation = Evaluation { original, tokens_per_second, ..collect(texts, &losses) };
    if against.is_some() {
        let mut all = Pairs::default();
        for (text, scores) in evaluation.texts.iter_mut().zip(scores) {
            text.divergence = Some(Divergence::new(&scores.pairs));
            all.append(scores.pairs);
        }
        let of_texts: Vec<_> = evaluation.texts.iter().filter_map(|text| text.divergence).collect();
        evaluation.overall.increase = Some(Increase::mean_of(&of_texts));
        evaluation.overall.divergence = Some(Divergence::new(&all));
        evaluation.overall.histogram = Some(Histogram::new(&all.divergences));
    }
    Ok(evaluation)
}

/// The likelihoods of every text and of all; without divergences, speed and original.
fn collect(texts: &[Text], losses: &[&[f64]]) -> Evaluation {
    let bytes = |text: &Text| text.windows.iter().map(|window| window.bytes).sum::<u64>();
    let score = |(text, losses): (&Text, &&[f64])| TextScore {
        name: text.name.clone(),
        likelihood: Likelihood::new(losses, bytes(text)),
        divergence: None,
    };
    let all = texts.iter().map(bytes).sum();
    let texts: Vec<TextScore> = texts.iter().zip(losses).map(score).collect();
    let overall = Overall {
        likelihood: Likelihood::mean_of(&texts.iter().map(|text| text.likelihood).collect::<Vec<_>>()),
        by_token: Likelihood::new(&losses.concat(), all),
        divergence: None,
        histogram: None,
        increase: None,
    };
    Evaluation { overall, texts, tokens_per_second: 0.0, original: None }
}

/// Windows of one text in batches of equal length.
fn chunks(text: usize, windows: &[Window]) -> impl Iterator<Item = Chunk> {
    let predict = |run: &&[Window]| run[0].ids.len() > 1;
    windows.chunk_by(|a, b| a.ids.len() == b.ids.len()).filter(predict).flat_map(move |run| {
        let window = run[0].ids.len();
        run.chunks(windows_per_chunk(window)).map(move |windows| Chunk {
            index: 0,
            text,
            ids: windows.iter().flat_map(|window| window.ids.iter().copied()).collect(),
            window,
            first: windows.iter().map(|window| window.first).collect(),
        })
    })
}
