//! `moepress sweep`: size against quality for several methods.

use super::recipe::RecipeFile;
use super::{Context, Ending, model};
use crate::args::{Placed, Threads};
use crate::failure::Failure;
use crate::progress::Shown;
use crate::{output, place};
use moepress_checkpoint::digest;
use moepress_pipeline::{PlannedPoint, SweepPlan, SweepReport, SweepRun, plan_sweep, run_sweep};
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  moepress sweep recipes/compress.yaml --budgets 2,2.5,3,4
  moepress sweep recipes/sweeps/methods.yaml
  moepress sweep recipes/sweeps/methods.yaml --budgets 0.5 --out out/curve --plan
  moepress sweep recipes/sweeps/methods.yaml --statistics-from all.safetensors --json

A sweep is a recipe with `methods`, several lists of stages by name, in place of `stages`; $budget in them stands for \
every budget in turn: those of the method, else those of --budgets, else those of the recipe. A recipe with `stages` is \
a sweep of one method; without $budget in it, budgets take the place of `budget`, `bpw` or `ratio` of its last stage \
that has one.

The model is measured once for all points. The output directory must not exist; it appears when it is complete, with \
sweep.svg, sweep.html, sweep.md, sweep.json and the report of every point in it. The compressed models are not kept. Finished \
points and the measurement go to the cache, named by digests of the model, texts, stages, program and device: a sweep \
that was interrupted, or one with more budgets, goes on from there. A point whose budget its stages cannot meet is \
reported as such.";

/// Compare methods: size against quality, and the Pareto front
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    recipe: RecipeFile,
    /// Budgets, such as 0.25,0.5 or 2MiB,4MiB
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    budgets: Vec<String>,
    /// Output directory, which must not exist
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where finished points are kept [default: the output directory's name and .cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    placed: Placed,
    /// Take the measurement from a file of `moepress stats`, which must hold all shards
    #[arg(long, value_name = "FILE")]
    statistics_from: Option<PathBuf>,
    /// Only list the points, and which of them are in the cache
    #[arg(long)]
    plan: bool,
    /// Print the points as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Planned<'a> {
    schema_version: u32,
    #[serde(flatten)]
    plan: &'a SweepPlan,
    output: String,
    cache: String,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a SweepReport,
    output: String,
    cache: String,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        let sweep = self.recipe.read_sweep(context, &self.budgets)?;
        let Some(recipe) =
            sweep.curves.iter().flat_map(|curve| &curve.points).map(|point| &point.recipe).next()
        else {
            return Err(Failure::usage("the sweep has no points".to_owned()));
        };
        let out = place::output(self.out.as_deref(), recipe.output.as_deref(), &self.recipe.path);
        let cache = self.cache.clone().unwrap_or_else(|| beside(&out));
        for path in [&out, &cache] {
            place::apart(path, "model", &recipe.model)?;
        }
        place::apart(&cache, "output", &out)?;
        let (device, backend) = model::device(self.placed.device)?;
        self.threads.start()?;
        let job = SweepRun {
            files: &context.files,
            sweep: &sweep,
            model_name: &recipe.model.to_string_lossy(),
            out: &out,
            cache: &cache,
            computer: &format!("{} {}", program(context)?, backend),
            statistics_from: self.statistics_from.as_deref(),
            device,
            render: &|report| {
                vec![
                    ("sweep.md".to_owned(), moepress_report::sweep_markdown(report).into_bytes()),
                    ("sweep.svg".to_owned(), moepress_report::sweep_svg(report).into_bytes()),
                    ("sweep.html".to_owned(), moepress_report::sweep_html(report).into_bytes()),
                ]
            },
        };
        let plan = plan_sweep(&job)?;
        let listed = listing(&plan, self.statistics_from.is_some());
        if self.plan {
            let (output, cache) = (out.display().to_string(), cache.display().to_string());
            match self.json {
                true => output::json(&Planned { schema_version: 1, plan: &plan, output, cache })?,
                false => output::result(&listed)?,
            }
            return Ok(Ending::Done);
        }
        output::stderr(listed.trim_end());
        if !recipe.gates.fail_if.is_empty() {
            output::stderr("note: the quality gates of the recipe are not judged in a sweep");
        }
        let progress = Shown::new(context);
        let report = run_sweep(&job, &plan, &progress)?;
        drop(progress);
        let (output, cache) = (out.display().to_string(), cache.display().to_string());
        match self.json {
            true => output::json(&Document { report: &report, output, cache })?,
            false => {
                output::result(&moepress_report::sweep_summary(&report))?;
                output::result(&format!("\nreport  {}\n", out.join("sweep.html").display()))?;
            }
        }
        Ok(Ending::Done)
    }
}

/// Where finished points are kept unless told.
fn beside(out: &Path) -> PathBuf {
    let mut name = OsString::from(out.file_name().unwrap_or_default());
    name.push(".cache");
    out.with_file_name(name)
}

/// The program by its digest: what another one found is not taken for what this one would.
fn program(context: &Context) -> Result<String, Failure> {
    match std::env::current_exe() {
        Ok(path) => Ok(digest(context.files.as_ref(), &path)?),
        Err(_) => Ok(env!("CARGO_PKG_VERSION").to_owned()),
    }
}

/// The points before any of them is run.
fn listing(plan: &SweepPlan, given: bool) -> String {
    let row = |(number, point): (usize, &PlannedPoint)| {
        let (bytes, share) = match point.bytes {
            Some(bytes) => {
                let share = 100.0 * bytes as f64 / plan.original.total.bytes.max(1) as f64;
                (output::bytes(bytes), format!("{share:.1}%"))
            }
            None => ("-".to_owned(), "-".to_owned()),
        };
        let state = match (&point.impossible, point.known) {
            (Some(_), _) => "not possible",
            (None, true) => "in the cache",
            (None, false) => "to run",
        };
        let budget = point.budget.clone().unwrap_or_default();
        let name = format!("{number:>3}  {}", point.method);
        vec![name, budget, bytes, share, state.to_owned()]
    };
    let head = ["  #  method", "budget", "expected size", "of original", ""].map(str::to_owned).to_vec();
    let rows = [head].into_iter().chain((1..).zip(&plan.points).map(row)).collect::<Vec<_>>();
    let mut text = output::table(&rows);
    for (number, point) in (1..).zip(&plan.points) {
        if let Some(reason) = &point.impossible {
            text += &format!("{number:>3}  {reason}\n");
        }
    }
    let measured = match (plan.measures, given) {
        (true, _) => "once, for all points that measure the model as it came",
        (false, true) => "from the file",
        (false, false) => "nothing anew for several points",
    };
    text + &format!("measures  {measured}\nmemory    {} at the peak\n", output::bytes(plan.peak_memory_bytes))
}
