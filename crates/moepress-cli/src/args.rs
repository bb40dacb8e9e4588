//! The words of the command line.

use crate::commands::{
    bench, compare, doctor, eval, generate, init, inspect, logits, plan, report, run, schema, serve, stats,
    sweep,
};
use crate::failure::{Failure, Reason};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use moepress_nn::Backend;
use std::ffi::OsString;
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Examples:
  moepress plan recipes/demo.yaml                    what a recipe would do, in a second
  moepress run recipes/demo.yaml                     do it
  moepress inspect out/demo                          what came out
  moepress generate out/demo --prompt \"The road\"     try it

Results go to stdout; progress, notes and errors go to stderr. With --json, stdout is one JSON document.

Exit codes:
  0    done
  1    unexpected failure
  2    wrong usage or recipe
  3    bad or unsupported input
  4    not enough memory or disk space
  5    the output is owned by another run
  10   a quality gate (--fail-if) failed; the results are complete
  130  interrupted by SIGINT (143: by SIGTERM); no output is left behind";

/// Compress Mixture-of-Experts language models, and run what comes out
#[derive(Debug, Parser)]
#[command(name = "moepress", bin_name = "moepress", version, after_help = AFTER_HELP, arg_required_else_help = true)]
#[command(max_term_width = 100)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    /// Also write progress to this file as it happens, one JSON document a line; it must not exist
    #[arg(long, value_name = "FILE", global = true)]
    pub events: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::Args),
    Doctor(doctor::Args),
    Schema(schema::Args),
    Run(run::Args),
    Plan(plan::Args),
    Stats(stats::Args),
    Sweep(sweep::Args),
    Inspect(inspect::Args),
    Eval(eval::Args),
    Compare(compare::Args),
    Report(report::Args),
    Generate(generate::Args),
    Logits(logits::Args),
    Serve(serve::Args),
    Bench(bench::Args),
}

/// The backend of that name.
pub fn backend(word: &str) -> Result<Backend, String> {
    let all = [Backend::Cpu, Backend::Cuda, Backend::Wgpu];
    let found = all.into_iter().find(|backend| backend.to_string() == word);
    found.ok_or_else(|| "must be cpu, cuda or wgpu".to_owned())
}

/// Where a model runs.
#[derive(Debug, clap::Args)]
pub struct Placed {
    /// Where to compute: cpu; cuda or wgpu in a build with that feature; auto for the first of these that does
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = place)]
    pub device: Place,
}

/// A device by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This one and no other.
    On(Backend),
    /// A GPU, or else the CPU.
    Auto,
}

fn place(word: &str) -> Result<Place, String> {
    match word {
        "auto" => Ok(Place::Auto),
        _ => backend(word).map(Place::On).map_err(|_| "must be cpu, cuda, wgpu or auto".to_owned()),
    }
}

/// Threads of the whole process.
#[derive(Debug, clap::Args)]
pub struct Threads {
    /// Threads to compute with [default: all that the machine has]
    #[arg(long = "threads", value_name = "N", value_parser = at_least(1, 1024))]
    count: Option<usize>,
}

impl Threads {
    /// Starts the threads; called once, before any work.
    pub fn start(&self) -> Result<(), Failure> {
        let Some(count) = self.count else { return Ok(()) };
        let started = rayon::ThreadPoolBuilder::new().num_threads(count).build_global();
        started.map_err(|e| Failure::new(Reason::Fault, format!("cannot start {count} threads: {e}")))
    }
}

/// A whole number from `least` to `most`.
pub fn at_least(least: u64, most: u64) -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(least..=most)
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum Unparsed {
    /// Help or the version was shown, which ends with this exit code.
    Shown(u8),
    /// The words are wrong.
    Wrong(Failure),
}

/// Reads the words; shows help where they ask for it.
pub fn parse(words: Vec<OsString>) -> Result<Args, Unparsed> {
    Args::try_parse_from(words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A reader that went away has seen enough.
            let _ = error.print();
            Unparsed::Shown(error.exit_code() as u8)
        }
        _ => Unparsed::Wrong(Failure::usage(one_line(&error.to_string()))),
    })
}

/// clap's message without its headings: the complaint, its tips, and the usage in brackets.
fn one_line(message: &str) -> String {
    let mut line = String::new();
    for part in message.lines().map(str::trim).filter(|part| !part.is_empty()) {
        let part = part.strip_prefix("error: ").unwrap_or(part);
        if part.starts_with("For more information") {
            continue;
        }
        if let Some(usage) = part.strip_prefix("Usage: ") {
            line += &format!(" (usage: {usage})");
            continue;
        }
        match line.chars().last() {
            None => {}
            Some(':') => line.push(' '),
            Some(_) => line += "; ",
        }
        line += part;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn complaint(words: &[&str]) -> String {
        let words = words.iter().map(OsString::from).collect();
        match parse(words).unwrap_err() {
            Unparsed::Wrong(failure) => failure.message,
            Unparsed::Shown(code) => panic!("help was shown, {code}"),
        }
    }

    #[test]
    fn the_words_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn complaints_are_one_line_with_a_tip() {
        let unknown = complaint(&["moepress", "run", "r.yaml", "--treads", "2"]);
        assert!(unknown.starts_with("unexpected argument '--treads' found; tip: "), "{unknown}");
        assert!(unknown.contains("'--threads'") && !unknown.contains('\n'), "{unknown}");
        assert!(complaint(&["moepress", "insect", "x"]).contains("'inspect'"));
        assert!(complaint(&["moepress", "run"]).contains("not provided: <RECIPE> (usage: moepress run"));
        assert!(complaint(&["moepress", "run", "r", "--threads", "0"]).contains("0 is not in 1..=1024"));
        let gate = complaint(&["moepress", "run", "r", "--fail-if", "klb_mean>1"]);
        assert!(gate.contains("did you mean `kld_mean`?"), "{gate}");
    }
}
