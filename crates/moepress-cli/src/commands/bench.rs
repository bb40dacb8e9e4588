//! `moepress bench`: how fast this machine runs models, and how fast it could.

mod cache;
mod rules;

use super::experts::{self, Memory};
use super::rules::Rules;
use super::{Context, Ending, model};
use crate::args::{Place, Placed, Threads, at_least};
use crate::failure::Failure;
use crate::output;
use clap::Subcommand;
use moepress_bench::{Coding, Decode, Kernel, Load, Prefill, Roofline, Shape};
use moepress_checkpoint::Source;
use moepress_nn::Backend;
use moepress_runtime::Precision;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

const EXAMPLES: &str = "\
Examples:
  moepress bench decode out/demo
  moepress bench prefill out/demo --tokens 512 --threads 2
  moepress bench load out/demo --json
  moepress bench kernel ternary-g64 int4-g64 bf16 --inputs 1
  moepress bench roofline
  moepress generate out/demo --prompt \"The road\" --record-experts uses.json
  moepress bench cache out/demo --uses uses.json
  moepress bench rules out/demo --text held_out.txt --sequences 4

Medians of --rounds rounds. Rates stand beside what the machine gives at most, measured in the same process: reading \
from memory, and its fastest arithmetic. Run it on an idle machine.";

/// Measure speed
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Decode(DecodeArgs),
    Prefill(PrefillArgs),
    Load(LoadArgs),
    Kernel(KernelArgs),
    Cache(cache::CacheArgs),
    Rules(rules::RulesArgs),
    Roofline(RooflineArgs),
}

/// What all of them take.
#[derive(Debug, clap::Args)]
struct Common {
    /// Times to measure
    #[arg(long, value_name = "N", default_value = "5", value_parser = at_least(1, 1000))]
    rounds: usize,
    /// Compute in f32 throughout
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    threads: Threads,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Measure how fast a model writes
#[derive(Debug, clap::Args)]
struct DecodeArgs {
    /// Model directory, plain or compact
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Tokens to write
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least(1, 1 << 20))]
    tokens: usize,
    /// Tokens of the prompt before them
    #[arg(long, value_name = "N", default_value = "16", value_parser = at_least(1, 1 << 20))]
    prompt: usize,
    /// Sequences that advance together
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least(1, 256))]
    sequences: usize,
    #[command(flatten)]
    placed: Placed,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    rules: Rules,
}

/// Measure how fast a model reads a prompt
#[derive(Debug, clap::Args)]
struct PrefillArgs {
    /// Model directory, plain or compact
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value = "512", value_parser = at_least(1, 1 << 20))]
    tokens: usize,
    #[command(flatten)]
    placed: Placed,
    #[command(flatten)]
    common: Common,
}

/// Measure how long it takes from a directory to the first token
#[derive(Debug, clap::Args)]
struct LoadArgs {
    /// Model directory, plain or compact
    #[arg(value_name = "PATH")]
    path: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// Measure products with matrices of some formats
#[derive(Debug, clap::Args)]
struct KernelArgs {
    /// Formats, such as ternary-g64, int4-g128, bf16
    #[arg(value_name = "FORMAT", required = true)]
    formats: Vec<String>,
    /// Rows of activations
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least(1, 1 << 16))]
    inputs: usize,
    /// Rows of the matrices
    #[arg(long, value_name = "N", default_value = "4096", value_parser = at_least(1, 1 << 20))]
    rows: usize,
    /// Columns of the matrices
    #[arg(long, value_name = "N", default_value = "4096", value_parser = at_least(1, 1 << 20))]
    cols: usize,
    /// Measure ternary formats in five-trit bytes too, decoded by tables and by multiplication, on one thread
    #[arg(long)]
    trits: bool,
    #[command(flatten)]
    common: Common,
}

/// Measure what the machine can do at most
#[derive(Debug, clap::Args)]
struct RooflineArgs {
    #[command(flatten)]
    threads: Threads,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<T> {
    schema_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    roofline: Roofline,
    result: T,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        match self.command {
            Command::Decode(args) => args.run(context),
            Command::Prefill(args) => args.run(context),
            Command::Load(args) => args.run(context),
            Command::Kernel(args) => args.run(context),
            Command::Cache(args) => args.run(context),
            Command::Rules(args) => args.run(context),
            Command::Roofline(args) => args.run(),
        }
    }
}

impl Common {
    /// Starts the threads and measures the machine.
    fn start(&self) -> Result<Roofline, Failure> {
        self.threads.start()?;
        Ok(Roofline::measure(rayon::current_num_threads())?)
    }

    fn precision(&self) -> Precision {
        if self.exact { Precision::Exact } else { Precision::Fast }
    }

    fn show<T: Serialize>(
        &self,
        model: Option<&PathBuf>,
        roofline: Roofline,
        result: T,
        text: impl Fn(&T) -> String,
    ) -> Result<Ending, Failure> {
        match self.json {
            true => {
                let model = model.map(|path| path.display().to_string());
                output::json(&Document { schema_version: 1, model, roofline, result })?;
            }
            false => output::result(&(text(&result) + &self::limits(&roofline)))?,
        }
        Ok(Ending::Done)
    }
}

fn limits(roofline: &Roofline) -> String {
    let Roofline { threads, read_gb_per_s, fma_gflops, bf16_gflops, int8_gops } = roofline;
    let rate = |name: &str, rate: &Option<f64>| {
        rate.map(|rate| format!(", {name} {rate:.0} G/s")).unwrap_or_default()
    };
    let plural = if *threads == 1 { "" } else { "s" };
    format!(
        "at most, with {threads} thread{plural}: read {read_gb_per_s:.1} GB/s{}{}{}\n",
        rate("f32", fma_gflops),
        rate("bf16", bf16_gflops),
        rate("int8", int8_gops)
    )
}

impl DecodeArgs {
    fn run(self, context: &Context) -> Result<Ending, Failure> {
        let roofline = self.common.start()?;
        let checkpoint = Arc::new(model::open(context, &self.path)?);
        let rules = self.rules.build(context, checkpoint.spec())?;
        if !rules.is_empty() && self.placed.device != Place::On(Backend::Cpu) {
            return Err(Failure::usage("rules of routing need --device cpu"));
        }
        let mut model = model::load_within(context, &checkpoint, &self.memory, self.placed.device)?;
        model.route_by(rules);
        let sizes = [self.sequences, self.prompt, self.tokens];
        let result =
            moepress_bench::decode(&model, sizes, self.common.precision(), self.common.rounds, &roofline)?;
        self.common.show(Some(&self.path), roofline, result, |result: &Decode| {
            let memory = match (result.gb_per_s, result.of_read) {
                (Some(rate), Some(share)) => format!(
                    ", {} a token, {rate:.1} GB/s ({share:.0} % of reading)",
                    output::bytes(result.bytes_per_token as u64)
                ),
                _ => String::new(),
            };
            let cache = model.cache_report().map(|report| experts::line(&report) + "\n").unwrap_or_default();
            format!("decode {:.1} tokens per second{memory}\n{cache}", result.tokens_per_second)
        })
    }
}

impl PrefillArgs {
    fn run(self, context: &Context) -> Result<Ending, Failure> {
        let roofline = self.common.start()?;
        let checkpoint = model::open(context, &self.path)?;
        let model = model::load(context, &checkpoint, 0, self.placed.device)?;
        let (precision, rounds) = (self.common.precision(), self.common.rounds);
        let result = moepress_bench::prefill(&model, self.tokens, precision, rounds, &roofline)?;
        self.common.show(Some(&self.path), roofline, result, |result: &Prefill| {
            format!(
                "prefill {:.1} tokens per second, {:.1} G/s ({:.0} % of arithmetic)\n",
                result.tokens_per_second, result.gops, result.of_arithmetic
            )
        })
    }
}

impl LoadArgs {
    fn run(self, context: &Context) -> Result<Ending, Failure> {
        let roofline = self.common.start()?;
        let result = moepress_bench::load(&context.files, &self.path, self.common.rounds)?;
        self.common.show(Some(&self.path), roofline, result, |result: &Load| {
            let Load { bytes, first_token_seconds, open_seconds, verify_seconds, load_seconds, .. } = result;
            format!(
                "first token after {first_token_seconds:.3} s, {} of weights: opened {open_seconds:.3} s, verified \
                 {verify_seconds:.3} s, loaded {load_seconds:.3} s\n",
                output::bytes(*bytes)
            )
        })
    }
}

impl KernelArgs {
    fn run(self, context: &Context) -> Result<Ending, Failure> {
        let formats =
            self.formats.iter().map(|word| word.parse().map_err(|e| Failure::usage(format!("{e}"))));
        let formats = formats.collect::<Result<Vec<_>, _>>()?;
        let roofline = self.common.start()?;
        let shape = Shape { inputs: self.inputs, rows: self.rows, cols: self.cols };
        let mut results = Vec::with_capacity(formats.len());
        for format in formats {
            context.interrupt.check()?;
            let precision = self.common.precision();
            let codings = moepress_bench::codings(format);
            for coding in &codings[..if self.trits { codings.len() } else { 1 }] {
                let rounds = self.common.rounds;
                results.push(moepress_bench::kernel((format, *coding), shape, precision, rounds, &roofline)?);
            }
        }
        self.common.show(None, roofline, results, |results: &Vec<Kernel>| {
            let head = ["format", "µs", "GB/s", "of reading", "G/s", "of arithmetic"];
            let mut rows = vec![head.map(str::to_owned).to_vec()];
            rows.extend(results.iter().map(|kernel| {
                vec![
                    match kernel.coding {
                        Coding::Fields => kernel.format.to_string(),
                        Coding::Trits => format!("{} in trits", kernel.format),
                        Coding::TritsMultiplied => format!("{} in trits, multiplied", kernel.format),
                    },
                    format!("{:.1}", kernel.seconds * 1e6),
                    format!("{:.1}", kernel.gb_per_s),
                    format!("{:.0} %", kernel.of_read),
                    format!("{:.1}", kernel.gops),
                    format!("{:.0} %", kernel.of_arithmetic),
                ]
            }));
            output::table(&rows)
        })
    }
}

impl RooflineArgs {
    fn run(self) -> Result<Ending, Failure> {
        self.threads.start()?;
        let threads = rayon::current_num_threads();
        let mut found = vec![Roofline::measure(1)?];
        if threads > 1 {
            found.push(Roofline::measure(threads)?);
        }
        match self.json {
            true => output::json(&found)?,
            false => output::result(&found.iter().map(limits).collect::<String>())?,
        }
        Ok(Ending::Done)
    }
}
