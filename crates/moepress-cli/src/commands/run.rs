//! `moepress run`: carries a recipe out.

use super::gates::GateArgs;
use super::recipe::RecipeFile;
use super::{Context, Ending, model};
use crate::args::{Placed, Threads};
use crate::failure::Failure;
use crate::new_file::NewFile;
use crate::progress::Shown;
use crate::{output, place};
use moepress_checkpoint::Progress;
use moepress_pipeline::{Report, Run};
use moepress_report::Available;
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  moepress run recipes/demo.yaml
  moepress run recipes/demo.yaml --out out/half --set prune_atoms.ratio=0.5
  moepress run recipes/demo.yaml --json --fail-if 'kld_mean>0.3'
  moepress run recipes/demo.yaml --statistics-from all.safetensors

The output directory must not exist; it appears when it is complete, with report.html, report.md and \
report.json in it. Without --out it is the recipe's `output`, or out/ and the name of the recipe.

Quality gates are conditions of `gates` in the recipe and of --fail-if; `moepress report metrics` lists what they can \
ask about and how they are written. When one holds, the results are written all the same and the exit code is 10.";

/// Compress a model by a recipe
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    recipe: RecipeFile,
    /// Output directory, which must not exist
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    placed: Placed,
    /// Take the first measurement from a file of `moepress stats`, which must hold all shards
    #[arg(long, value_name = "FILE")]
    statistics_from: Option<PathBuf>,
    /// Also write the statistics of the last measurement, as safetensors
    #[arg(long, value_name = "FILE")]
    statistics: Option<PathBuf>,
    #[command(flatten)]
    gates: GateArgs,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    output: String,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        let recipe = self.recipe.read(context)?;
        let out = place::output(self.out.as_deref(), recipe.output.as_deref(), &self.recipe.path);
        place::apart(&out, "model", &recipe.model)?;
        if let Some(file) = &self.statistics {
            place::apart(file, "model", &recipe.model)?;
            place::apart(file, "output", &out)?;
        }
        let texts =
            recipe.evaluate.iter().flat_map(|evaluate| &evaluate.files).map(|file| file.name()).collect();
        let available = Available {
            speed: recipe.evaluate.is_some(),
            calibration: recipe.calibration.is_some(),
            original: true,
            original_model: true,
            whole_distributions: true,
            baseline: None,
            texts,
            ..Available::default()
        };
        let apart = [("model", recipe.model.as_path()), ("output", out.as_path())];
        let gates = self.gates.open(context, Some(&recipe), available, &apart)?;
        let (device, _) = model::device(self.placed.device)?;
        self.threads.start()?;
        place::make_default(context.files.as_ref(), self.out.as_deref().or(recipe.output.as_deref()), &out)?;
        let statistics = self.statistics.map(|file| NewFile::claim(&context.files, &file)).transpose()?;

        let progress = Shown::new(context);
        let job = Run {
            files: &context.files,
            recipe: &recipe,
            model_name: &recipe.model.to_string_lossy(),
            out: &out,
            statistics_from: self.statistics_from.as_deref(),
            device,
            judge: &|report| gates.judge(report),
            render: &|report| {
                vec![
                    ("report.md".to_owned(), moepress_report::markdown(report).into_bytes()),
                    ("report.html".to_owned(), moepress_report::html(report).into_bytes()),
                ]
            },
        };
        let outcome = moepress_pipeline::run(&job, &progress)?;
        match (statistics, outcome.statistics) {
            (Some(file), Some(bytes)) => file.write(&bytes)?,
            (Some(_), None) => progress.note("no statistics are written: this recipe measures nothing"),
            (None, _) => {}
        }
        drop(progress);

        let report = &outcome.report;
        match self.json {
            true => output::json(&Document { report, output: out.display().to_string() })?,
            false => output::result(&moepress_report::summary(report, &out))?,
        }
        gates.finish(&report.gates)
    }
}
