//! Texts through a model, in parallel.

use crate::base::{Base, BaseWriter};
use crate::distance::{Histogram, Increase, Pairs};
use crate::pass::{chunks, in_order, pass};
use crate::score::{Chunk, Scores};
use crate::subject::Subject;
use crate::{Divergence, EvalError, Likelihood};
use moepress_checkpoint::Progress;
use moepress_text::Window;
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
    /// memory. Differs from run to run; none where it did not run.
    pub tokens_per_second: Option<f64>,
    /// The original on the same texts, when the model was compared with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<Box<Evaluation>>,
}

/// What a model is compared with, token by token.
pub enum Beside<'a> {
    /// Nothing.
    Nothing,
    /// A model on the same tokens.
    Model(&'a Subject<'a>),
    /// What was kept of a model's distributions.
    Base(&'a Base),
    /// Nothing; the distributions of the model itself are kept.
    Keep(&'a mut BaseWriter),
}

/// Scores `texts` under `model`; with `against`, the original, also the distance to it.
///
/// # Errors
/// As [`evaluate_beside`].
pub fn evaluate(
    model: &Subject<'_>,
    against: Option<&Subject<'_>>,
    texts: &[Text],
    progress: &dyn Progress,
) -> Result<Evaluation, EvalError> {
    evaluate_beside(model, against.map_or(Beside::Nothing, Beside::Model), texts, progress)
}

/// Scores `texts` under `model`, and measures how far it is from what is beside it.
///
/// Memory beyond the models: per thread the activations of 1024 tokens and 16 MiB of logits of each model. The figures
/// do not depend on whether a model is in memory.
///
/// # Errors
/// A text without predictions, tokens the model cannot run on, vocabularies that differ, logits that are
/// not finite, or the caller cancelled.
pub fn evaluate_beside(
    model: &Subject<'_>,
    mut beside: Beside<'_>,
    texts: &[Text],
    progress: &dyn Progress,
) -> Result<Evaluation, EvalError> {
    let predicts = |text: &Text| text.windows.iter().any(|window| window.ids.len() > window.first);
    if let Some(text) = texts.iter().find(|text| !predicts(text)) {
        return Err(EvalError::Empty(text.name.clone()));
    }
    if texts.is_empty() {
        return Err(EvalError::NoTexts);
    }
    let chunks: Vec<Chunk> =
        in_order(texts.iter().enumerate().flat_map(|(index, text)| chunks(index, &text.windows)).collect());
    let mut scores: Vec<Scores> = texts.iter().map(|_| Scores::default()).collect();
    let speeds = pass(model, &mut beside, &chunks, "evaluate", progress, &mut |chunk, score| {
        scores[chunk.text].append(score);
    })?;
    if let Some((text, _)) = texts.iter().zip(&scores).find(|(_, scores)| !scores.is_finite()) {
        return Err(EvalError::NotFinite(text.name.clone()));
    }
    let compared = matches!(beside, Beside::Model(_) | Beside::Base(_));
    let original = compared.then(|| {
        let losses: Vec<_> = scores.iter().map(|scores| scores.pairs.original_losses.as_slice()).collect();
        Box::new(Evaluation { tokens_per_second: speeds[1], ..collect(texts, &losses) })
    });
    let losses: Vec<_> = scores.iter().map(|scores| scores.pairs.losses.as_slice()).collect();
    let mut evaluation = Evaluation { original, tokens_per_second: speeds[0], ..collect(texts, &losses) };
    if compared {
        let top = match beside {
            Beside::Base(base) => base.bound(),
            _ => None,
        };
        let mut all = Pairs::default();
        for (text, scores) in evaluation.texts.iter_mut().zip(scores) {
            text.divergence = Some(Divergence::new(&scores.pairs, top));
            all.append(scores.pairs);
        }
        let of_texts: Vec<_> = evaluation.texts.iter().filter_map(|text| text.divergence).collect();
        evaluation.overall.increase = Some(Increase::mean_of(&of_texts));
        evaluation.overall.divergence = Some(Divergence::new(&all, top));
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
    Evaluation { overall, texts, tokens_per_second: None, original: None }
}
