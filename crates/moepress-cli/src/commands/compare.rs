//! `moepress compare`: two models layer by layer, and where they part.

use super::{Context, Ending, model};
use crate::args::{Threads, at_least};
use crate::failure::Failure;
use crate::output;
use crate::progress::Shown;
use moepress_checkpoint::{Progress, Source};
use moepress_eval::{Distance, Step, compare};
use moepress_pipeline::load_texts;
use moepress_recipe::{Bos, Protocol, TextFile, TextSpec};
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  moepress compare original out/demo --text a.txt
  moepress compare out/a out/b --text a.txt --window 64 --below 40

Both models run on the same tokens, a layer of each in memory at a time. `states` are the hidden states after a layer, each \
model on its own; `alone` is what the layer adds, both on the hidden states of the first, so that a layer does not answer for \
those before it. cosine is that of all numbers as one vector; sqnr is signal to noise in dB, 10 log10(Σ a² / Σ (a − b)²), and \
`same` where all numbers are. changed is the share of tokens whose set of experts is another, kept the share of choices that \
both make. The first place where the sqnr of the states is below --below is named.";

/// Walk two models side by side and find where they part
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The first model, plain or compact, whose tokenizer is used
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The second model
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Text to run them on
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value = "128", value_parser = at_least(2, 1 << 20))]
    window: usize,
    /// Windows, from the start of the text
    #[arg(long, value_name = "N", default_value = "4", value_parser = at_least(1, 4096))]
    windows: usize,
    /// Signal to noise, in dB, below which the models have parted
    #[arg(long, value_name = "DB", default_value = "20", allow_negative_numbers = true, value_parser = finite)]
    below: f64,
    #[command(flatten)]
    threads: Threads,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

fn finite(word: &str) -> Result<f64, String> {
    word.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(|| "must be a number".to_owned())
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    a: String,
    b: String,
    tokens: usize,
    below_db: f64,
    departs: Option<&'a str>,
    steps: &'a [Step],
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        self.threads.start()?;
        let progress = Shown::new(context);
        let [a, b] = [model::open(context, &self.a)?, model::open(context, &self.b)?];
        let tokenizer = model::tokenizer(context, &a)?;
        let texts = TextSpec {
            files: vec![TextFile::new(self.text.clone())],
            window: self.window.min(a.spec().context).min(b.spec().context),
            windows: self.windows,
            seed: None,
            bos: Bos::Auto,
            protocol: Protocol::Paper,
        };
        let set = load_texts(context.files.as_ref(), &tokenizer, &texts)?;
        set.notes.iter().for_each(|note| progress.note(note));
        let windows: Vec<Vec<u32>> =
            set.texts.iter().flat_map(|text| &text.windows).map(|window| window.ids.clone()).collect();
        let steps = compare(&a, &b, &windows, &progress)?;
        drop(progress);
        let parted = |step: &&Step| step.states.sqnr_db.is_some_and(|db| db.is_nan() || db < self.below);
        let departs = steps.iter().find(parted).map(|step| step.place.as_str());
        let [a, b] = [&self.a, &self.b].map(|path| path.display().to_string());
        let tokens = windows.iter().map(Vec::len).sum();
        if self.json {
            let document =
                Document { schema_version: 1, a, b, tokens, below_db: self.below, departs, steps: &steps };
            output::json(&document)?;
            return Ok(Ending::Done);
        }
        let mut rows = vec![
            ["", "cosine", "sqnr dB", "alone: cosine", "sqnr dB", "changed", "kept"]
                .map(str::to_owned)
                .to_vec(),
        ];
        rows.extend(steps.iter().map(row));
        let verdict = match departs {
            None => format!("they stay together: at least {} dB everywhere", self.below),
            Some(place) => format!("they part at {place}, the first below {} dB", self.below),
        };
        output::result(&format!("A  {a}\nB  {b}\n{tokens} tokens\n\n{}\n{verdict}\n", output::table(&rows)))?;
        Ok(Ending::Done)
    }
}

fn row(step: &Step) -> Vec<String> {
    let sqnr = |distance: &Distance| distance.sqnr_db.map_or("same".to_owned(), |db| format!("{db:.1}"));
    let cosine = |distance: &Distance| format!("{:.6}", distance.cosine);
    let mut cells = vec![step.place.clone(), cosine(&step.states), sqnr(&step.states)];
    cells.extend(
        step.alone.as_ref().map_or([String::new(), String::new()], |alone| [cosine(alone), sqnr(alone)]),
    );
    cells.extend(step.routing.map_or([String::new(), String::new()], |drift| {
        [drift.changed, drift.kept].map(|share| format!("{:.1}%", 100.0 * share))
    }));
    cells
}
