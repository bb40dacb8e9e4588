//! `moepress eval`: how well a model predicts text, and how far it is from another.

use super::gates::GateArgs;
use super::{Context, Ending, model};
use crate::args::{Threads, at_least};
use crate::failure::Failure;
use crate::progress::Shown;
use crate::{output, place};
use moepress_checkpoint::{Checkpoint, Progress, Publisher, Source, peak_memory};
use moepress_eval::{Divergence, Likelihood};
use moepress_pipeline::{
    Clock, Comparison, Evaluate, Evaluated, Report, SCHEMA_VERSION, Seconds, Sizes, load_texts,
};
use moepress_recipe::{Bos, Protocol, TextFile, TextSpec, size_in_bytes, unknown_word};
use moepress_report::{Available, protocol_in_words};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  moepress eval out/demo --text tests/fixtures/eval-text/*.txt
  moepress eval out/demo --against tests/fixtures/demo-qwen3-moe --text a.txt
  moepress eval out/demo --protocol llama.cpp --text wiki.test.raw
  moepress eval out/demo --against original --text a.txt --fail-if 'top1<0.8' --report out/evaluation

Protocols, whose figures are not comparable with each other:
  paper      windows of 2048 tokens without overlap; all tokens but the first of a window are scored
  llama.cpp  windows of 512 tokens without overlap; the second half of a window is scored
  strided    windows of 2048 tokens, one every 512 (--stride); only tokens that are new in a window are scored

nll is in nats per token, ± its standard error; the overall nll is the plain mean over texts. kld is the \
Kullback–Leibler divergence of the next token from the model given with --against, in nats; top-1 is how \
often both find the same token likeliest; Δp is the change of the probability of the token that comes.

Quality gates are conditions of --fail-if; `moepress report metrics` lists what they can ask about and how they are \
written. When one holds, the results are written all the same and the exit code is 10.";

/// Measure how well a model predicts text, alone or against its original
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "moepress eval <PATH> --text <FILE>... [OPTIONS]")]
pub struct Args {
    /// Model directory, plain or compact
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The model to compare with, usually the original
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// Text files; of one that ends in .jsonl, the field `text` of every line
    #[arg(long = "text", value_name = "FILE", num_args = 1.., required = true)]
    texts: Vec<PathBuf>,
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

fn protocol(word: &str) -> Result<Protocol, String> {
    Protocol::named(word, Protocol::STRIDE).ok_or_else(|| unknown_word("protocol", word, &Protocol::NAMES))
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        let mut clock = Clock::start();
        let available = Available {
            texts: self.texts.iter().cloned().map(|path| TextFile::new(path).name()).collect(),
            original: self.against.is_some(),
            whole_distributions: true,
            ..Available::default()
        };
        let read = [Some(&self.path), self.against.as_ref()];
        let models: Vec<_> = read.into_iter().flatten().map(|path| ("model", path.as_path())).collect();
        if let Some(dir) = &self.report {
            models.iter().try_for_each(|(what, model)| place::apart(dir, what, model))?;
        }
        let publisher = self.report.as_ref().map(|dir| Publisher::new(&context.files, dir)).transpose()?;
        let gates = self.gates.clone().open(context, None, available, &models)?;
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
        notes.extend(set.notes.iter().cloned());
        let text = clock.lap("read text and headers");
        let spool = self.spool.clone().unwrap_or_else(std::env::temp_dir);
        let job = Evaluate {
            files: &context.files,
            model: &checkpoint,
            against: against.as_ref(),
            texts: &set.texts,
            memory: self.max_memory,
            spool: &spool.join(format!("moepress-eval-{}", std::process::id())),
        };
        let Evaluated { mut evaluation, notes: on_the_way, .. } = job.run(None, &progress)?;
        notes.extend(on_the_way);
        notes.iter().for_each(|line| progress.note(line));
        let evaluate = clock.lap("evaluate");
        let after = Sizes::on_disk(&checkpoint);
        let mut report = Report {
            schema_version: SCHEMA_VERSION,
            moepress: env!("CARGO_PKG_VERSION"),
            command: "eval",
            model: self.path.display().to_string(),
            against: self.against.as_ref().map(|path| path.display().to_string()),
            family: checkpoint.spec().family.clone(),
            before: against.as_ref().map_or_else(|| after.clone(), Sizes::on_disk),
            after,
            notes,
            evaluation: Some(Comparison {
                original: evaluation.original.take().map(|original| *original),
                compact: evaluation,
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
            false => output::result(&in_words(&report))?,
        }
        gates.finish(&report.gates)
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
            if usual > context {
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

/// What to say where both models, which read the tokens of the first one's tokenizer, have others.
fn other_tokenizer(first: &Checkpoint, second: &Checkpoint) -> Result<Option<String>, Failure> {
    const NAME: &str = "tokenizer.json";
    let same = first.tokenizer_files()?.get(NAME) == second.tokenizer_files()?.get(NAME);
    let (first, second) = (first.dir().display(), second.dir().display());
    let note = || format!("{first} and {second} differ in {NAME}; text is read with that of {first}");
    Ok((!same).then(note))
}

fn in_words(report: &Report) -> String {
    let Some(Comparison { original, compact, sampling, .. }) = &report.evaluation else {
        return String::new();
    };
    let mut text = format!("{}\n\n", protocol_in_words(sampling));
    let heads = ["file", "windows", "tokens", "scored", "bytes", "sha256"].map(str::to_owned);
    let mut files = vec![heads.to_vec()];
    files.extend(sampling.files.iter().map(|file| {
        let counts = [file.windows, file.tokens, file.scored].map(|count| count.to_string());
        [vec![file.file.clone()], counts.into(), vec![file.bytes.to_string(), file.sha256.clone()]].concat()
    }));
    text += &(output::table(&files) + "\n");
    let mut heads = vec!["text", "nll", "±", "perplexity", "±", "bits/byte"];
    if original.is_some() {
        heads.extend(["original", "ratio", "±"]);
    }
    let mut rows = vec![heads.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for (index, text) in compact.texts.iter().enumerate() {
        let original =
            original.as_ref().and_then(|original| original.texts.get(index)).map(|t| &t.likelihood);
        rows.push(likelihood(
            &text.name,
            &text.likelihood,
            original,
            text.divergence.map(|d| d.ppl_ratio_stderr),
        ));
    }
    let overall = &compact.overall;
    let original = original.as_ref().map(|original| &original.overall);
    let (texts, tokens) = ("all texts alike", "all tokens alike");
    let stderr = overall.increase.map(|increase| increase.ppl_ratio_stderr);
    rows.push(likelihood(texts, &overall.likelihood, original.map(|o| &o.likelihood), stderr));
    let stderr = overall.divergence.map(|divergence| divergence.ppl_ratio_stderr);
    rows.push(likelihood(tokens, &overall.by_token, original.map(|o| &o.by_token), stderr));
    text += &output::table(&rows);
    if let Some(all) = &overall.divergence {
        let heads = ["text", "kld", "±", "median", "p90", "p95", "p99", "p99.9", "max", "top-1", "Δp", "rms"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        let texts = compact.texts.iter();
        rows.extend(
            texts.filter_map(|t| t.divergence.as_ref().map(|divergence| distance(&t.name, divergence))),
        );
        rows.push(distance(tokens, all));
        text += &format!("\n{}", output::table(&rows));
    }
    let size = |path: &str, sizes: &Sizes| {
        format!("{path}: {} ({:.3} bits per weight)\n", output::bytes(sizes.total.bytes), sizes.bpw)
    };
    text += &format!("\n{}", size(&report.model, &report.after));
    text += &report.against.as_ref().map_or_else(String::new, |path| size(path, &report.before));
    text + &format!("{:.0} tokens per second, all threads\n", compact.tokens_per_second)
}

fn likelihood(
    name: &str,
    of: &Likelihood,
    original: Option<&Likelihood>,
    stderr: Option<f64>,
) -> Vec<String> {
    let mut cells = vec![
        name.to_owned(),
        format!("{:.4}", of.nll),
        format!("{:.4}", of.stderr),
        format!("{:.3}", of.perplexity),
        format!("{:.3}", of.perplexity_stderr),
        format!("{:.4}", of.bits_per_byte),
    ];
    if let Some(original) = original {
        cells.push(format!("{:.3}", original.perplexity));
        cells.push(format!("{:.4}", of.perplexity / original.perplexity));
        cells.push(stderr.map_or_else(String::new, |stderr| format!("{stderr:.4}")));
    }
    cells
}

fn distance(name: &str, d: &Divergence) -> Vec<String> {
    let nats = [d.mean, d.stderr, d.median, d.p90, d.p95, d.p99, d.p999, d.max].map(|n| format!("{n:.4}"));
    let shares = [d.top1_agreement, d.delta_p_mean, d.delta_p_rms].map(|p| format!("{:.2}%", 100.0 * p));
    [vec![name.to_owned()], nats.into(), shares.into()].concat()
}
