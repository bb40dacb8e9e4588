//! `moepress run`: carries a recipe out.

use super::recipe::RecipeFile;
use super::{Context, Ending};
use crate::args::Threads;
use crate::failure::Failure;
use crate::gate::{self, Gate, Measured, Verdict};
use crate::new_file::NewFile;
use crate::progress::Shown;
use crate::{args, output, place};
use moepress_checkpoint::Progress;
use moepress_nn::Backend;
use moepress_pipeline::{Report, Run};
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

A condition is METRIC>NUMBER, or with <, >= or <=. Metrics: nll, nll_increase, ppl_ratio, kld_mean, kld_p99, top1 \
(these need `evaluate` in the recipe), size_bytes, bpw, size_ratio. When one holds, the results are written \
all the same and the exit code is 10.";

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
    /// Where calibration computes: cpu, or cuda or wgpu in a build with that feature
    #[arg(long, value_name = "BACKEND", default_value = "cpu", value_parser = args::backend)]
    device: Backend,
    /// Take the first measurement from a file of `moepress stats`, which must hold all shards
    #[arg(long, value_name = "FILE")]
    statistics_from: Option<PathBuf>,
    /// Also write the statistics of the last measurement, as safetensors
    #[arg(long, value_name = "FILE")]
    statistics: Option<PathBuf>,
    /// Exit with 10 when this holds of the result; repeatable
    #[arg(long = "fail-if", value_name = "CONDITION")]
    gates: Vec<Gate>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    output: String,
    gates: &'a [Verdict],
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        let recipe = self.recipe.read(context)?;
        for gate in &self.gates {
            // The original is always there; only texts can be missing.
            gate.check(recipe.evaluate.is_some(), true, "the recipe needs `evaluate` with files of text")?;
        }
        let out = place::output(self.out.as_deref(), recipe.output.as_deref(), &self.recipe.path);
        place::apart(&out, "model", &recipe.model)?;
        if let Some(file) = &self.statistics {
            place::apart(file, "model", &recipe.model)?;
            place::apart(file, "output", &out)?;
        }
        let device = self.device.device()?;
        self.threads.start()?;
        let statistics = self.statistics.map(|file| NewFile::claim(&context.files, &file)).transpose()?;

        let progress = Shown::new(&context.interrupt);
        let job = Run {
            files: &context.files,
            recipe: &recipe,
            model_name: &recipe.model.to_string_lossy(),
            out: &out,
            statistics_from: self.statistics_from.as_deref(),
            device,
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
        let evaluation = report.evaluation.as_ref();
        let measured = Measured {
            size: &report.after,
            original_size: Some(&report.before),
            evaluation: evaluation.map(|comparison| &comparison.compact),
            original: evaluation.map(|comparison| &comparison.original),
        };
        let verdicts = measured.judge(&self.gates);
        match self.json {
            true => output::json(&Document { report, output: out.display().to_string(), gates: &verdicts })?,
            false => output::result(&moepress_report::summary(report, &out))?,
        }
        Ok(gate::failed(&verdicts).into())
    }
}
