//! `moepress generate`: continues a text.

use super::experts::{self, Memory};
use super::rules::Rules;
use super::{Context, Ending, model};
use crate::args::{Place, Placed, Threads, at_least};
use crate::failure::Failure;
use crate::new_file::NewFile;
use crate::output;
use moepress_checkpoint::Source;
use moepress_nn::Backend;
use moepress_runtime::{Generated, Precision, Request, Sampling, Stop, generate};
use moepress_text::{StopStrings, Stream};
use serde_json::json;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  moepress generate out/demo --prompt \"The old house\"
  moepress generate out/demo --prompt \"The old house\" -n 200 --temperature 0.8 --top-p 0.95
  moepress generate out/demo --prompt \"The old house\" --texts 4 --temperature 1 --stop \".\"
  moepress generate out/big --prompt \"The old house\" --memory-budget 300MiB --read-ahead

The continuation streams to stdout, without the prompt. Equal seeds give equal texts. Several texts advance together, \
are printed when all have ended, and draw from the seed, the seed plus 1 and so on.";

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
    /// Continuations to write
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least(1, 256))]
    texts: usize,
    /// 0 takes the likeliest token every time; higher is more varied
    #[arg(long, value_name = "T", default_value = "0", value_parser = temperature, allow_negative_numbers = true)]
    temperature: f64,
    /// Choose among the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K", default_value = "0")]
    top_k: usize,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value = "1", value_parser = share(false), allow_negative_numbers = true)]
    top_p: f64,
    /// Choose among tokens at least this likely relative to the likeliest
    #[arg(long, value_name = "P", default_value = "0", value_parser = share(true), allow_negative_numbers = true)]
    min_p: f64,
    /// Seed of the random numbers
    #[arg(long, value_name = "S", default_value = "0")]
    seed: u64,
    /// End a text before this string; repeatable
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
    /// Compute in f32 throughout, as `eval` does, instead of rounding activations
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    memory: Memory,
    /// Write down which experts are used, to a file that must not exist
    #[arg(long, value_name = "FILE")]
    record_experts: Option<PathBuf>,
    #[command(flatten)]
    placed: Placed,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    rules: Rules,
    /// Print the texts and how they ended as JSON, once all have
    #[arg(long)]
    json: bool,
}

fn temperature(word: &str) -> Result<f64, String> {
    match word.parse() {
        Ok(value) if f64::is_finite(value) && value >= 0.0 => Ok(value),
        _ => Err("must be 0 or a number above".to_owned()),
    }
}

/// A probability up to 1; 0 only where that means something.
fn share(zero: bool) -> impl Fn(&str) -> Result<f64, String> + Clone {
    move |word| match word.parse() {
        Ok(value) if value > 0.0 && value <= 1.0 || zero && value == 0.0 => Ok(value),
        _ if zero => Err("must be a number from 0 to 1".to_owned()),
        _ => Err("must be a number above 0 and at most 1".to_owned()),
    }
}

/// What a text has come to.
struct Text<'a> {
    stream: Stream<'a>,
    stop: StopStrings<'a>,
    /// What is to be printed when all texts have ended.
    kept: String,
    /// Whether a stop string has ended it.
    stopped: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        self.threads.start()?;
        let record =
            self.record_experts.as_ref().map(|path| NewFile::claim(&context.files, path)).transpose()?;
        if record.is_some() && self.placed.device != Place::On(Backend::Cpu) {
            return Err(Failure::usage("--record-experts needs --device cpu"));
        }
        let checkpoint = Arc::new(model::open(context, &self.path)?);
        let tokenizer = model::tokenizer(context, &checkpoint)?;
        let prompt = tokenizer.encode(&self.prompt)?;
        if prompt.is_empty() {
            return Err(Failure::usage("--prompt has no text to continue"));
        }
        let rules = self.rules.build(context, checkpoint.spec())?;
        if !rules.is_empty() && self.placed.device != Place::On(Backend::Cpu) {
            return Err(Failure::usage("rules of routing need --device cpu"));
        }
        let mut model = model::load_within(context, &checkpoint, &self.memory, self.placed.device)?;
        model.route_by(rules);
        if record.is_some() {
            model.record();
        }
        let text = |_| Text {
            stream: Stream::new(&tokenizer),
            stop: StopStrings::new(&self.stop),
            kept: String::new(),
            stopped: false,
        };
        let mut texts: Vec<Text<'_>> = (0..self.texts).map(text).collect();
        // What went wrong while printing, to be reported once the model has stopped.
        let mut failure = None;
        let mut first = None;
        let advance = |text: &mut Text<'_>, id| {
            context.interrupt.check()?;
            let (piece, stopped) = text.stop.push(&text.stream.push(id)?);
            text.stopped = stopped;
            let flow = self.show(text, &piece)?;
            Ok(if stopped { ControlFlow::Break(()) } else { flow })
        };
        let generated = generate(&model, &vec![&prompt[..]; self.texts], self.request(), &mut |index, id| {
            first.get_or_insert_with(Instant::now);
            advance(&mut texts[index], id).unwrap_or_else(|why| {
                failure = Some(why);
                ControlFlow::Break(())
            })
        });
        let generated = generated.map_err(|error| model::blame(&checkpoint, "--prompt", error))?;
        let mut written = Vec::with_capacity(self.texts);
        for (number, text) in (1..).zip(texts) {
            let Text { stream, mut stop, kept, stopped } = text;
            let mut rest = String::new();
            if !stopped {
                let (piece, stopped) = stop.push(&stream.finish()?);
                rest = if stopped { piece } else { piece + &stop.finish() };
            }
            if self.json {
                written.push((kept + &rest, stopped));
                continue;
            }
            let head = if self.texts > 1 { format!("[{number}] ") } else { String::new() };
            output::result(&format!("{head}{kept}{rest}\n"))?;
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        if let (Some(file), Some(trace)) = (record, model.recorded()) {
            file.write(format!("{}\n", experts::document(&trace)).as_bytes())?;
        }
        let tokens: usize = generated.iter().map(|text| text.ids.len()).sum();
        // The first token of every text costs the prompt.
        let seconds = first.map_or(0.0, |first| first.elapsed().as_secs_f64());
        let speed = match tokens.saturating_sub(self.texts) {
            0 => None,
            timed => Some(timed as f64 / seconds.max(1e-9)),
        };
        if self.json {
            let text = |((text, stopped), generated): (&(String, bool), &Generated)| {
                let stop = match generated.stop {
                    _ if *stopped => "stop",
                    Stop::EndToken => "end_token",
                    Stop::Context => "context",
                    _ => "length",
                };
                json!({ "text": text, "tokens": generated.ids.len(), "ids": generated.ids, "stop": stop })
            };
            let texts: Vec<_> = written.iter().zip(&generated).map(text).collect();
            return output::json(&json!({
                "schema_version": 1, "prompt_tokens": prompt.len(), "prompt_ids": prompt, "texts": texts, "tokens_per_second": speed,
                "experts": model.cache_report().map(|report| experts::figures(&report)),
            }))
            .map(|()| Ending::Done);
        }
        let speed = speed.map_or(String::new(), |speed| format!(", {speed:.1} tokens per second"));
        let why = match generated[..] {
            [Generated { stop: Stop::EndToken, .. }] => ", the model ended the text",
            [Generated { stop: Stop::Context, .. }] => ", the context is full",
            _ => "",
        };
        let plural = if tokens == 1 { "" } else { "s" };
        output::stderr(&format!("{tokens} token{plural}{speed}{why}"));
        if let Some(report) = model.cache_report() {
            output::stderr(&experts::line(&report));
        }
        Ok(Ending::Done)
    }

    fn request(&self) -> Request {
        let Self { temperature, top_k, top_p, min_p, seed, .. } = *self;
        let precision = if self.exact { Precision::Exact } else { Precision::Fast };
        let sampling = Sampling { temperature, top_k, top_p, min_p, seed };
        Request { most: self.most, sampling, precision }
    }

    /// A single text streams; of several, each is kept until all have ended.
    fn show(&self, text: &mut Text<'_>, piece: &str) -> Result<ControlFlow<()>, Failure> {
        if self.texts == 1 && !self.json {
            return output::piece(piece);
        }
        text.kept += piece;
        Ok(ControlFlow::Continue(()))
    }
}
