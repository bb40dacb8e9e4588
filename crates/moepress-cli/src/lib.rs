//! Words to calls; the only crate that prints or exits.

#![warn(missing_docs)]

mod args;
mod commands;
mod failure;
mod interrupt;
mod new_file;
mod output;
mod panics;
mod place;
mod progress;

use args::{Args, Unparsed};
use commands::{Context, Ending};
use failure::Failure;
use interrupt::Interrupt;
use moepress_checkpoint::OsFiles;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

/// Runs the command line of this process; the result is what it exits with.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let json = words.iter().any(|word| word == "--json");
    let interrupt = match Interrupt::install() {
        Ok(interrupt) => interrupt,
        Err(error) => return finish(Err(error), json),
    };
    let context = Context { files: Arc::new(OsFiles), interrupt };
    let parsed = match args::parse(words) {
        Ok(parsed) => parsed,
        Err(Unparsed::Shown(code)) => return ExitCode::from(code),
        Err(Unparsed::Wrong(failure)) => return finish(Err(failure), json),
    };
    let result = panics::caught(|| run(parsed, &context));
    finish(result.map_err(|failure| context.interrupt.blame(failure)), json)
}

fn run(args: Args, context: &Context) -> Result<Ending, Failure> {
    match args.command {
        args::Command::Run(args) => args.run(context),
        args::Command::Plan(args) => args.run(context),
        args::Command::Stats(args) => args.run(context),
        args::Command::Inspect(args) => args.run(context),
        args::Command::Eval(args) => args.run(context),
        args::Command::Report(args) => args.run(context),
        args::Command::Generate(args) => args.run(context),
        args::Command::Logits(args) => args.run(context),
    }
}

/// Says what went wrong, if anything did, and turns it into an exit code.
fn finish(result: Result<Ending, Failure>, json: bool) -> ExitCode {
    match result {
        Ok(Ending::Done) => ExitCode::SUCCESS,
        Ok(Ending::GatesFailed(lines)) => {
            lines.iter().for_each(|line| output::error(&format!("quality gate failed: {line}")));
            ExitCode::from(failure::GATES_FAILED)
        }
        Err(failure) => {
            output::error(&failure.message);
            if json {
                // Nothing is left to report a failure to.
                let _ = output::json(&failure.document());
            }
            ExitCode::from(failure.code())
        }
    }
}
