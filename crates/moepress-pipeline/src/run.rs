//! Carrying a recipe out.

use crate::PipelineError;
use crate::clock::Clock;
use crate::edited::Edited;
use crate::evaluate::{Against, Evaluate, Evaluated};
use crate::idle::idle_experts;
use crate::layers::layers;
use crate::memory::allowed;
use crate::plan::{Plan, Sizes, description, plan_with, unedited_needs};
use crate::report::{
    CalibrationReport, Comparison, LossReport, Report, SCHEMA_VERSION, Seconds, StageReport,
    UnderMeasuredReport, Verdict,
};
use crate::routing::{RoutingReport, routing};
use crate::stats::{Given, Shard, StatisticsFile, StatisticsHeader, Wanted, all_windows, text_of_windows};
use crate::texts::{TextSet, load_texts, overlap};
use crate::write::write;
use moepress_calibrate::{Means, Spool, Windows, ladders, rounding_costs, sweep, weight_statistics};
use moepress_checkpoint::{Checkpoint, CompactWriter, Files, Progress, Source, peak_memory};
use moepress_eval::EvalError;
use moepress_model::Edit;
use moepress_nn::Device;
use moepress_recipe::{Coverage, Recipe};
use moepress_stages::{Evidence, Stage, UnderMeasured, check_coverage};
use moepress_stats::{Need, Needs, Of, Quantity, RoundingCosts, Statistics};
use moepress_text::Tokenizer;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// A recipe to carry out.
pub struct Run<'a> {
    /// All input and output.
    pub files: &'a Arc<dyn Files>,
    /// What to do.
    pub recipe: &'a Recipe,
    /// The model directory as the user named it, for the report.
    pub model_name: &'a str,
    /// The output directory, which must not exist.
    pub out: &'a Path,
    /// A statistics file that takes the place of the first sweep.
    pub statistics_from: Option<&'a Path>,
    /// Where calibration computes; everything else runs on the CPU.
    pub device: Device,
    /// What the quality gates say about the report, which has no verdicts yet.
    pub judge: Judge<'a>,
    /// Turns the report into files beside it: name and contents.
    pub render: Render<'a>,
}

/// From a report to what the quality gates say about it.
pub type Judge<'a> = &'a dyn Fn(&Report) -> Vec<Verdict>;

/// From a report to the files that show it: names and contents.
pub type Render<'a> = &'a dyn Fn(&Report) -> Vec<(String, Vec<u8>)>;

/// What a run left behind.
pub struct Outcome {
    /// The story, also in `report.json`.
    pub report: Report,
    /// Statistics of the last measurement, encoded as a safetensors file; none when nothing was measured.
    pub statistics: Option<Vec<u8>>,
}

/// Runs a recipe: measures, decides, writes, evaluates, publishes.
///
/// # Errors
/// Whatever ends it; the output directory is then absent.
pub fn run(job: &Run<'_>, progress: &dyn Progress) -> Result<Outcome, PipelineError> {
    let mut clock = Clock::start();
    let mut seconds = Seconds::default();
    let checkpoint = Checkpoint::open(job.files, &job.recipe.model)?;
    let (plan, stages) = plan_with(job.recipe, &checkpoint, job.statistics_from.is_some())?;
    let mut writer = CompactWriter::new(job.files, job.out, checkpoint.spec().layers.len())?;
    writer.reserve(plan.disk_bytes + plan.spool_bytes)?;
    let tokenizer = Tokenizer::open(job.files.as_ref(), checkpoint.dir(), checkpoint.spec().vocab)?;
    let mut texts = Texts::load(job, &tokenizer, &plan)?;
    let model = checkpoint.input_digests()?;
    if let Some(path) = job.statistics_from {
        let (needs, _) = unedited_needs(job.recipe, &plan)?;
        let windows = texts.calibration.as_ref().map(all_windows).unwrap_or_default();
        let of_windows = texts.calibration.as_ref().map(text_of_windows).unwrap_or_default();
        let wanted =
            Wanted { spec: checkpoint.spec(), model: &model, windows: &windows, texts: &of_windows, needs };
        texts.given = Some(Given::read(job.files.as_ref(), path, &wanted)?);
    }
    seconds.text = clock.lap("read text and headers");

    let mut edited = Edited::new(&checkpoint);
    edited.push(plan.first.clone())?;
    for note in plan.notes.iter().chain(texts.notes()) {
        progress.note(note);
    }
    if plan.calibrates() {
        // Activations may have to go there.
        writer.make_staging()?;
    }
    let spool = Spool { files: job.files.clone(), dir: writer.staging().join("spool") };
    let memory = allowed(job.recipe.limits.memory);
    let means = Means { device: job.device.clone(), memory, spool: Some(spool) };
    let mut measured = decide(&means, &mut edited, &plan, &stages, &texts, progress, &mut clock)?;
    (seconds.measure, seconds.decide) = (measured.seconds[0], measured.seconds[1]);
    for note in measured.notes.iter().chain(measured.stages.iter().flat_map(|stage| &stage.notes)) {
        progress.note(note);
    }
    let routing_after = match texts.calibration.as_ref().filter(|_| job.recipe.describe) {
        Some(set) => routing(edited.spec(), &sweep_set(&edited, set, &description(), &means, progress)?),
        None => vec![],
    };
    if job.recipe.describe {
        seconds.measure += clock.lap("describe the result");
    }

    let windows = texts.calibration.as_ref().map(all_windows).unwrap_or_default();
    let said = write(&mut writer, &edited, &windows, &means, progress)?;
    said.iter().for_each(|note| progress.note(note));
    if let Some(stage) = plan.rounding.and_then(|stage| measured.stages.get_mut(stage)) {
        stage.notes.extend(said);
    }
    let mut inputs = BTreeMap::from([("model".to_owned(), model.clone())]);
    if let Some(given) = &texts.given {
        inputs.insert("statistics".to_owned(), given.digests.clone());
    }
    if let Some(calibration) = &texts.calibration {
        inputs.insert("calibration".to_owned(), calibration.digests.clone());
    }
    let recipe = job.recipe.resolved_yaml();
    for (name, bytes) in checkpoint.tokenizer_files()? {
        writer.write_file(&name, &bytes)?;
    }
    writer.write_file("recipe.yaml", recipe.as_bytes())?;
    writer.write_file("edits.json", &lines(edited.edits())?)?;
    writer.write_manifest(edited.spec(), inputs, &recipe)?;
    let written = writer.sized(edited.spec());
    seconds.write = clock.lap("apply and write");

    let evaluation = match &texts.evaluation {
        Some(set) => Some(compare(job, &checkpoint, writer.staging(), set, progress)?),
        None => None,
    };
    let (evaluation, on_the_way) = evaluation.unzip();
    let on_the_way = on_the_way.unwrap_or_default();
    on_the_way.iter().for_each(|note| progress.note(note));
    let notes = plan.notes.iter().chain(texts.notes()).chain(&measured.notes).chain(&on_the_way);
    if evaluation.is_some() {
        seconds.evaluate = clock.lap("evaluate");
    }
    seconds.total = clock.total();

    let mut report = Report {
        schema_version: SCHEMA_VERSION,
        moepress: env!("CARGO_PKG_VERSION"),
        command: "run",
        model: job.model_name.to_owned(),
        against: None,
        family: plan.family.clone(),
        before: plan.before.clone(),
        after: Sizes::of(&written),
        notes: notes.cloned().collect(),
        stages: measured.stages,
        layers: layers(checkpoint.spec(), &written, &measured.routed),
        routing: measured.routing,
        routing_after,
        // Also when nothing was measured before the walk that writes.
        calibration: measured.calibration.or_else(|| {
            let of = |set| calibration(set, texts.window, &Statistics::default(), plan.coverage, &[]);
            texts.calibration.as_ref().map(of)
        }),
        losses: losses(&measured.predicted, evaluation.as_ref()),
        evaluation,
        results: BTreeMap::new(),
        original_results: BTreeMap::new(),
        tasks: vec![],
        drift: None,
        gates: vec![],
        seconds,
        phases: clock.phases(),
        threads: rayon::current_num_threads(),
        predicted_peak_memory_bytes: plan.peak_memory_bytes,
        spool_bytes: plan.spool_bytes,
        peak_memory_bytes: peak_memory(),
        recipe,
    };
    report.gates = (job.judge)(&report);
    writer.write_file("report.json", &report.json()?)?;
    for (name, bytes) in (job.render)(&report) {
        writer.write_file(&name, &bytes)?;
    }
    if progress.cancelled() {
        return Err(PipelineError::Cancelled);
    }
    writer.publish()?;
    let statistics = match (measured.last, &texts.given) {
        (Some(last), _) => Some(last.encode(&model, &texts)?),
        (None, Some(given)) => Some(given.file.encode()?),
        (None, None) => None,
    };
    Ok(Outcome { report, statistics })
}

/// All text a run needs, and what was measured on it before, read before anything else so that a bad file
/// ends it early.
struct Texts {
    calibration: Option<TextSet>,
    window: usize,
    evaluation: Option<TextSet>,
    given: Option<Given>,
}

impl Texts {
    fn notes(&self) -> impl Iterator<Item = &String> {
        let sets = self.calibration.iter().chain(&self.evaluation);
        sets.flat_map(|set| &set.notes).chain(self.given.iter().map(|given| &given.note))
    }

    fn load(job: &Run<'_>, tokenizer: &Tokenizer, plan: &Plan) -> Result<Self, PipelineError> {
        let files = job.files.as_ref();
        let calibration = match job.recipe.calibration.as_ref().filter(|_| plan.calibrates()) {
            Some(c) => Some(load_texts(files, tokenizer, c)?),
            None => None,
        };
        let mut evaluation = match &job.recipe.evaluate {
            Some(e) => Some(load_texts(files, tokenizer, e)?),
            None => None,
        };
        if let (Some(calibration), Some(evaluation)) = (&calibration, &mut evaluation) {
            let notes = overlap(calibration, evaluation);
            evaluation.notes.extend(notes);
        }
        let window = job.recipe.calibration.as_ref().map_or(0, |c| c.window);
        Ok(Self { calibration, window, evaluation, given: None })
    }
}

/// What measuring and deciding came to.
#[derive(Default)]
struct Measured {
    stages: Vec<StageReport>,
    /// What is odd about the model.
    notes: Vec<String>,
    calibration: Option<CalibrationReport>,
    /// Tokens per expert by layer in the first sweep.
    routed: BTreeMap<usize, Vec<u64>>,
    /// Of the original.
    routing: Vec<RoutingReport>,
    last: Option<Sweep>,
    /// What each stage predicted of the loss.
    predicted: Vec<Option<f64>>,
    /// Spent on measuring and on deciding.
    seconds: [f64; 2],
}

/// The last sweep.
struct Sweep {
    stats: Statistics,
    groups: BTreeSet<Need>,
    /// Before it.
    edits: Vec<Edit>,
}

impl Sweep {
    fn encode(self, model: &BTreeMap<String, String>, texts: &Texts) -> Result<Vec<u8>, PipelineError> {
        let windows = texts.calibration.as_ref().map(all_windows).unwrap_or_default();
        let header = StatisticsHeader::new(model, &self.edits, &windows, &self.groups, Shard::WHOLE)?;
        StatisticsFile { header, sums: self.stats }.encode()
    }
}

/// Runs every stage: sweeps where the plan says so, then decides and adds the edits.
fn decide(
    means: &Means,
    edited: &mut Edited<'_>,
    plan: &Plan,
    stages: &[Box<dyn Stage>],
    texts: &Texts,
    progress: &dyn Progress,
    clock: &mut Clock,
) -> Result<Measured, PipelineError> {
    let mut stats = Statistics::default();
    let mut measured = Measured::default();
    for (stage, needs) in stages.iter().zip(&plan.needs) {
        let name = stage.describe();
        let name = name.split(':').next().unwrap_or_default();
        if let (Some(needs), Some(set)) = (needs, &texts.calibration) {
            let given = texts.given.as_ref().filter(|_| measured.calibration.is_none());
            stats = match given {
                Some(given) => given.file.sums.clone(),
                None => sweep_set(edited, set, needs, means, progress)?,
            };
            let under_measured = check_coverage(edited.spec(), &stats, plan.coverage)?;
            if measured.calibration.is_none() {
                measured.notes.extend(idle_experts(edited.spec().layers.len(), &stats));
                let report = calibration(set, texts.window, &stats, plan.coverage, &under_measured);
                measured.calibration = Some(report);
                if !edited.edits().iter().any(Edit::changes_routing) {
                    measured.routing = routing(edited.spec(), &stats);
                }
                measured.routed =
                    routed(&stats).map(|(layer, n)| (layer, n.iter().map(|&n| n as u64).collect())).collect();
            }
            if given.is_none() {
                let (groups, edits) = (needs.groups.clone(), edited.edits().to_vec());
                measured.last = Some(Sweep { stats: stats.clone(), groups, edits });
            }
        }
        let needs = stage.needs();
        let mut costs = costs_of(edited, &stats, &needs, progress)?;
        let weights = weight_statistics(edited, &needs.weights, progress)?;
        for round in 1..stage.rounds() {
            let Some(set) = &texts.calibration else { break };
            let evidence =
                Evidence { costs: &costs, weights: &weights, ..plan.evidence(edited.spec(), &stats) };
            let edits = stage.leave_out(&evidence, round)?;
            let mut without = edited.clone();
            without.push(edits.clone())?;
            stats.refresh(sweep_set(&without, set, &needs, means, progress)?, &edits);
            costs = costs_of(edited, &stats, &needs, progress)?;
        }
        measured.seconds[0] += clock.lap(format!("measure for {name}"));
        if progress.cancelled() {
            return Err(PipelineError::Cancelled);
        }
        let evidence = Evidence { costs: &costs, weights: &weights, ..plan.evidence(edited.spec(), &stats) };
        let decision = stage.decide(&evidence)?;
        decision.edits.iter().for_each(|edit| stats.follow(edit));
        let edits = decision.edits.len();
        measured.predicted.push(decision.predicted);
        edited.push(decision.edits)?;
        measured.seconds[1] += clock.lap(format!("decide {name}"));
        let after = Sizes::of(edited.spec());
        measured.stages.push(StageReport { what: stage.describe(), edits, notes: decision.notes, after });
    }
    Ok(measured)
}

/// What rounding is expected to cost, as far as a stage needs it.
fn costs_of(
    edited: &Edited<'_>,
    stats: &Statistics,
    needs: &Needs,
    progress: &dyn Progress,
) -> Result<RoundingCosts, PipelineError> {
    let mut costs = match needs.weighs_tensors() {
        true => rounding_costs(edited, stats, needs, progress)?,
        false => RoundingCosts::default(),
    };
    if let Some(need) = &needs.ladders {
        costs.ladders = ladders(edited, stats, need, progress)?;
    }
    Ok(costs)
}

/// What stages predicted of the loss, together, beside what the evaluation says. That is no measure of it where a stage
/// before them predicted nothing of what it did; stages behind them carry out what was decided.
fn losses(predicted: &[Option<f64>], evaluation: Option<&Comparison>) -> Vec<LossReport> {
    let known = predicted.iter().flatten();
    let comparable = predicted.iter().take_while(|loss| loss.is_some()).count() == known.clone().count();
    let measured = evaluation.filter(|_| comparable).and_then(Comparison::nll_increase);
    let what = "increase of the negative log-likelihood".to_owned();
    let report = LossReport { what, predicted: known.clone().sum(), measured };
    (known.count() > 0).then_some(report).into_iter().collect()
}

/// Measures on all windows of the calibration texts.
fn sweep_set(
    edited: &Edited<'_>,
    set: &TextSet,
    needs: &Needs,
    means: &Means,
    progress: &dyn Progress,
) -> Result<Statistics, PipelineError> {
    let windows = all_windows(set);
    let windows = Windows::of_texts(&windows, text_of_windows(set), set.texts.len());
    Ok(sweep(edited, windows, needs, means, progress)?)
}

/// Tokens per expert of every layer with experts.
fn routed(stats: &Statistics) -> impl Iterator<Item = (usize, &[f64])> {
    stats.iter().filter_map(|(key, values)| match (key.of, key.quantity) {
        (Of::Layer(layer), Quantity::Tokens) => Some((layer, values)),
        _ => None,
    })
}

fn calibration(
    set: &TextSet,
    window: usize,
    stats: &Statistics,
    coverage: Coverage,
    under_measured: &[UnderMeasured],
) -> CalibrationReport {
    let loss = stats
        .scalar(Of::Model, Quantity::Loss)
        .and_then(|loss| Ok(loss / stats.scalar(Of::Model, Quantity::Predictions)?));
    let unreached = under_measured.iter().filter(|(_, _, tokens)| *tokens == 0);
    let listed = |&(layer, expert, tokens): &UnderMeasured| UnderMeasuredReport { layer, expert, tokens };
    CalibrationReport {
        texts: set.texts.iter().map(|text| text.name.clone()).collect(),
        window,
        tokens: set.report.files.iter().map(|file| file.tokens).sum(),
        sampling: set.report.clone(),
        nll: loss.ok(),
        unreached: unreached.map(|&(layer, expert, _)| (layer, expert)).collect(),
        min_tokens: coverage.min_tokens,
        below_min_tokens: coverage.below.word(),
        coverage: reached(stats),
        under_measured: under_measured.iter().map(listed).collect(),
    }
}

/// The share of experts that at least one token reached, where routing was seen.
fn reached(stats: &Statistics) -> Option<f64> {
    let counts: Vec<f64> = routed(stats).flat_map(|(_, tokens)| tokens.iter().copied()).collect();
    let reached = counts.iter().filter(|&&tokens| tokens > 0.0).count();
    (!counts.is_empty()).then(|| reached as f64 / counts.len() as f64)
}

/// Evaluates what was written beside the original.
fn compare(
    job: &Run<'_>,
    original: &Checkpoint,
    staging: &Path,
    set: &TextSet,
    progress: &dyn Progress,
) -> Result<(Comparison, Vec<String>), PipelineError> {
    let compact = Checkpoint::open(job.files, staging)?;
    compact.verify()?;
    let evaluation = Evaluate {
        files: job.files,
        model: &compact,
        against: Against::Model(original),
        device: None,
        texts: &set.texts,
        quiz: None,
        memory: job.recipe.limits.memory,
        spool: &staging.join("spool"),
    };
    let prompt = set.texts.first().and_then(|text| text.windows.first());
    let Evaluated { evaluation, decode, notes, .. } =
        evaluation.run(prompt.map(|window| &window.ids[..]), progress)?;
    let mut evaluation = evaluation.ok_or(EvalError::NoTexts)?;
    let comparison = Comparison {
        base: None,
        sampling: set.report.clone(),
        original_decode_tokens_per_second: decode[1],
        compact_decode_tokens_per_second: decode[0],
        original: evaluation.original.take().map(|original| *original),
        compact: evaluation,
    };
    Ok((comparison, notes))
}

/// A JSON list with one edit per line, so that two runs can be compared by `diff`.
pub(crate) fn lines(edits: &[Edit]) -> Result<Vec<u8>, PipelineError> {
    let line = |edit| serde_json::to_string(edit).map_err(|e| PipelineError::Report(e.to_string()));
    let lines = edits.iter().map(line).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("[\n{}\n]\n", lines.join(",\n")).into_bytes())
}
