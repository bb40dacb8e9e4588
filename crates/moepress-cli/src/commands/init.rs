//! `moepress init`: a commented recipe for a model and this machine.

use super::{Context, Ending};
use crate::failure::Failure;
use crate::new_file::NewFile;
use crate::output::{self, bytes};
use moepress_checkpoint::{Checkpoint, CheckpointError, Source, available_memory};
use moepress_model::{Class, ModelSpec};
use serde_json::json;
use std::fmt::Write;
use std::path::{Path, PathBuf, absolute};

/// Bits per weight that are proposed: below, quality goes; above, there is little left to gain.
const FEWEST: f64 = 2.2;
const USUAL: f64 = 4.0;
/// Of the memory that is free, what the result may take in files; in memory codes have whole bits.
const SHARE: f64 = 0.6;

const EXAMPLES: &str = "\
Examples:
  moepress init --model models/qwen3-moe > recipe.yaml
  moepress init --model models/qwen3-moe --text corpus/*.txt --out recipe.yaml

Reads headers only. Every value is a proposal with its reason beside it; `moepress plan` shows what it comes to.";

/// Write a commented recipe for a model and this machine
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Directory of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text to calibrate and evaluate on
    #[arg(long = "text", value_name = "FILE", num_args = 1..)]
    texts: Vec<PathBuf>,
    /// File to write, which must not exist [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the recipe, or where it was written, as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        let checkpoint = Checkpoint::open(&context.files, &self.model)?;
        if checkpoint.manifest().is_some() {
            let model = self.model.display();
            return Err(Failure::usage(format!(
                "{model}: is compact already; a recipe starts from an original"
            )));
        }
        for text in &self.texts {
            context.files.open(text).map_err(|error| CheckpointError::reading(text, error))?;
        }
        let file = self.out.as_ref().map(|path| NewFile::claim(&context.files, path)).transpose()?;
        // Paths in a recipe are relative to it.
        let folder = self.out.as_ref().and_then(|path| path.parent()).unwrap_or(Path::new(""));
        let model = relative(&self.model, folder);
        let texts: Vec<String> = self.texts.iter().map(|path| relative(path, folder)).collect();
        let recipe = recipe(checkpoint.spec(), &model, &texts, available_memory());
        let out = self.out.as_ref().map(|path| path.display().to_string());
        if let Some(file) = file {
            file.write(recipe.as_bytes())?;
        }
        match (self.json, &out) {
            (true, _) => output::json(&json!({ "schema_version": 1, "output": out, "recipe": recipe }))?,
            (false, None) => output::result(&recipe)?,
            (false, Some(_)) => {}
        }
        Ok(Ending::Done)
    }
}

/// The path as a recipe in `folder` names it: as given where that is right from there too, else in full.
fn relative(path: &Path, folder: &Path) -> String {
    let here = folder.as_os_str().is_empty() || folder == Path::new(".");
    let path =
        if here || path.is_absolute() { path.to_owned() } else { absolute(path).unwrap_or(path.to_owned()) };
    path.display().to_string()
}

fn recipe(spec: &ModelSpec, model: &str, texts: &[String], memory: Option<u64>) -> String {
    let classes = spec.bytes_by_class();
    let size = spec.total_bytes();
    let weights: u64 = classes.values().map(|(weights, _)| *weights).sum();
    let experts: usize = spec.moe_layers().map(|(_, moe)| moe.experts.len()).sum();
    let layers = spec.moe_layers().count();
    let fits = memory.map(|memory| 8.0 * memory as f64 * SHARE / weights.max(1) as f64);
    let bpw = fits.map_or(USUAL, |fits| fits.clamp(FEWEST, USUAL));
    let bpw = (bpw * 10.0).floor() / 10.0;
    let result = bpw * weights as f64 / 8.0;
    let window = spec.context.min(2048);
    let share =
        classes.get(&Class::Experts).map_or(0.0, |(_, bytes)| 100.0 * *bytes as f64 / size.max(1) as f64);
    let mut text = String::new();
    let mut line = |words: String| {
        // Writing to text does not fail.
        let _ = writeln!(text, "{words}");
    };
    line(format!("# A recipe for {model}: {}, {} in {weights} weights,", spec.family, bytes(size)));
    line(format!("# {experts} experts in {layers} layers with {share:.0}% of the bytes."));
    line("#".into());
    line("#   moepress plan THIS_FILE      what it would do, from headers alone".into());
    line("#   moepress run THIS_FILE       do it".into());
    line("#".into());
    line("# Paths are relative to this file.".into());
    line("version: 1".into());
    line(format!("model: {}", quoted(model)));
    line(String::new());
    line("# Text that the model is measured on: of the kind that it will see, and none of what it is evaluated on.".into());
    line("# Each window is so many tokens; 128 windows are the least that papers use.".into());
    line("calibration:".into());
    let held_out = texts.len().div_ceil(4);
    let (calibration, evaluation) = match texts {
        [] => (vec!["calibration.txt".to_owned()], vec!["heldout.txt".to_owned()]),
        [one] => (vec![one.clone()], vec![one.clone()]),
        several => (several[held_out..].to_vec(), several[..held_out].to_vec()),
    };
    let list = |files: &[String]| files.iter().map(|file| quoted(file)).collect::<Vec<_>>().join(", ");
    let missing = if texts.is_empty() { "   # put your own here" } else { "" };
    line(format!("  files: [{}]{missing}", list(&calibration)));
    line(format!("  window: {window}"));
    line("  windows: 128".into());
    line("  seed: 7                # drawn from all of every file; without it, its start".into());
    line(String::new());
    if let Some(memory) = memory {
        line(format!(
            "# What the work may take, of the {} that are free on this machine now. A model that is larger",
            bytes(memory)
        ));
        line("# is measured all the same, layer by layer and with activations on disk.".into());
        line(format!("limits: {{memory: {}MiB}}", (memory / 10 * 9) >> 20));
        line(String::new());
    }
    line("stages:".into());
    line("  # One budget for the whole model: which atoms and experts go, and the precision of all that stays, are decided".into());
    line("  # together by the loss that each byte saves; GPTQ rounds, and least squares make up for what was dropped.".into());
    let why = match fits {
        Some(fits) if fits < FEWEST => format!(
            "the least that is proposed; {} would fit this machine's free memory",
            if fits < 1.0 { "less than one bit" } else { "fewer" }
        ),
        Some(fits) if fits < USUAL => "what leaves 40% of this machine's free memory".to_owned(),
        _ => "fewer cost more quality, more save less".to_owned(),
    };
    line(format!("  # {bpw:.1} bits per weight come to about {} ({why}).", bytes(result as u64)));
    line("  - compress:".into());
    line(format!("      bpw: {bpw:.1}"));
    line("      # rounds: 2          # measures a second time without what goes: better below 3 bits, and twice the work".into());
    line(String::new());
    line("# Text that the result is compared with the original on. A protocol that is named (paper, llama.cpp, strided)".into());
    line("# takes all of it; here a sample, for the time it takes.".into());
    line("evaluate:".into());
    let same = if texts.len() == 1 { "   # the same text: take another for honest figures" } else { missing };
    line(format!("  files: [{}]{same}", list(&evaluation)));
    line(format!("  window: {window}"));
    line("  windows: 24".into());
    line(String::new());
    line("# The command fails, with exit code 10 and all results written, when one of these holds. `moepress report metrics`".into());
    line("# lists what can be asked.".into());
    line("gates:".into());
    line("  fail_if:".into());
    line("    - ppl_ratio > 1.10".into());
    text
}

/// A path as YAML text.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    let safe = text.chars().all(plain)
        && text.starts_with(|c: char| c.is_alphabetic() || matches!(c, '/' | '.' | '_'));
    if safe && !matches!(text, "true" | "false" | "null" | "yes" | "no" | "on" | "off") {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_yaml() {
        for (path, yaml) in [
            ("a/b.txt", "a/b.txt"),
            ("../x-1", "../x-1"),
            ("a b", "'a b'"),
            ("it's", "'it''s'"),
            ("1e3", "'1e3'"),
            ("- x", "'- x'"),
            ("no", "'no'"),
        ] {
            assert_eq!(quoted(path), yaml);
        }
        assert_eq!(relative(Path::new("m"), Path::new("")), "m");
        assert!(relative(Path::new("m"), Path::new("sub")).starts_with('/'));
    }
}
