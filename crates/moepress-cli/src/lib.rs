//! Words to calls; the only crate that prints or exits.

#![warn(missing_docs)]

mod args;
mod commands;
mod events;
mod failure;
mod interrupt;
mod new_file;
mod output;
mod panics;
mod place;
mod progress;

use args::{Args, Unparsed};
use commands::{Context, Ending};
use events::Events;
use failure::Failure;
use interrupt::Interrupt;
use moepress_checkpoint::{Files, OsFiles};
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

/// Runs the command line of this process; the result is what it exits with.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let json = words.iter().any(|word| word == "--json");
    let interrupt = match Interrupt::install() {
        Ok(interrupt) => interrupt,
        Err(error) => return finish(Err(error), json, None),
    };
    let command = words.get(1).map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let parsed = match args::parse(words) {
        Ok(parsed) => parsed,
        Err(Unparsed::Shown(code)) => return ExitCode::from(code),
        Err(Unparsed::Wrong(failure)) => return finish(Err(failure), json, None),
    };
    let files: Arc<dyn Files> = Arc::new(OsFiles);
    let events = parsed.events.as_ref().map(|path| Events::create(files.as_ref(), path, &command));
    let events = match events.transpose() {
        Ok(events) => events,
        Err(failure) => return finish(Err(failure), json, None),
    };
    let context = Context { files, interrupt, events };
    let result = panics::caught(|| run(parsed, &context));
    finish(result.map_err(|failure| context.interrupt.blame(failure)), json, context.events.as_ref())
}

fn run(args: Args, context: &Context) -> Result<Ending, Failure> {
    match args.command {
        args::Command::Init(args) => args.run(context),
        args::Command::Doctor(args) => args.run(context),
        args::Command::Schema(args) => args.run(context),
        args::Command::Run(args) => args.run(context),
        args::Command::Plan(args) => args.run(context),
        args::Command::Stats(args) => args.run(context),
        args::Command::Sweep(args) => args.run(context),
        args::Command::Inspect(args) => args.run(context),
        args::Command::Eval(args) => args.run(context),
        args::Command::Compare(args) => args.run(context),
        args::Command::Report(args) => args.run(context),
        args::Command::Generate(args) => args.run(context),
        args::Command::Logits(args) => args.run(context),
        args::Command::Serve(args) => args.run(context),
        args::Command::Bench(args) => args.run(context),
    }
}

/// Says what went wrong, if anything did, and turns it into an exit code.
fn finish(result: Result<Ending, Failure>, json: bool, events: Option<&Events>) -> ExitCode {
    let code = match &result {
        Ok(Ending::Done) => 0,
        Ok(Ending::GatesFailed(lines)) => {
            lines.iter().for_each(|line| output::error(&format!("quality gate failed: {line}")));
            failure::GATES_FAILED
        }
        Ok(Ending::ChecksFailed(failure)) => {
            output::error(&failure.message);
            failure.code()
        }
        Err(failure) => {
            output::error(&failure.message);
            if json {
                // Nothing is left to report a failure to.
                let _ = output::json(&failure.document());
            }
            failure.code()
        }
    };
    if let Some(events) = events {
        events.end(code, result.as_ref().err());
    }
    ExitCode::from(code)
}
