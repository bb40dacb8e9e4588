//! The one thread that computes: all running sequences advance a token at a time, in one pass of the model.

use crate::metrics::Metrics;
use crate::scoring::score;
use crate::{Limits, Served};
use moepress_runtime::{LogProbabilities, RuntimeError, Sampler, Sampling, Session, step_together};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// Tokens of a prompt that run between two tokens of the other sequences.
const SLICE: usize = 512;
/// Tokens of prompts that are scored together.
const SCORED: usize = 1024;

/// A sequence to continue.
pub(crate) struct Job {
    /// At least one token, all in the vocabulary, shorter than the context.
    pub(crate) prompt: Vec<u32>,
    /// Tokens to add at most.
    pub(crate) most: usize,
    pub(crate) sampling: Sampling,
    /// Its place among the sequences of a request, which sets it apart from those with the same seed.
    pub(crate) stream: u64,
    /// How many alternatives every token is told with; none where nobody asks.
    pub(crate) top: Option<usize>,
    /// Whether the tokens of the prompt are told too.
    pub(crate) echo: bool,
    pub(crate) deadline: Instant,
    /// Where its tokens go; closed when nobody wants them any more.
    pub(crate) events: UnboundedSender<Event>,
    /// Held while the sequence waits or runs.
    pub(crate) _place: Place,
}

/// A place in the queue.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    /// Takes so many places, if there are.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, count: usize, most: usize) -> Option<Vec<Self>> {
        let fits = |now: usize| now.checked_add(count).filter(|&then| then <= most);
        taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).ok()?;
        Some((0..count).map(|_| Self(taken.clone())).collect())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a sequence comes to.
#[derive(Debug)]
pub(crate) enum Event {
    /// The tokens of the prompt, where they were asked for.
    Prompt(Vec<TokenScore>),
    /// The next token.
    Token(TokenScore),
    /// There are no more.
    End(Finish),
    /// It took longer than it may.
    Late,
    /// The model failed.
    Failed(String),
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// An end token, or a stop string.
    Stop,
    /// As many tokens as asked for, or a full context.
    Length,
}

impl Finish {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenScore {
    pub(crate) id: u32,
    /// ln p; none for the first of a prompt, and where nobody asked.
    pub(crate) logprob: Option<f64>,
    /// The likeliest tokens at its place with their log-probabilities, the likeliest first.
    pub(crate) top: Vec<(u32, f64)>,
}

impl TokenScore {
    /// A token chosen from logits, with that many alternatives if anyone asks. Where it is the likeliest, both have
    /// the same number.
    pub(crate) fn new(id: u32, logits: &[f32], top: Option<usize>) -> Self {
        let Some(top) = top else { return Self { id, logprob: None, top: vec![] } };
        let p = LogProbabilities::new(logits);
        let of = |id: u32| p.of(id as usize);
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let top = top.min(ids.len());
        if top > 0 && top < ids.len() {
            ids.select_nth_unstable_by(top - 1, order);
        }
        ids.truncate(top);
        ids.sort_unstable_by(order);
        Self { id, logprob: Some(of(id)), top: ids.into_iter().map(|id| (id, of(id))).collect() }
    }
}

/// A sequence that runs.
struct Running<'a> {
    job: Job,
    session: Session<'a>,
    sampler: Sampler,
    /// Tokens of the prompt that are yet to run.
    pending: VecDeque<u32>,
    /// After the last token that ran; empty while the prompt runs.
    logits: Vec<f32>,
    /// The last token that was added, and how many were.
    last: u32,
    added: usize,
}

/// Runs until all senders of jobs are gone.
pub(crate) fn run(served: &Served, jobs: &Receiver<Job>, limits: &Limits, metrics: &Metrics) {
    let mut waiting: VecDeque<Job> = VecDeque::new();
    let mut running: Vec<Running<'_>> = Vec::new();
    loop {
        if waiting.is_empty() && running.is_empty() {
            metrics.running(0, 0);
            match jobs.recv() {
                Ok(job) => waiting.push_back(job),
                Err(_) => return,
            }
        }
        loop {
            match jobs.try_recv() {
                Ok(job) => waiting.push_back(job),
                Err(TryRecvError::Empty) => break,
                // Nobody is left to answer.
                Err(TryRecvError::Disconnected) if running.is_empty() && waiting.is_empty() => return,
                Err(TryRecvError::Disconnected) => break,
            }
        }
        waiting.retain(wanted);
        running.retain(|running| wanted(&running.job));
        echo(served, &mut waiting, metrics);
        while running.len() < limits.batch
            && let Some(next) = waiting.iter().position(|job| !job.echo)
            && let Some(job) = waiting.remove(next)
        {
            running.push(start(served, job, limits));
        }
        metrics.running(running.len(), waiting.len());
        advance(&mut running, metrics, served);
    }
}

/// Whether anybody waits for it; says so where it is too late.
fn wanted(job: &Job) -> bool {
    let late = Instant::now() >= job.deadline;
    if late {
        // A receiver that went away needs no answer.
        let _ = job.events.send(Event::Late);
    }
    !late && !job.events.is_closed()
}

fn start<'a>(served: &'a Served, job: Job, limits: &Limits) -> Running<'a> {
    Running {
        session: Session::new(&served.model, limits.precision),
        sampler: job.sampling.sampler(job.stream),
        pending: job.prompt.iter().copied().collect(),
        logits: vec![],
        last: 0,
        added: 0,
        job,
    }
}

/// Scores the prompts that are to be told, of those waiting as many as are as long as the first; the others come in the
/// next round. What is to be continued by more than a token waits as a sequence.
fn echo(served: &Served, waiting: &mut VecDeque<Job>, metrics: &Metrics) {
    let Some(first) = waiting.iter().find(|job| job.echo) else { return };
    let (length, top) = (first.prompt.len(), first.top);
    let mut left = (SCORED / length).max(1);
    let mut batch = Vec::new();
    for job in std::mem::take(waiting) {
        if job.echo && job.prompt.len() == length && job.top == top && left > 0 {
            left -= 1;
            batch.push(job);
        } else {
            waiting.push_back(job);
        }
    }
    let prompts: Vec<&[u32]> = batch.iter().map(|job| job.prompt.as_slice()).collect();
    let scored = match score(&served.model, &prompts, top.unwrap_or(0)) {
        Ok(scored) => scored,
        Err(error) => {
            batch.iter().for_each(|job| fail(job, &error));
            return;
        }
    };
    // Those that are continued count when they run once more.
    metrics.prompt_tokens(batch.iter().filter(|job| job.most <= 1).count() * length);
    for (job, scored) in batch.into_iter().zip(scored) {
        let mut tokens = scored.tokens;
        if job.top.is_none() {
            tokens.iter_mut().for_each(|token| token.logprob = None);
        }
        let _ = job.events.send(Event::Prompt(tokens));
        match job.most {
            0 => {
                let _ = job.events.send(Event::End(Finish::Length));
            }
            1 => {
                // Told even if it is an end token: whoever asks for one more counts on it.
                let id = job.sampling.sampler(job.stream).choose(&scored.last);
                let _ = job.events.send(Event::Token(TokenScore::new(id, &scored.last, job.top)));
                metrics.generated_tokens(1);
                let ends = served.model.spec().end_tokens.contains(&id);
                let _ = job.events.send(Event::End(if ends { Finish::Stop } else { Finish::Length }));
            }
            _ => waiting.push_front(Job { echo: false, ..job }),
        }
    }
}

fn fail(job: &Job, error: &RuntimeError) {
    let _ = job.events.send(Event::Failed(error.to_string()));
}

/// A slice of one prompt, and a token of every sequence whose prompt has run.
fn advance(running: &mut Vec<Running<'_>>, metrics: &Metrics, served: &Served) {
    if let Some(index) = running.iter().position(|running| !running.pending.is_empty()) {
        let sequence = &mut running[index];
        // Where positions turn otherwise in long sequences, the prompt is one.
        let length = sequence.job.prompt.len();
        let whole = served.model.spec().attention.rope.scaling.changes(0, length);
        let count = sequence.pending.len().min(if whole { length } else { SLICE });
        let slice: Vec<u32> = sequence.pending.drain(..count).collect();
        match sequence.session.prefill(&slice) {
            Ok(logits) => {
                metrics.prompt_tokens(count);
                sequence.logits = logits;
            }
            Err(error) => {
                fail(&sequence.job, &error);
                running.remove(index);
            }
        }
    }
    let (end_tokens, context) = (&served.model.spec().end_tokens, served.model.spec().context);
    running.retain_mut(|sequence| {
        if !sequence.pending.is_empty() {
            return true;
        }
        let id = sequence.sampler.choose(&sequence.logits);
        if end_tokens.contains(&id) {
            let _ = sequence.job.events.send(Event::End(Finish::Stop));
            return false;
        }
        let token = TokenScore::new(id, &sequence.logits, sequence.job.top);
        sequence.added += 1;
        metrics.generated_tokens(1);
        let told = sequence.job.events.send(Event::Token(token)).is_ok();
        let full = sequence.session.seen() + 1 > context;
        if sequence.added == sequence.job.most || full {
            let _ = sequence.job.events.send(Event::End(Finish::Length));
            return false;
        }
        sequence.last = id;
        told
    });
    let mut going: Vec<&mut Running<'_>> =
        running.iter_mut().filter(|sequence| sequence.pending.is_empty()).collect();
    if going.is_empty() {
        return;
    }
    let ids: Vec<u32> = going.iter().map(|sequence| sequence.last).collect();
    let mut sessions: Vec<_> = going.iter_mut().map(|sequence| &mut sequence.session).collect();
    match step_together(&mut sessions, &ids) {
        Ok(logits) => going.into_iter().zip(logits).for_each(|(sequence, logits)| sequence.logits = logits),
        Err(error) => {
            going.iter().for_each(|sequence| fail(&sequence.job, &error));
            running.retain(|sequence| !sequence.pending.is_empty());
        }
    }
}
