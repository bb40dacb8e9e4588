//! `moepress generate`: continues a text.

use super::{Context, Ending, model};
use crate::args::{Threads, at_least};
use crate::failure::Failure;
use crate::output;
use moepress_runtime::{Sampling, Stop, generate};
use moepress_text::Stream;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  moepress generate out/demo --prompt \"The old house\"
  moepress generate out/demo --prompt \"The old house\" -n 200 --temperature 0.8

The continuation streams to stdout, without the prompt. Equal seeds give equal texts.";

/// Continue a text
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model directory, plain or compact
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Text to continue
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Tokens to add at most
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value = "64", value_parser = at_least(1, 1 << 20))]
    most: usize,
    /// 0 takes the likeliest token every time; higher is more varied
    #[arg(long, value_name = "T", default_value = "0", value_parser = temperature, allow_negative_numbers = true)]
    temperature: f64,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value = "0")]
    seed: u64,
    #[command(flatten)]
    threads: Threads,
}

fn temperature(word: &str) -> Result<f64, String> {
    match word.parse() {
        Ok(value) if f64::is_finite(value) && value >= 0.0 => Ok(value),
        _ => Err("must be 0 or a number above".to_owned()),
    }
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        self.threads.start()?;
        let checkpoint = model::open(context, &self.path)?;
        let tokenizer = model::tokenizer(context, &checkpoint)?;
        let prompt = tokenizer.encode(&self.prompt)?;
        if prompt.is_empty() {
            return Err(Failure::usage("--prompt has no text to continue"));
        }
        let model = model::load(context, &checkpoint, 0)?;
        let mut stream = Stream::new(&tokenizer);
        // What went wrong while printing, to be reported once the model has stopped.
        let mut failure = None;
        let mut first = None;
        let sampling = Sampling { temperature: self.temperature, seed: self.seed };
        let generated = generate(&model, &prompt, self.most, sampling, &mut |id| {
            first.get_or_insert_with(Instant::now);
            let printed = context.interrupt.check().and_then(|()| output::piece(&stream.push(id)?));
            printed.unwrap_or_else(|why| {
                failure = Some(why);
                ControlFlow::Break(())
            })
        });
        let generated = generated.map_err(|error| model::blame(&checkpoint, "--prompt", error))?;
        output::result(&(stream.finish()? + "\n"))?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let tokens = generated.ids.len();
        // The first token costs the prompt.
        let seconds = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
        let speed = match tokens {
            0 | 1 => String::new(),
            _ => format!(", {:.1} tokens per second", (tokens - 1) as f64 / seconds.max(1e-9)),
        };
        let why = match generated.stop {
            Stop::EndToken => ", the model ended the text",
            Stop::Context => ", the context is full",
            Stop::Length | Stop::Caller => "",
        };
        let plural = if tokens == 1 { "" } else { "s" };
        output::stderr(&format!("{tokens} token{plural}{speed}{why}"));
        Ok(Ending::Done)
    }
}
