//! `moepress eval`: how well a model predicts text, and how far it is from another.

use super::{Context, Ending, model};
use crate::args::{Threads, at_least};
use crate::failure::Failure;
use crate::gate::{self, Gate, Measured, Verdict};
use crate::output;
use crate::progress::Shown;
use moepress_checkpoint::{Checkpoint, Progress};
use moepress_eval::{Evaluation, Likelihood};
use moepress_pipeline::{Evaluate, Evaluated, Sizes, load_texts};
use moepress_recipe::{TextSpec, size_in_bytes};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  moepress eval out/demo --text tests/fixtures/eval-text/*.txt
  moepress eval out/demo --against tests/fixtures/demo-qwen3-moe --text a.txt
  moepress eval out/demo --against original --text a.txt --fail-if 'top1<0.8'

Every text is cut into windows without overlap; the first token of a window predicts and is not predicted. \
nll is in nats per token, ± its standard error; the overall nll is the plain mean over texts. kld is the \
Kullback–Leibler divergence of the next token from the model given with --against, in nats; top-1 is how \
often both find the same token likeliest.

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
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least(2, 1 << 20))]
    window: usize,
    /// Windows of every text, from its start
    #[arg(long, value_name = "N", default_value = "24", value_parser = at_least(1, 1_000_000))]
    windows: usize,
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

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    model: String,
    against: Option<String>,
    window: usize,
    windows: usize,
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
        let texts = TextSpec::first(self.texts.clone(), self.window, self.windows);
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
            window: self.window,
            windows: self.windows,
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
    let mut heads = vec!["text", "tokens", "nll", "±", "perplexity"];
    if document.original.is_some() {
        heads.extend(["original", "kld mean", "kld p99", "top-1"]);
    }
    let mut rows = vec![heads.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    let evaluation = &document.evaluation;
    let originals = document.original.as_ref().map(|original| &original.texts);
    for (index, text) in evaluation.texts.iter().enumerate() {
        let original = originals.and_then(|texts| texts.get(index)).map(|text| &text.likelihood);
        rows.push(row(&text.name, &text.likelihood, original, text.divergence.as_ref()));
    }
    let original = document.original.as_ref().map(|original| &original.overall.likelihood);
    let overall = &evaluation.overall;
    rows.push(row("overall", &overall.likelihood, original, overall.divergence.as_ref()));
    let size = |path: &str, sizes: &Sizes| {
        format!("{path}: {} ({:.3} bits per weight)\n", output::bytes(sizes.total.bytes), sizes.bpw)
    };
    let mut text = output::table(&rows) + "\n" + &size(&document.model, &document.size);
    if let (Some(path), Some(sizes)) = (&document.against, &document.original_size) {
        text += &size(path, sizes);
    }
    text + &format!("{:.0} tokens per second\n", evaluation.tokens_per_second)
}

fn row(
    name: &str,
    likelihood: &Likelihood,
    original: Option<&Likelihood>,
    divergence: Option<&moepress_eval::Divergence>,
) -> Vec<String> {
    let mut cells = vec![
        name.to_owned(),
        likelihood.predictions.to_string(),
        format!("{:.4}", likelihood.nll),
        format!("{:.4}", likelihood.stderr),
        format!("{:.3}", likelihood.perplexity),
    ];
    cells.extend(original.map(|original| format!("{:.3}", original.perplexity)));
    if let Some(divergence) = divergence {
        cells.push(format!("{:.4}", divergence.mean));
        cells.push(format!("{:.4}", divergence.p99));
        cells.push(format!("{:.2} %", 100.0 * divergence.top1_agreement));
    }
    cells
}
