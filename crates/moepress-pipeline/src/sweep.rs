//! Several lists of stages at several budgets: measured once, then decided, written and evaluated point by point.

mod cache;
mod result;

pub use result::{PointReport, PointResult, RankCorrelation, SweepReport, SweepSeconds};

use crate::plan::{Plan, plan, unedited_needs};
use crate::run::{Run, run};
use crate::{PipelineError, Sizes};
use cache::Cache;
use moepress_checkpoint::{Checkpoint, ErrorKind, Files, Progress, Publisher, Source};
use moepress_nn::Device;
use moepress_recipe::{Point, Recipe, RecipeError, Sweep};
use moepress_stages::from_recipe;
use moepress_stats::Needs;
use result::{Finished, mark_best, rank_correlation};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A sweep to carry out.
pub struct SweepRun<'a> {
    /// All input and output.
    pub files: &'a Arc<dyn Files>,
    /// What to compare.
    pub sweep: &'a Sweep,
    /// The model directory as the user named it, for the report.
    pub model_name: &'a str,
    /// The output directory, which must not exist.
    pub out: &'a Path,
    /// A directory for what is not to be computed twice: the measurement and finished points, by the digests of all that
    /// they depend on. It is made when it is not there.
    pub cache: &'a Path,
    /// What computes, where the same inputs give the same results: the program and the device.
    pub computer: &'a str,
    /// A statistics file that takes the place of the measurement.
    pub statistics_from: Option<&'a Path>,
    /// Where calibration computes; everything else runs on the CPU.
    pub device: Device,
    /// Turns the report into files beside it: name and contents.
    pub render: RenderSweep<'a>,
}

/// From a report to the files that show it: names and contents.
pub type RenderSweep<'a> = &'a dyn Fn(&SweepReport) -> Vec<(String, Vec<u8>)>;

/// What a sweep would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepPlan {
    /// Size of the original.
    pub original: Sizes,
    /// All points, by method and budget in the order of the sweep.
    pub points: Vec<PlannedPoint>,
    /// Whether the model is measured once for several points, and that is not in the cache.
    pub measures: bool,
    /// The largest predicted peak of resident memory of any point, in bytes.
    pub peak_memory_bytes: u64,
    /// What is measured once.
    #[serde(skip)]
    needs: Needs,
    /// Digests of everything.
    #[serde(skip)]
    cache: Cache,
}

/// A method at a budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedPoint {
    /// Name of the method.
    pub method: String,
    /// The budget as written; none where the method has none.
    pub budget: Option<String>,
    /// Its stages and what they were told; empty when it is not possible.
    pub stages: Vec<String>,
    /// Expected bytes of all tensors; none when it is not possible.
    pub bytes: Option<u64>,
    /// Why it is not possible.
    pub impossible: Option<String>,
    /// Whether it is in the cache, and will not be run again.
    pub known: bool,
    /// The name of its entry there.
    #[serde(skip)]
    key: String,
    /// Whether what is measured once is what it measures first.
    #[serde(skip)]
    shares: bool,
}

/// Looks at everything but weights.
///
/// # Errors
/// A method is wrong in itself, no point is possible, or an input cannot be read.
pub fn plan_sweep(job: &SweepRun<'_>) -> Result<SweepPlan, PipelineError> {
    let points: Vec<(&str, &Point)> = points(job.sweep).collect();
    let first = points.first().ok_or_else(|| PipelineError::Usage("the sweep has no points".to_owned()))?;
    let checkpoint = Checkpoint::open(job.files, &first.1.recipe.model)?;
    let cache = Cache::new(job, &checkpoint, &first.1.recipe)?;
    let (mut planned, mut needs, mut peak) = (vec![], Needs::default(), 0);
    for (method, point) in points {
        let recipe = &point.recipe;
        // A misspelt word is an error, a budget that cannot be met is a result.
        from_recipe(&recipe.stages)?;
        if recipe.evaluate.is_none() {
            return Err(no_text(recipe).into());
        }
        let found = feasible(plan(recipe, &checkpoint).map(|(plan, _)| plan))?;
        let key = cache.point(recipe);
        let mut point = PlannedPoint {
            method: method.to_owned(),
            budget: point.budget.clone(),
            stages: vec![],
            bytes: None,
            impossible: found.as_ref().err().cloned(),
            known: found.is_ok() && cache.has(job.files.as_ref(), &key)?,
            key,
            shares: false,
        };
        if let Ok(plan) = &found {
            point.stages = plan.stages.iter().map(|stage| stage.what.clone()).collect();
            point.bytes = Some(plan.after.total.bytes);
            peak = peak.max(plan.peak_memory_bytes);
            if let Some(first) = first_needs(recipe, plan) {
                needs.join(first);
                point.shares = true;
            }
        }
        planned.push(point);
    }
    if let (true, Some(reason)) =
        (planned.iter().all(|p| p.bytes.is_none()), planned.iter().find_map(|p| p.impossible.as_ref()))
    {
        return Err(PipelineError::Usage(format!("no point of the sweep is possible; the first: {reason}")));
    }
    let wanted = planned.iter().any(|point| point.shares && !point.known) && job.statistics_from.is_none();
    let measures = wanted && !cache.has(job.files.as_ref(), &cache.statistics(&needs))?;
    let original = Sizes::of(checkpoint.spec());
    Ok(SweepPlan { original, points: planned, measures, peak_memory_bytes: peak, needs, cache })
}

/// Carries out what was planned. A point whose budget its stages cannot meet is reported as such.
///
/// # Errors
/// Whatever ends it; the output directory is then absent, and what is finished is in the cache.
pub fn run_sweep(
    job: &SweepRun<'_>,
    plan: &SweepPlan,
    progress: &dyn Progress,
) -> Result<SweepReport, PipelineError> {
    let started = Instant::now();
    let mut publisher = Publisher::new(job.files, job.out)?;
    publisher.make_staging()?;
    let statistics = plan.cache.measured(job, plan, &publisher.staging().join("spool"), progress)?;
    let mut seconds = SweepSeconds { measure: started.elapsed().as_secs_f64(), total: 0.0 };
    let mut reports = Vec::with_capacity(plan.points.len());
    let left = |index: usize| plan.points[index..].iter().filter(|p| p.bytes.is_some() && !p.known).count();
    let (running, count) = (Instant::now(), plan.points.len());
    for (index, (planned, (_, point))) in plan.points.iter().zip(points(job.sweep)).enumerate() {
        let mut report = PointReport::of(planned);
        if planned.bytes.is_some() && !planned.known {
            let run = Run {
                files: job.files,
                recipe: &point.recipe,
                model_name: job.model_name,
                out: &publisher.staging().join("point"),
                statistics_from: statistics.as_deref().filter(|_| planned.shares),
                device: job.device.clone(),
                judge: &|_| vec![],
                render: &|_| vec![],
            };
            let inner = Inner { progress, at: format!("{}/{count}", index + 1) };
            let done = feasible(self::run(&run, &inner))?;
            if let Ok(done) = &done {
                let removed = job.files.remove_dir_all(run.out);
                removed.map_err(|e| moepress_checkpoint::CheckpointError::writing(run.out, e))?;
                plan.cache.store(job.files, &planned.key, &done.report)?;
            }
            report.failed = done.err();
            progress.note(&story(index + 1, count, left(0) - left(index + 1), left(index + 1), running));
        }
        if planned.bytes.is_some() && report.failed.is_none() {
            // Also what was just run: a number that was written and read may differ in its last bit.
            let Finished { result, report: file } = plan.cache.load(job.files.as_ref(), &planned.key)?;
            let name = format!("report-{}.json", index + 1);
            publisher.write_file(&name, &file)?;
            (report.result, report.report) = (Some(result), Some(name));
        }
        reports.push(report);
    }
    mark_best(&mut reports);
    seconds.total = started.elapsed().as_secs_f64();
    let report = SweepReport {
        schema_version: 1,
        moepress: env!("CARGO_PKG_VERSION"),
        model: job.model_name.to_owned(),
        original: plan.original.clone(),
        original_nll: reports.iter().find_map(|report| report.result).map(|result| result.original_nll),
        rank_correlation: rank_correlation(&reports),
        points: reports,
        seconds,
    };
    publisher.write_file("sweep.json", &report.json()?)?;
    for (name, bytes) in (job.render)(&report) {
        publisher.write_file(&name, &bytes)?;
    }
    if progress.cancelled() {
        return Err(PipelineError::Cancelled);
    }
    publisher.finish()?;
    Ok(report)
}

/// All points with the names of their methods.
fn points(sweep: &Sweep) -> impl Iterator<Item = (&str, &Point)> {
    sweep.curves.iter().flat_map(|curve| curve.points.iter().map(|point| (curve.name.as_str(), point)))
}

fn no_text(recipe: &Recipe) -> RecipeError {
    recipe.error_at("evaluate", "is missing: a sweep compares what comes out, so it needs files of text")
}

/// What a point measures first, where that is on the model as it came.
fn first_needs<'a>(recipe: &'a Recipe, plan: &'a Plan) -> Option<&'a Needs> {
    unedited_needs(recipe, plan).ok().map(|(needs, _)| needs).filter(|needs| !needs.is_empty())
}

/// What is wrong with the recipe of a point is a result, anything else ends the sweep.
fn feasible<T>(outcome: Result<T, PipelineError>) -> Result<Result<T, String>, PipelineError> {
    match outcome {
        Ok(done) => Ok(Ok(done)),
        Err(error) if error.kind() == Some(ErrorKind::Usage) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

/// How far it is, and how long the rest may take: as long for each point as those that were run.
fn story(at: usize, count: usize, ran: usize, left: usize, running: Instant) -> String {
    let seconds = running.elapsed().as_secs_f64();
    let rest = seconds / ran.max(1) as f64 * left as f64;
    match left {
        0 => format!("{at} of {count} points after {seconds:.0} s"),
        _ => format!("{at} of {count} points after {seconds:.0} s, about {rest:.0} s left"),
    }
}

/// The progress of one point, named by its place. Its notes are in its report.
struct Inner<'a> {
    progress: &'a dyn Progress,
    at: String,
}

impl Progress for Inner<'_> {
    fn step(&self, phase: &str, done: u64, total: u64) {
        self.progress.step(&format!("{} {phase}", self.at), done, total);
    }

    fn note(&self, _: &str) {}

    fn cancelled(&self) -> bool {
        self.progress.cancelled()
    }
}
