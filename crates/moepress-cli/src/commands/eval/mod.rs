//! `moepress eval`: how well a model predicts text, and how far it is from another.

mod words;

use super::gates::GateArgs;
use super::model::OnDevice;
use super::{Context, Ending, model};
use crate::args::{Place, Placed, Threads, at_least};
use crate::failure::Failure;
use crate::new_file::NewFile;
use crate::progress::Shown;
use crate::{output, place};
use moepress_checkpoint::{Checkpoint, Progress, Publisher, Source, digest_of, peak_memory};
use moepress_eval::{Base, BaseHeader, BaseWriter, Kind, Task, Text};
use moepress_nn::Backend;
use moepress_pipeline::{
    Against, BaseReport, Clock, Comparison, Evaluate, Evaluated, Loader, Quiz, Report, SCHEMA_VERSION,
    Seconds, Sizes, TaskReport, TextSet, Walk, drift, load_texts,
};
use moepress_recipe::{Bos, Protocol, TextFile, TextSpec, size_in_bytes, unknown_word};
use moepress_report::Available;
use std::collections::BTreeMap;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  moepress eval out/demo --text tests/fixtures/eval-text/*.txt
  moepress eval out/demo --against tests/fixtures/demo-qwen3-moe --text a.txt
  moepress eval out/demo --protocol llama.cpp --text wiki.test.raw
  moepress eval out/demo --against original --task arc.jsonl --shots 5
  moepress eval original --text a.txt --save-base base.safetensors
  moepress eval out/demo --base base.safetensors --text a.txt
  moepress eval out/demo --against original --text a.txt --fail-if 'top1<0.8' --report out/evaluation

Protocols, whose figures are not comparable with each other:
  paper      windows of 2048 tokens without overlap; all tokens but the first of a window are scored
  llama.cpp  windows of 512 tokens without overlap; the second half of a window is scored
  strided    windows of 2048 tokens, one every 512 (--stride); only tokens that are new in a window are scored

Questions of --task are JSON objects, one a line: {\"question\", \"choices\", \"answer\"} with an index or one of the choices, \
scored by likelihood after a space (acc, acc_norm over characters, acc_bytes, and flips against the original), or \
{\"question\", \"answer\"}, answered greedily up to a line break (exact_match). Figures have the keys of \
lm-evaluation-harness.

nll is in nats per token, ± its standard error; the overall nll is the plain mean over texts. kld is the \
Kullback–Leibler divergence of the next token from the model given with --against, in nats; top-1 is how \
often both find the same token likeliest; Δp is the change of the probability of the token that comes. A file of \
--save-base stands in for that model; unless it keeps all tokens, kld is a bound from below, and no gate can ask about it.

Quality gates are conditions of --fail-if; `moepress report metrics` lists what they can ask about and how they are \
written. When one holds, the results are written all the same and the exit code is 10.";

/// Measure how well a model predicts text, alone or against its original
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "moepress eval <PATH> --text <FILE>... [OPTIONS]")]
#[command(group(clap::ArgGroup::new("on").required(true).multiple(true).args(["texts", "tasks"])))]
pub struct Args {
    /// Model directory, plain or compact
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The model to compare with, usually the original
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// Compare with what --save-base kept of a model on the same text
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    base: Option<PathBuf>,
    /// Keep the model's distributions of every next token in this file, which must not exist
    #[arg(long, value_name = "FILE", conflicts_with_all = ["against", "base"])]
    save_base: Option<PathBuf>,
    /// Tokens that --save-base keeps of every distribution, the likeliest, or `all`
    #[arg(long, value_name = "N", default_value = "256", value_parser = base_top)]
    base_top: usize,
    /// Text files; of one that ends in .jsonl, the field `text` of every line
    #[arg(long = "text", value_name = "FILE", num_args = 1..)]
    texts: Vec<PathBuf>,
    /// Questions with known answers, a JSON object a line
    #[arg(long = "task", value_name = "FILE", num_args = 1..)]
    tasks: Vec<PathBuf>,
    /// Questions that are put with their answers before each of the others, the first of every file
    #[arg(long, value_name = "N", default_value = "0", value_parser = at_least(0, 1000))]
    shots: usize,
    /// Tokens of an answer to an open question
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least(1, 1 << 16))]
    answer: usize,
    /// Also walk both models layer by layer through that many windows of every text, and tell how routing drifts
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "8", requires = "against", value_parser = at_least(1, 4096))]
    drift: Option<usize>,
    /// How text is cut and scored: paper, llama.cpp or strided
    #[arg(long, value_name = "NAME", default_value = "paper", value_parser = protocol)]
    protocol: Protocol,
    /// Tokens of a window [default: as the protocol says, at most the context of the model]
    #[arg(long, value_name = "N", value_parser = at_least(2, 1 << 20))]
    window: Option<usize>,
    /// Windows of every text, from its start [default: all]
    #[arg(long, value_name = "N", value_parser = at_least(1, 1_000_000))]
    windows: Option<usize>,
    /// Tokens from the start of a window to that of the next; for the protocol strided [default: 512]
    #[arg(long, value_name = "N", value_parser = at_least(1, 1 << 20))]
    stride: Option<usize>,
    /// Where the beginning-of-sequence token goes: auto (as the tokenizer does), none, window or document
    #[arg(long, value_name = "WHERE", default_value = "auto", value_parser = Bos::named)]
    bos: Bos,
    #[command(flatten)]
    placed: Placed,
    #[command(flatten)]
    threads: Threads,
    /// Most resident memory, such as 2GiB; models that do not fit are read layer by layer
    #[arg(long, value_name = "SIZE", value_parser = size_in_bytes)]
    max_memory: Option<u64>,
    /// Directory for what does not fit into memory [default: that of the system for temporary files]
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    #[command(flatten)]
    gates: GateArgs,
    /// Also write report.json, report.md and report.html to this directory, which must not exist
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

fn base_top(word: &str) -> Result<usize, String> {
    match word.parse() {
        _ if word == "all" => Ok(usize::MAX),
        Ok(top) if (1..=1 << 20).contains(&top) => Ok(top),
        _ => Err("must be a number of tokens from 1 to 1048576, or `all`".to_owned()),
    }
}

fn protocol(word: &str) -> Result<Protocol, String> {
    Protocol::named(word, Protocol::STRIDE).ok_or_else(|| unknown_word("protocol", word, &Protocol::NAMES))
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        let mut clock = Clock::start();
        if self.placed.device != Place::On(Backend::Cpu) && self.max_memory.is_some() {
            return Err(Failure::usage(
                "--max-memory needs --device cpu: on a device all weights are in its memory",
            ));
        }
        let available = Available {
            texts: names(&self.texts),
            tasks: names(&self.tasks),
            drift: self.drift.is_some(),
            original: self.against.is_some() || self.base.is_some(),
            original_model: self.against.is_some(),
            // A file that does not have them is found out when it is opened.
            whole_distributions: true,
            ..Available::default()
        };
        let read = [Some(&self.path), self.against.as_ref()];
        let models: Vec<_> = read.into_iter().flatten().map(|path| ("model", path.as_path())).collect();
        if let Some(dir) = &self.report {
            models.iter().try_for_each(|(what, model)| place::apart(dir, what, model))?;
        }
        let publisher = self.report.as_ref().map(|dir| Publisher::new(&context.files, dir)).transpose()?;
        let gates = self.gates.clone().open(context, None, available.clone(), &models)?;
        let kept = self.save_base.as_ref().map(|file| {
            models.iter().try_for_each(|(what, model)| place::apart(file, what, model))?;
            NewFile::claim(&context.files, file)
        });
        let kept = kept.transpose()?;
        self.threads.start()?;
        let progress = Shown::new(context);
        let checkpoint = model::open(context, &self.path)?;
        let against = self.against.as_ref().map(|path| model::open(context, path)).transpose()?;
        let tokenizer = model::tokenizer(context, &checkpoint)?;
        let mut notes = Vec::new();
        if let Some(against) = &against {
            notes.extend(other_tokenizer(&checkpoint, against)?);
        }
        let texts = self.texts(checkpoint.spec().context, &mut notes)?;
        let set = load_texts(context.files.as_ref(), &tokenizer, &texts)?;
        let tasks = self.tasks.iter().map(|path| Task::read(context.files.as_ref(), path, self.shots));
        let tasks = tasks.collect::<Result<Vec<_>, _>>()?;
        notes.extend(set.notes.iter().cloned());
        let models: Vec<&Checkpoint> = [Some(&checkpoint), against.as_ref()].into_iter().flatten().collect();
        let device = OnDevice::choose(self.placed.device, &models)?;
        notes.extend(device.iter().map(|device| format!("models were evaluated on {device}")));
        let text = clock.lap("read text and headers");
        let header = self.header(&checkpoint, &set)?;
        let base =
            self.base.as_ref().map(|path| Base::open(context.files.as_ref(), path, &header)).transpose()?;
        let whole = base.as_ref().is_none_or(|base| base.header().top == base.header().vocab);
        gates.check(&Available { whole_distributions: whole, ..available })?;
        let mut writer = match (&kept, &self.save_base) {
            (Some(file), Some(path)) => Some(BaseWriter::new(header, path, file.start()?)?),
            _ => None,
        };
        let spool = self.spool.clone().unwrap_or_else(std::env::temp_dir);
        let spool = spool.join(format!("moepress-eval-{}", std::process::id()));
        let job = Evaluate {
            files: &context.files,
            model: &checkpoint,
            against: match (&against, &base, &mut writer) {
                (Some(model), ..) => Against::Model(model),
                (_, Some(base), _) => Against::Base(base),
                (.., Some(writer)) => Against::Keep(writer),
                _ => Against::Nothing,
            },
            device: device.as_ref().map(|device| device as &dyn Loader),
            texts: &set.texts,
            quiz: (!tasks.is_empty()).then_some(Quiz {
                tasks: &tasks,
                tokenizer: &tokenizer,
                most: self.answer,
            }),
            memory: self.max_memory,
            spool: &spool,
        };
        let Evaluated { evaluation, answers, notes: on_the_way, .. } = job.run(None, &progress)?;
        notes.extend(on_the_way.into_iter().chain(answers.notes));
        if let (Some(writer), Some(file)) = (writer, kept) {
            writer.finish()?;
            file.publish()?;
        }
        notes.iter().for_each(|line| progress.note(line));
        let evaluate = clock.lap("evaluate");
        let drifted = match (self.drift, &against) {
            (Some(count), Some(original)) => {
                let windows = windows(&set, texts.window, count);
                let (files, memory) = (&context.files, self.max_memory);
                let walk =
                    Walk { files, original, model: &checkpoint, windows: &windows, memory, spool: &spool };
                let drifted = drift(&walk, &progress)?;
                clock.lap("walk both models");
                Some(drifted)
            }
            _ => None,
        };
        let (drift, routing) = drifted.unzip();
        let [routing, routing_after] = routing.unwrap_or_default();
        let after = Sizes::on_disk(&checkpoint);
        let mut report = Report {
            schema_version: SCHEMA_VERSION,
            moepress: env!("CARGO_PKG_VERSION"),
            command: "eval",
            model: self.path.display().to_string(),
            against: self.against.as_ref().or(self.base.as_ref()).map(|path| path.display().to_string()),
            family: checkpoint.spec().family.clone(),
            before: against.as_ref().map_or_else(|| after.clone(), Sizes::on_disk),
            after,
            notes,
            routing,
            routing_after,
            drift,
            results: answers.results,
            original_results: answers.original,
            tasks: tasks.iter().map(task).collect(),
            evaluation: evaluation.map(|mut evaluation| Comparison {
                original: evaluation.original.take().map(|original| *original),
                compact: evaluation,
                base: base.as_ref().map(|base| BaseReport {
                    sha256: base.sha256().to_owned(),
                    model: base.header().model.clone(),
                    model_sha256: base.header().model_sha256.clone(),
                    top: base.header().top,
                }),
                sampling: set.report,
                original_decode_tokens_per_second: None,
                compact_decode_tokens_per_second: None,
            }),
            seconds: Seconds { text, evaluate, total: clock.total(), ..Seconds::default() },
            phases: clock.phases(),
            threads: rayon::current_num_threads(),
            peak_memory_bytes: peak_memory(),
            ..Report::default()
        };
        report.gates = gates.judge(&report);
        if let Some(mut publisher) = publisher {
            publisher.write_file("report.json", &report.json()?)?;
            publisher.write_file("report.md", moepress_report::markdown(&report).as_bytes())?;
            publisher.write_file("report.html", moepress_report::html(&report).as_bytes())?;
            publisher.finish()?;
        }
        drop(progress);
        match self.json {
            true => output::json(&report)?,
            false => output::result(&words::in_words(&report))?,
        }
        gates.finish(&report.gates)
    }

    /// What a file of this model's distributions on these texts says of itself.
    fn header(&self, model: &Checkpoint, set: &TextSet) -> Result<BaseHeader, Failure> {
        let sampling = &set.report;
        let digests = match self.save_base {
            Some(_) => model.input_digests()?,
            None => BTreeMap::new(),
        };
        let listed: String = digests.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
        let named = (self.path.display().to_string(), digest_of(listed.as_bytes()));
        let cut = (sampling.protocol, sampling.window, sampling.stride, sampling.bos);
        Ok(BaseHeader::new(named, (model.spec().vocab, self.base_top), cut, &set.texts))
    }

    /// What to read, for a model with that context.
    fn texts(&self, context: usize, notes: &mut Vec<String>) -> Result<TextSpec, Failure> {
        let protocol = match (self.protocol, self.stride) {
            (Protocol::Strided { .. }, Some(stride)) => Protocol::Strided { stride },
            (_, Some(_)) => return Err(Failure::usage("--stride is for --protocol strided")),
            (protocol, None) => protocol,
        };
        let window = self.window.unwrap_or_else(|| {
            let usual = protocol.window();
            if usual > context && !self.texts.is_empty() {
                notes.push(format!(
                    "windows have {context} tokens, the context of the model; the protocol {} usually has {usual}",
                    protocol.name()
                ));
            }
            usual.min(context)
        });
        let files = self.texts.iter().cloned().map(TextFile::new).collect();
        let windows = self.windows.unwrap_or(TextSpec::ALL);
        let spec = TextSpec { files, window, windows, seed: None, bos: self.bos, protocol };
        match spec.contradiction() {
            Some((key, reason)) => Err(Failure::usage(format!("--{key}: {reason}"))),
            None => Ok(spec),
        }
    }
}

/// The stems of files.
fn names(files: &[PathBuf]) -> Vec<String> {
    files.iter().cloned().map(|path| TextFile::new(path).name()).collect()
}

/// The first windows of every text, those that have the length.
fn windows(set: &TextSet, length: usize, count: usize) -> Vec<Vec<u32>> {
    let whole = |text: &Text| {
        let windows = text.windows.iter().filter(|window| window.ids.len() == length).take(count);
        windows.map(|window| window.ids.clone()).collect::<Vec<_>>()
    };
    set.texts.iter().flat_map(whole).collect()
}

fn task(task: &Task) -> TaskReport {
    TaskReport {
        name: task.name.clone(),
        file: task.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        sha256: task.sha256.clone(),
        kind: match task.kind {
            Kind::Choice => "multiple_choice",
            Kind::Open => "generate_until",
        },
        shots: task.shots,
        questions: task.asked().len(),
    }
}

/// What to say where both models, which read the tokens of the first one's tokenizer, have others.
fn other_tokenizer(first: &Checkpoint, second: &Checkpoint) -> Result<Option<String>, Failure> {
    const NAME: &str = "tokenizer.json";
    let same = first.tokenizer_files()?.get(NAME) == second.tokenizer_files()?.get(NAME);
    let (first, second) = (first.dir().display(), second.dir().display());
    let note = || format!("{first} and {second} differ in {NAME}; text is read with that of {first}");
    Ok((!same).then(note))
}
