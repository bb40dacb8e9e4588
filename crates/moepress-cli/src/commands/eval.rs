//! `moepress eval`: how well a model predicts text, and how far it is from another.

use super::{Context, Ending, model};
use crate::args::{Threads, at_least};
use crate::failure::Failure;
use crate::gate::{self, Gate, Measured, Verdict};
use crate::output;
use crate::progress::Shown;
use moepress_checkpoint::{Checkpoint, Progress, Source};
use moepress_eval::{Divergence, Evaluation, Likelihood};
use moepress_pipeline::{Evaluate, Evaluated, Sizes, TextsReport, load_texts};
use moepress_recipe::{Bos, Protocol, TextFile, TextSpec, size_in_bytes, unknown_word};
use moepress_report::protocol_in_words;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  moepress eval out/demo --text tests/fixtures/eval-text/*.txt
  moepress eval out/demo --against tests/fixtures/demo-qwen3-moe --text a.txt
  moepress eval out/demo --protocol llama.cpp --text wiki.test.raw
  moepress eval out/demo --against original --text a.txt --fail-if 'top1<0.8'

Protocols, whose figures are not comparable with each other:
  paper      windows of 2048 tokens without overlap; all tokens but the first of a window are scored
  llama.cpp  windows of 512 tokens without overlap; the second half of a window is scored
  strided    windows of 2048 tokens, one every 512 (--stride); only tokens that are new in a window are scored

nll is in nats per token, ± its standard error; the overall nll is the plain mean over texts. kld is the \
Kullback–Leibler divergence of the next token from the model given with --against, in nats; top-1 is how \
often both find the same token likeliest; Δp is the change of the probability of the token that comes.

A condition is METRIC>NUMBER, or with <, >= or <=. Metrics: nll, size_bytes, bpw; with --against also nll_increase, \
ppl_ratio, kld_mean, kld_p99, top1, size_ratio. When one holds, the exit code is 10.";

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
    /// Exit with 10 when this holds; repeatable
    #[arg(long = "fail-if", value_name = "CONDITION")]
    gates: Vec<Gate>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

fn protocol(word: &str) -> Result<Protocol, String> {
    Protocol::named(word, Protocol::STRIDE).ok_or_else(|| unknown_word("protocol", word, &Protocol::NAMES))
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    model: String,
    against: Option<String>,
    window: usize,
    windows: Option<usize>,
    sampling: &'a TextsReport,
    text_sha256: &'a BTreeMap<String, String>,
    size: Sizes,
    original_size: Option<Sizes>,
    evaluation: Evaluation,
    original: Option<Evaluation>,
    gates: Vec<Verdict>,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        for gate in &self.gates {
            gate.check(true, self.against.is_some(), "needs --against and the original model")?;
        }
        self.threads.start()?;
        let progress = Shown::new(&context.interrupt);
        let checkpoint = model::open(context, &self.path)?;
        let against = self.against.as_ref().map(|path| model::open(context, path)).transpose()?;
        let tokenizer = model::tokenizer(context, &checkpoint)?;
        if let Some(against) = &against {
            same_tokenizer(&checkpoint, against, &progress)?;
        }
        let texts = self.texts(checkpoint.spec().context, &progress)?;
        let set = load_texts(context.files.as_ref(), &tokenizer, &texts)?;
        set.notes.iter().for_each(|line| progress.note(line));
        let spool = self.spool.clone().unwrap_or_else(std::env::temp_dir);
        let job = Evaluate {
            files: &context.files,
            model: &checkpoint,
            against: against.as_ref(),
            texts: &set.texts,
            memory: self.max_memory,
            spool: &spool.join(format!("moepress-eval-{}", std::process::id())),
        };
        let Evaluated { mut evaluation, notes, .. } = job.run(None, &progress)?;
        notes.iter().for_each(|line| progress.note(line));
        let mut document = Document {
            schema_version: 1,
            model: self.path.display().to_string(),
            against: self.against.as_ref().map(|path| path.display().to_string()),
            window: texts.window,
            windows: self.windows,
            sampling: &set.report,
            text_sha256: &set.digests,
            size: Sizes::on_disk(&checkpoint),
            original_size: against.as_ref().map(Sizes::on_disk),
            original: evaluation.original.take().map(|original| *original),
            evaluation,
            gates: vec![],
        };
        drop(progress);
        let measured = Measured {
            size: &document.size,
            original_size: document.original_size.as_ref(),
            evaluation: Some(&document.evaluation),
            original: document.original.as_ref(),
        };
        document.gates = measured.judge(&self.gates);
        match self.json {
            true => output::json(&document)?,
            false => output::result(&text(&document))?,
        }
        Ok(gate::failed(&document.gates).into())
    }

    /// What to read, for a model with that context.
    fn texts(&self, context: usize, progress: &dyn Progress) -> Result<TextSpec, Failure> {
        let protocol = match (self.protocol, self.stride) {
            (Protocol::Strided { .. }, Some(stride)) => Protocol::Strided { stride },
            (_, Some(_)) => return Err(Failure::usage("--stride is for --protocol strided")),
            (protocol, None) => protocol,
        };
        let window = self.window.unwrap_or_else(|| {
            let usual = protocol.window();
            if usual > context {
                progress.note(&format!(
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

/// Both models read the tokens of the first one's tokenizer.
fn same_tokenizer(first: &Checkpoint, second: &Checkpoint, progress: &dyn Progress) -> Result<(), Failure> {
    const NAME: &str = "tokenizer.json";
    if first.tokenizer_files()?.get(NAME) != second.tokenizer_files()?.get(NAME) {
        let (first, second) = (first.dir().display(), second.dir().display());
        progress.note(&format!("{first} and {second} differ in {NAME}; text is read with that of {first}"));
    }
    Ok(())
}

fn text(document: &Document<'_>) -> String {
    let mut text = format!("{}\n\n", protocol_in_words(document.sampling));
    let heads = ["file", "windows", "tokens", "scored", "bytes", "sha256"].map(str::to_owned);
    let mut files = vec![heads.to_vec()];
    files.extend(document.sampling.files.iter().map(|file| {
        let counts = [file.windows, file.tokens, file.scored].map(|count| count.to_string());
        [vec![file.file.clone()], counts.into(), vec![file.bytes.to_string(), file.sha256.clone()]].concat()
    }));
    text += &(output::table(&files) + "\n");
    let mut heads = vec!["text", "nll", "±", "perplexity", "±", "bits/byte"];
    if document.original.is_some() {
        heads.extend(["original", "ratio", "±"]);
    }
    let mut rows = vec![heads.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    let evaluation = &document.evaluation;
    let originals = document.original.as_ref().map(|original| &original.texts);
    for (index, text) in evaluation.texts.iter().enumerate() {
        let original = originals.and_then(|texts| texts.get(index)).map(|text| &text.likelihood);
        rows.push(likelihood(&text.name, &text.likelihood, original, text.divergence.as_ref()));
    }
    let overall = &evaluation.overall;
    let original = document.original.as_ref().map(|original| &original.overall);
    let (texts, tokens) = ("all texts alike", "all tokens alike");
    rows.push(likelihood(texts, &overall.likelihood, original.map(|o| &o.likelihood), None));
    let by_token = original.map(|o| &o.by_token);
    rows.push(likelihood(tokens, &overall.by_token, by_token, overall.divergence.as_ref()));
    text += &output::table(&rows);
    if let Some(all) = &overall.divergence {
        let heads = ["text", "kld", "±", "median", "p90", "p95", "p99", "p99.9", "max", "top-1", "Δp", "rms"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        let texts = evaluation.texts.iter();
        rows.extend(
            texts.filter_map(|t| t.divergence.as_ref().map(|divergence| distance(&t.name, divergence))),
        );
        rows.push(distance(tokens, all));
        text += &format!("\n{}", output::table(&rows));
    }
    let size = |path: &str, sizes: &Sizes| {
        format!("{path}: {} ({:.3} bits per weight)\n", output::bytes(sizes.total.bytes), sizes.bpw)
    };
    text += &format!("\n{}", size(&document.model, &document.size));
    if let (Some(path), Some(sizes)) = (&document.against, &document.original_size) {
        text += &size(path, sizes);
    }
    text + &format!("{:.0} tokens per second, all threads\n", evaluation.tokens_per_second)
}

fn likelihood(
    name: &str,
    likelihood: &Likelihood,
    original: Option<&Likelihood>,
    divergence: Option<&Divergence>,
) -> Vec<String> {
    let mut cells = vec![
        name.to_owned(),
        format!("{:.4}", likelihood.nll),
        format!("{:.4}", likelihood.stderr),
        format!("{:.3}", likelihood.perplexity),
        format!("{:.3}", likelihood.perplexity_stderr),
        format!("{:.4}", likelihood.bits_per_byte),
    ];
    if let Some(original) = original {
        cells.push(format!("{:.3}", original.perplexity));
        cells.push(format!("{:.4}", likelihood.perplexity / original.perplexity));
        cells.push(divergence.map_or_else(String::new, |d| format!("{:.4}", d.ppl_ratio_stderr)));
    }
    cells
}

fn distance(name: &str, d: &Divergence) -> Vec<String> {
    let nats = [d.mean, d.stderr, d.median, d.p90, d.p95, d.p99, d.p999, d.max].map(|n| format!("{n:.4}"));
    let shares = [d.top1_agreement, d.delta_p_mean, d.delta_p_rms].map(|p| format!("{:.2}%", 100.0 * p));
    [vec![name.to_owned()], nats.into(), shares.into()].concat()
}
