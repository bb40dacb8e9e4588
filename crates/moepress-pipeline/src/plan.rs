//! What a recipe would do, from headers alone.

use crate::PipelineError;
use crate::evaluate::Tokens;
use crate::memory::{Load, predict};
use moepress_checkpoint::{Checkpoint, CheckpointError, Files, Source};
use moepress_model::{Class, Edit, ModelSpec, Tensor, await_inputs, unmerged};
use moepress_quant::Format;
use moepress_quant::codec::Packing;
use moepress_recipe::{Coverage, Mtp, Protocol, Recipe, TextFile, TextSpec};
use moepress_stages::{Evidence, Stage, assumed, awaited, from_recipe};
use moepress_stats::{Need, Needs, Statistics};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Of text in a language that a tokenizer was made for.
const BYTES_PER_TOKEN: u64 = 4;

/// Weights and bytes of a class or of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SizeOf {
    /// Weights.
    pub weights: u64,
    /// Bytes, scales and offsets included.
    pub bytes: u64,
}

/// The size of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sizes {
    /// All tensors.
    #[serde(flatten)]
    pub total: SizeOf,
    /// Bits per weight, everything counted.
    pub bpw: f64,
    /// By class of tensor.
    pub classes: BTreeMap<&'static str, SizeOf>,
}

impl Sizes {
    /// The size of a model in the formats that its description says.
    pub fn of(spec: &ModelSpec) -> Self {
        Self::new(spec.bytes_by_class())
    }

    /// The size of a checkpoint as it lies on disk, where weights may be smaller than what they are read as.
    pub fn on_disk(checkpoint: &Checkpoint) -> Self {
        Self::new(checkpoint.spec().sizes_by_class(|tensor| checkpoint.disk_bytes(tensor)))
    }

    fn new(classes: BTreeMap<Class, (u64, u64)>) -> Self {
        let mut total = SizeOf::default();
        let mut entry = |(class, (weights, bytes)): (Class, (u64, u64))| {
            total = SizeOf { weights: total.weights + weights, bytes: total.bytes + bytes };
            (class.name(), SizeOf { weights, bytes })
        };
        let classes = classes.into_iter().map(&mut entry).collect();
        Self { total, bpw: 8.0 * total.bytes as f64 / total.weights.max(1) as f64, classes }
    }
}

/// One stage of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedStage {
    /// What it does, in a line.
    pub what: String,
    /// What is measured right before it, on the model as it is by then; empty when earlier measurements do.
    pub measures: Vec<&'static str>,
    /// The expected size after it.
    pub after: Sizes,
}

/// What a recipe would do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Family of the model.
    pub family: String,
    /// What is worth knowing before any stage: how the model is read, and what is left out.
    pub notes: Vec<String>,
    /// Size of the original.
    pub before: Sizes,
    /// Stages in order.
    pub stages: Vec<PlannedStage>,
    /// Expected size of the result.
    pub after: Sizes,
    /// Passes over all layers: forward, backward, weights only, evaluation.
    pub walks: BTreeMap<&'static str, usize>,
    /// Predicted peak of resident memory in bytes.
    pub peak_memory_bytes: u64,
    /// Predicted size of the activations that calibration keeps on disk, in bytes; 0 when they fit into memory.
    pub spool_bytes: u64,
    /// Predicted size of the output directory in bytes, which is also the disk space needed.
    pub disk_bytes: u64,
    /// Edits before those of any stage.
    #[serde(skip)]
    pub(crate) first: Vec<Edit>,
    #[serde(skip)]
    pub(crate) needs: Vec<Option<Needs>>,
    #[serde(skip)]
    pub(crate) coverage: Coverage,
    /// Names of the calibration texts.
    #[serde(skip)]
    pub(crate) texts: Vec<String>,
    /// The last stage whose matrices are rounded on the walk that writes, by what reaches them.
    #[serde(skip)]
    pub(crate) rounding: Option<usize>,
}

impl Plan {
    /// Whether any text goes through the model before it is evaluated.
    pub(crate) fn calibrates(&self) -> bool {
        self.rounding.is_some() || self.needs.iter().any(Option::is_some)
    }

    /// What a stage decides on, but for costs and weights.
    pub(crate) fn evidence<'a>(&'a self, spec: &'a ModelSpec, stats: &'a Statistics) -> Evidence<'a> {
        Evidence { texts: &self.texts, coverage: self.coverage, ..Evidence::new(spec, stats) }
    }
}

/// Plans a recipe on an opened model; reads no weights.
///
/// # Errors
/// The recipe is wrong in itself or for this model.
pub fn plan(recipe: &Recipe, model: &Checkpoint) -> Result<(Plan, Vec<Box<dyn Stage>>), PipelineError> {
    plan_with(recipe, model, false)
}

/// Plans a recipe; when `given`, the first measurement comes from a file and takes no sweep.
pub(crate) fn plan_with(
    recipe: &Recipe,
    model: &Checkpoint,
    given: bool,
) -> Result<(Plan, Vec<Box<dyn Stage>>), PipelineError> {
    let stages = from_recipe(&recipe.stages)?;
    if model.manifest().is_some() {
        let reason = "is already compact; start from the original checkpoint";
        return Err(CheckpointError::bad_input(model.dir(), "moepress.json", reason).into());
    }
    let before = model.spec();
    check_windows(recipe, before)?;
    let (first, carried) = carried(recipe, before);
    let mut spec = before.after(&first)?;
    let texts = text_names(recipe);
    let mut planned = Vec::new();
    // A stage that changes routing makes what was measured before it stale.
    let mut stale_after = Vec::new();
    let (mut assigned, mut packs) = (None, false);
    let (mut all, mut rounding) = (first.clone(), None);
    for (index, (stage, recipe_stage)) in stages.iter().zip(&recipe.stages).enumerate() {
        stage.check(&spec)?;
        let assumed = assumed(&spec, &stage.needs(), &texts)?;
        let edits = stage.decide(&assumed.evidence(&spec, &texts))?.edits;
        stale_after.push(stage.may_reroute() || edits.iter().any(Edit::changes_routing));
        for edit in &edits {
            match edit {
                Edit::Assign { .. } => assigned = Some(index),
                Edit::Encode { codec, .. } => {
                    assigned = None;
                    packs |= *codec == Packing::Best;
                }
                _ => {}
            }
        }
        all.extend(edits.iter().cloned());
        // What waits depends on the edits before: what is fitted anew is rounded after that.
        if await_inputs(&all)[all.len() - edits.len()..].contains(&true) {
            rounding = Some(index);
        }
        if (!stage.needs().is_empty() || rounding == Some(index)) && recipe.calibration.is_none() {
            return Err(recipe_stage
                .error("measures the model, so the recipe needs `calibration` with files of text")
                .into());
        }
        spec = spec.after(&edits)?;
        planned.push(PlannedStage { what: stage.describe(), measures: vec![], after: Sizes::of(&spec) });
    }
    if let Some(index) = assigned {
        return Err(recipe.stages[index]
            .error("chooses formats that nothing carries out; put a quantize stage after it")
            .into());
    }
    if recipe.describe && stages.is_empty() {
        return Err(recipe
            .error_at("calibration.describe", "is for a recipe with stages, this has none")
            .into());
    }
    let bounds = packs.then(|| {
        "codes will be stored as small as they turn out: sizes are those of bit fields, which are more"
            .to_owned()
    });
    let needs = sweeps(&stages, &stale_after, recipe.describe.then(description));
    for (stage, needs) in planned.iter_mut().zip(&needs) {
        stage.measures = needs.as_ref().map(words).unwrap_or_default();
    }
    let mut swept = needs.clone();
    if let Some(first) = swept.iter_mut().find(|needs| given && needs.is_some()) {
        *first = None;
    }
    // Once more on the result.
    swept.extend(recipe.describe.then(description).map(Some));
    let writing = Writes::new(before, &spec, &all)?;
    let load = load(model.files(), recipe, &swept, rounding.map(|_| &writing));
    let prediction = predict(before, &spec, &load)?;
    let plan = Plan {
        family: spec.family.clone(),
        notes: model.notes().iter().cloned().chain(carried).chain(bounds).collect(),
        before: Sizes::on_disk(model),
        stages: planned,
        after: Sizes::of(&spec),
        walks: walks(recipe, &stages, &swept, rounding.is_some()),
        peak_memory_bytes: prediction.peak,
        spool_bytes: prediction.spool,
        disk_bytes: spec.total_bytes() + headers(&spec) + tokenizer_bytes(model)?,
        first,
        needs,
        coverage: recipe.coverage,
        texts,
        rounding,
    };
    Ok((plan, stages))
}

/// What the walk that writes decides.
pub(crate) struct Writes {
    /// The model that it reads.
    pub unrounded: ModelSpec,
    /// The model with its experts as they were.
    pub original: ModelSpec,
    /// Matrices that it rounds.
    pub rounded: BTreeSet<Tensor>,
    /// Experts that it fits anew.
    pub refit: BTreeSet<(usize, usize)>,
}

impl Writes {
    /// `after` is `before` after all of `edits`.
    fn new(before: &ModelSpec, after: &ModelSpec, edits: &[Edit]) -> Result<Self, PipelineError> {
        let waits = await_inputs(edits);
        let known: Vec<Edit> =
            edits.iter().zip(waits).filter(|(_, waits)| !waits).map(|(edit, _)| edit.clone()).collect();
        let unrounded = before.after(&known)?;
        let original = before.after(&unmerged(before, edits))?;
        let (mut rounded, mut refit) = (BTreeSet::new(), BTreeSet::new());
        for layer in 0..after.layers.len() {
            let waiting = awaited(after, layer, edits)?;
            rounded.extend(waiting.matrices.keys().map(|&part| Tensor::Layer(layer, part)));
            refit.extend(waiting.refit.into_iter().map(|expert| (layer, expert)));
        }
        Ok(Self { unrounded, original, rounded, refit })
    }
}

/// The first edits, and what is said about layers that predict several tokens, where the model has any.
fn carried(recipe: &Recipe, spec: &ModelSpec) -> (Vec<Edit>, Option<String>) {
    let (count, bytes) = (spec.carried.len(), spec.carried.values().map(|c| c.bytes).sum::<u64>());
    let tensors = format!("{count} tensors of multi-token-prediction layers");
    match (count, recipe.mtp) {
        (0, _) => (vec![], None),
        (_, Mtp::Drop) => {
            let note = format!("{tensors} were left out ({bytes} bytes); `mtp: keep` carries them along");
            (vec![Edit::DropCarried], Some(note))
        }
        (_, Mtp::Keep) => {
            (vec![], Some(format!("{tensors} are carried along unchanged and never run ({bytes} bytes)")))
        }
    }
}

/// Names of the calibration texts, in order: their files without folder and ending.
fn text_names(recipe: &Recipe) -> Vec<String> {
    let files = recipe.calibration.iter().flat_map(|calibration| &calibration.files);
    files.map(|file| file.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()).collect()
}

/// Windows must fit into the context; found out now, not after hours of calibration.
fn check_windows(recipe: &Recipe, spec: &ModelSpec) -> Result<(), PipelineError> {
    let windows = [
        ("calibration.window", recipe.calibration.as_ref().map(|c| c.window)),
        ("evaluate.window", recipe.evaluate.as_ref().map(|e| e.window)),
    ];
    for (path, window) in windows {
        if let Some(window) = window.filter(|&window| window > spec.context) {
            let message = format!("is {window} tokens, but the context of the model is {}", spec.context);
            return Err(recipe.error_at(path, message).into());
        }
    }
    Ok(())
}

/// For every stage what to measure before it: the needs of all stages up to the next that changes routing
/// are united, so that one sweep feeds them. What a description needs is measured before all of them.
fn sweeps(stages: &[Box<dyn Stage>], stale_after: &[bool], describe: Option<Needs>) -> Vec<Option<Needs>> {
    let mut needs: Vec<Option<Needs>> = vec![None; stages.len()];
    let mut current = describe.as_ref().map(|_| 0);
    if let Some(first) = needs.first_mut() {
        *first = describe;
    }
    for (index, stage) in stages.iter().enumerate() {
        let wanted = stage.needs();
        if !wanted.is_empty() {
            let first = *current.get_or_insert(index);
            needs[first].get_or_insert_default().join(&wanted);
        }
        if stale_after[index] {
            current = None;
        }
    }
    needs
}

/// What a description of routing needs.
pub(crate) fn description() -> Needs {
    Needs::of([Need::Routing, Need::Locality])
}

/// What is measured first and on which text, when that is on the model as it came.
///
/// # Errors
/// Nothing is measured, or stages before edit the model.
pub(crate) fn unedited_needs<'a>(
    recipe: &'a Recipe,
    plan: &'a Plan,
) -> Result<(&'a Needs, &'a TextSpec), PipelineError> {
    let first = plan.needs.iter().enumerate().find_map(|(at, needs)| Some((at, needs.as_ref()?)));
    match (first, &recipe.calibration) {
        (Some((0, needs)), Some(calibration)) => Ok((needs, calibration)),
        (Some((at, _)), Some(_)) => {
            let message = "measures a model that the stages before it edited; a statistics file is of the model as it came, so put this stage first";
            Err(recipe.stages[at].error(message).into())
        }
        _ => Err(PipelineError::Usage("no stage of this recipe measures anything".to_owned())),
    }
}

fn words(needs: &Needs) -> Vec<&'static str> {
    let word = |need: &Need| match need {
        Need::Routing => "routing",
        Need::MeanOutputs => "mean outputs",
        Need::Texts => "routing by text",
        Need::Cosine => "similarity of layers' inputs and outputs",
        Need::RoundedOutputs => "errors of rounded experts",
        Need::Locality => "locality of routing",
        Need::Atoms => "atom energy and gradient",
        Need::Fisher => "row and column Fisher weights",
    };
    needs.groups.iter().map(word).collect()
}

/// What a recipe calls for, with sweeps for these needs.
fn load<'a>(
    files: &dyn Files,
    recipe: &Recipe,
    needs: &'a [Option<Needs>],
    rounding: Option<&'a Writes>,
) -> Load<'a> {
    let calibrates = rounding.is_some() || needs.iter().any(Option::is_some);
    let calibration = recipe.calibration.as_ref().filter(|_| calibrates);
    Load {
        sweeps: needs.iter().flatten().collect(),
        rounding,
        tokens: calibration.map_or(0, |texts| tokens(files, texts)),
        window: calibration.map_or(0, |c| c.window),
        evaluates: recipe.evaluate.as_ref().map(|e| Tokens { all: tokens(files, e), window: e.window }),
        threads: rayon::current_num_threads(),
        limit: recipe.limits.memory,
    }
}

/// Tokens in the windows of texts; where all windows are taken, as many as such files usually come to.
fn tokens(files: &dyn Files, texts: &TextSpec) -> usize {
    let step = match texts.protocol {
        Protocol::Strided { stride } => stride,
        Protocol::Paper | Protocol::LlamaCpp => texts.window,
    };
    let windows = |file: &TextFile| match file.windows(texts.windows) {
        TextSpec::ALL => {
            // Whatever is wrong with a text is found when it is read.
            let bytes = files.open(&file.path).map_or(0, |file| file.len());
            (bytes / BYTES_PER_TOKEN) as usize / step.max(1) + 1
        }
        count => count,
    };
    texts.files.iter().map(|file| windows(file).saturating_mul(texts.window)).fold(0, usize::saturating_add)
}

fn walks(
    recipe: &Recipe,
    stages: &[Box<dyn Stage>],
    needs: &[Option<Needs>],
    rounds: bool,
) -> BTreeMap<&'static str, usize> {
    let sweeps: Vec<&Needs> = needs.iter().flatten().collect();
    let reads = |needs: Needs| {
        let passes = [needs.weighs_tensors(), needs.ladders.is_some(), !needs.weights.is_empty()];
        passes.into_iter().filter(|&pass| pass).count()
    };
    let read: usize = stages.iter().map(|stage| stage.rounds() * reads(stage.needs())).sum();
    let again = |backward: bool| -> usize {
        let these = stages.iter().filter(|stage| !backward || stage.needs().backward());
        these.map(|stage| stage.rounds() - 1).sum()
    };
    BTreeMap::from([
        ("forward", sweeps.len() + again(false) + usize::from(rounds)),
        ("backward", sweeps.iter().filter(|needs| needs.backward()).count() + again(true)),
        ("weights only", read + usize::from(!rounds)),
        ("evaluation", if recipe.evaluate.is_some() { 2 } else { 0 }),
    ])
}

/// Bytes of safetensors headers, index and manifest: about 110 per tensor in a header and 75 in the index.
fn headers(spec: &ModelSpec) -> u64 {
    let parts = |tensor| match spec.format(tensor) {
        Some(Format::Grouped(grouped)) if grouped.has_offsets() => 3,
        Some(Format::Grouped(_)) => 2,
        Some(Format::LowRank(_)) => 4,
        _ => 1,
    };
    let experts: usize = spec.moe_layers().map(|(_, moe)| moe.experts.len()).sum();
    // In a header, in the index and in the manifest.
    let carried = 450 * spec.carried.len() as u64;
    16384
        + carried
        + spec.tensors().into_iter().map(|tensor| 220 * parts(tensor)).sum::<u64>()
        + 300 * experts as u64
}

fn tokenizer_bytes(model: &Checkpoint) -> Result<u64, PipelineError> {
    Ok(model.tokenizer_files()?.values().map(|bytes| bytes.len() as u64).sum())
}
