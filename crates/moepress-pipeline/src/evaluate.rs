//! Evaluating within the memory there is: with the models in memory where they fit, else layer by layer.

use crate::PipelineError;
use crate::memory::{allowed, check};
use crate::quiz::{Answers, Quiz};
use moepress_calibrate::{Layout, PROGRAM, Spool, Work};
use moepress_checkpoint::{Checkpoint, CheckpointError, Files, Progress, Source};
use moepress_eval::{
    Base, BaseWriter, Beside, Evaluation, Streamed, Subject, Text, decode_speed, evaluate_beside,
    scoring_memory,
};
use moepress_model::ModelSpec;
use moepress_runtime::{Blocks, Model};
use moepress_stats::Needs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much text there is.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// Tokens in all.
    pub all: usize,
    /// Tokens of the longest window.
    pub window: usize,
}

/// How models are evaluated.
pub struct Way {
    /// For each of them how its layers are read; none when all are in memory.
    layouts: Option<Vec<Layout>>,
    /// Predicted peak of resident memory, in bytes.
    pub peak: u64,
    /// Predicted size of the hidden states on disk at their peak, in bytes.
    pub spool: u64,
    /// The least memory that would do.
    pub least: u64,
}

impl Way {
    /// The fastest way that stays within `limit`, or the one that takes least where none does.
    pub fn choose(models: &[&ModelSpec], tokens: Tokens, threads: usize, limit: Option<u64>) -> Self {
        let needs = Needs::default();
        let work = Work { tokens: tokens.all, window: tokens.window, threads, needs: &needs, packed: true };
        let vocab = models.iter().map(|spec| spec.vocab).max().unwrap_or(0);
        let scoring = PROGRAM + threads as u64 * scoring_memory(vocab, tokens.window);
        let (mut heads, mut states) = (0, 0);
        let (mut layouts, mut streamed, mut spool, mut least) = (vec![], 0, 0, 0);
        for spec in models {
            // What is left by the models before it stays.
            let limit = limit.map(|limit| limit.saturating_sub(heads));
            let smallest = Layout::least(spec, &work);
            let layout = Layout::spooled(spec, &work, limit).unwrap_or(smallest);
            streamed = streamed.max(heads + layout.peak);
            least = least.max(heads + Layout::with_margin(smallest.peak));
            spool = spool.max(states + layout.spool);
            heads += Layout::head(spec);
            states += 4 * (tokens.all * spec.hidden) as u64;
            layouts.push(layout);
        }
        least = least.max(Layout::with_margin(heads + scoring));
        let weights: u64 = models.iter().map(|spec| spec.total_bytes()).sum();
        let working = models.iter().map(|spec| Layout::working(spec, &work)).max().unwrap_or(0);
        let loaded = weights + scoring + working;
        if limit.is_none_or(|limit| Layout::with_margin(loaded) <= limit) {
            return Self { layouts: None, peak: loaded, spool: 0, least };
        }
        Self { layouts: Some(layouts), peak: streamed.max(heads + scoring), spool, least }
    }
}

/// What a model is compared with.
pub enum Against<'a> {
    /// Nothing.
    Nothing,
    /// Another model.
    Model(&'a Checkpoint),
    /// What was kept of another model's distributions.
    Base(&'a Base),
    /// Nothing; the distributions of the model itself are kept.
    Keep(&'a mut BaseWriter),
}

/// Puts models onto a device, whose memory takes all of their weights.
pub trait Loader {
    /// Loads a model to be evaluated.
    ///
    /// # Errors
    /// [`PipelineError::Device`], or the model cannot be read.
    fn blocks(&self, model: &Checkpoint) -> Result<Blocks, PipelineError>;

    /// Loads a model to be run.
    ///
    /// # Errors
    /// As [`Self::blocks`].
    fn model(&self, model: &Checkpoint) -> Result<Model, PipelineError>;
}

/// A model to evaluate on texts, alone or beside another.
pub struct Evaluate<'a> {
    /// All input and output.
    pub files: &'a Arc<dyn Files>,
    /// The model.
    pub model: &'a Checkpoint,
    /// What it is compared with.
    pub against: Against<'a>,
    /// On what device; none for the CPU.
    pub device: Option<&'a dyn Loader>,
    /// On what.
    pub texts: &'a [Text],
    /// Questions to ask, where there are any.
    pub quiz: Option<Quiz<'a>>,
    /// The most that may be resident, in bytes; as much as the system has left when not given.
    pub memory: Option<u64>,
    /// A directory, not yet there, for what does not fit into memory.
    pub spool: &'a Path,
}

/// What an evaluation came to.
pub struct Evaluated {
    /// The model on the texts, and the other in it; none without texts.
    pub evaluation: Option<Evaluation>,
    /// What questions came to.
    pub answers: Answers,
    /// Tokens per second of greedy decoding, of the model and of the other; none where a model does not fit into
    /// memory, or there is nothing to decode from.
    pub decode: [Option<f64>; 2],
    /// What was decided for the user.
    pub notes: Vec<String>,
}

impl Evaluate<'_> {
    /// Evaluates; with a prompt also measures how fast each model decodes after it.
    ///
    /// # Errors
    /// A model cannot be read or run on the texts, the memory is too little for any way of working, or the caller
    /// cancelled.
    pub fn run(self, prompt: Option<&[u32]>, progress: &dyn Progress) -> Result<Evaluated, PipelineError> {
        let other = match self.against {
            Against::Model(model) => Some(model),
            _ => None,
        };
        let models: Vec<&Checkpoint> = [self.model].into_iter().chain(other).collect();
        let specs: Vec<&ModelSpec> = models.iter().map(|model| model.spec()).collect();
        let lengths = || self.texts.iter().flat_map(|text| &text.windows).map(|window| window.ids.len());
        let context = specs.iter().map(|spec| spec.context).min().unwrap_or(0);
        let asked = self.quiz.map_or(Tokens { all: 0, window: 0 }, |quiz| quiz.tokens(context));
        let tokens = Tokens {
            all: lengths().sum::<usize>().max(asked.all),
            window: lengths().max().unwrap_or(0).max(asked.window),
        };
        let (limit, quiz) = (allowed(self.memory), self.quiz);
        if let Some(device) = self.device {
            let loaded = models.iter().map(|model| device.blocks(model)).collect::<Result<Vec<_>, _>>()?;
            let subjects: Vec<Subject<'_>> = loaded.iter().map(Subject::Loaded).collect();
            let (evaluation, mut answers) = self.judge(&subjects, progress)?;
            drop(loaded);
            let load = |model: &Checkpoint| device.model(model);
            quiz.iter().try_for_each(|quiz| quiz.write(&models, &load, &mut answers, progress))?;
            return Ok(Evaluated { evaluation, answers, decode: [None; 2], notes: vec![] });
        }
        let load = |model: &Checkpoint| {
            check(Layout::with_margin(PROGRAM + model.spec().unpacked().total_bytes()), limit, true)?;
            Ok(Model::load(model)?)
        };
        let way = Way::choose(&specs, tokens, rayon::current_num_threads(), limit);
        check(way.least, self.memory, true)?;
        let Some(layouts) = way.layouts else {
            let loaded = models.iter().map(|&model| Blocks::load(model)).collect::<Result<Vec<_>, _>>()?;
            let subjects: Vec<Subject<'_>> = loaded.iter().map(Subject::Loaded).collect();
            let (evaluation, mut answers) = self.judge(&subjects, progress)?;
            drop(loaded);
            quiz.iter().try_for_each(|quiz| quiz.write(&models, &load, &mut answers, progress))?;
            return Ok(Evaluated {
                evaluation,
                answers,
                decode: speeds(&models, prompt, limit)?,
                notes: vec![],
            });
        };
        self.files.create_dir(self.spool).map_err(|e| CheckpointError::writing(self.spool, e))?;
        let mut subjects = vec![];
        for (&source, layout) in models.iter().zip(layouts) {
            let dir = self.spool.join(subjects.len().to_string());
            let spool = Spool { files: self.files.clone(), dir };
            subjects.push(Subject::Streamed(Streamed { source, layout, spool }));
        }
        let (files, spool) = (self.files, self.spool);
        let judged = self.judge(&subjects, progress);
        let removed = files.remove_dir_all(spool);
        let (evaluation, mut answers) = judged?;
        removed.map_err(|e| CheckpointError::writing(spool, e))?;
        quiz.iter().try_for_each(|quiz| quiz.write(&models, &load, &mut answers, progress))?;
        let decode = speeds(&models, prompt, limit)?;
        let note =
            "evaluated layer by layer: with all weights in memory it would take more than there may be";
        Ok(Evaluated { evaluation, answers, decode, notes: vec![note.to_owned()] })
    }

    /// Texts, then questions with choices.
    fn judge(
        self,
        subjects: &[Subject<'_>],
        progress: &dyn Progress,
    ) -> Result<(Option<Evaluation>, Answers), PipelineError> {
        let beside = self.against.beside(subjects.get(1));
        let evaluation = match self.texts {
            [] => None,
            texts => Some(evaluate_beside(&subjects[0], beside, texts, progress)?),
        };
        let answers = self.quiz.map(|quiz| quiz.choose(subjects, progress)).transpose()?;
        Ok((evaluation, answers.unwrap_or_default()))
    }
}

impl<'a> Against<'a> {
    fn beside<'b>(self, model: Option<&'b Subject<'b>>) -> Beside<'b>
    where
        'a: 'b,
    {
        match (self, model) {
            (Self::Model(_), Some(model)) => Beside::Model(model),
            (Self::Nothing | Self::Model(_), _) => Beside::Nothing,
            (Self::Base(base), _) => Beside::Base(base),
            (Self::Keep(writer), _) => Beside::Keep(writer),
        }
    }
}

/// Tokens that are decoded in a round to measure speed.
const DECODED: usize = 64;
/// Rounds at most; further ones than the first begin within so much time.
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(4);

/// Tokens per second of greedy decoding after the beginning of a prompt, of each model that fits into memory: medians of
/// rounds, by turns where both fit at once.
fn speeds(
    models: &[&Checkpoint],
    prompt: Option<&[u32]>,
    limit: Option<u64>,
) -> Result<[Option<f64>; 2], PipelineError> {
    let mut decode = [None; 2];
    let Some(prompt) = prompt.map(|prompt| &prompt[..prompt.len().min(16)]).filter(|p| !p.is_empty()) else {
        return Ok(decode);
    };
    let fits = |models: &[&Checkpoint]| {
        let bytes: u64 = models.iter().map(|model| model.spec().unpacked().total_bytes()).sum();
        limit.is_none_or(|limit| Layout::with_margin(PROGRAM + bytes) <= limit)
    };
    let together = if fits(models) { models.len().max(1) } else { 1 };
    for (speeds, models) in decode.chunks_mut(together).zip(models.chunks(together)) {
        if !fits(models) {
            continue;
        }
        let loaded = models.iter().map(|&model| Model::load(model)).collect::<Result<Vec<_>, _>>()?;
        let (mut rounds, started) = (vec![vec![]; loaded.len()], Instant::now());
        while rounds[0].is_empty() || rounds[0].len() < ROUNDS && started.elapsed() < PATIENCE {
            for (rounds, model) in rounds.iter_mut().zip(&loaded) {
                let count = DECODED.min(model.spec().context.saturating_sub(prompt.len()));
                rounds.push(decode_speed(model, prompt, count)?);
            }
        }
        for (speed, mut rounds) in speeds.iter_mut().zip(rounds) {
            rounds.sort_by(f64::total_cmp);
            *speed = Some(rounds[rounds.len() / 2]);
        }
    }
    Ok(decode)
}
