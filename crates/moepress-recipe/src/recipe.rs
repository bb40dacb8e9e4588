//! The recipe as a whole.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use serde_yaml::{Mapping, Value};

use crate::coverage::Coverage;
use crate::error::{RecipeError, unknown_word};
use crate::guard;
use crate::params::Params;
use crate::path::Path;
use crate::set;
use crate::source::Source;
use crate::texts::TextSpec;
use crate::tree;

pub(crate) const KEYS: [&str; 9] =
    ["version", "model", "mtp", "calibration", "limits", "stages", "evaluate", "gates", "output"];

/// The key of `calibration` that asks for a description of routing.
const DESCRIBE: &str = "describe";

/// What a user wants done to which model; everything is checked but the parameters of the stages.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The model's directory; the recipe names it relative to its own folder.
    pub model: PathBuf,
    /// What becomes of layers that predict several tokens; dropped unless given.
    pub mtp: Mtp,
    /// The text that statistics are measured on.
    pub calibration: Option<TextSpec>,
    /// What becomes of experts that too few tokens of that text reached.
    pub coverage: Coverage,
    /// Whether routing is described in the report, beside what stages need of it.
    pub describe: bool,
    /// What the work may take; no part of what comes out.
    pub limits: Limits,
    /// What to do, in order.
    pub stages: Vec<StageSpec>,
    /// The text that the result is compared with the original on.
    pub evaluate: Option<TextSpec>,
    /// Conditions under which the result is not good enough; no part of what comes out.
    pub gates: Gates,
    /// Where to write, relative to the current directory; `--out` goes before it.
    pub output: Option<PathBuf>,
    resolved: String,
    top: Params,
}

/// Recipes are equal when they mean the same, however they are written.
impl PartialEq for Recipe {
    fn eq(&self, other: &Self) -> bool {
        self.resolved == other.resolved && self.output == other.output && self.model == other.model
    }
}

/// What becomes of the layers of a model that predict several tokens, which nothing here runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtp {
    /// They are left out.
    Drop,
    /// They are carried along, unchanged.
    Keep,
}

/// What the work may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most resident memory of the process, in bytes.
    pub memory: Option<u64>,
}

/// Conditions under which a result is not good enough.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gates {
    /// The conditions as written; what they mean is checked by whoever judges them.
    pub fail_if: Vec<String>,
    /// A stored report that they compare with.
    pub baseline: Option<PathBuf>,
}

/// One stage, not yet matched with what stages there are.
#[derive(Debug, Clone, PartialEq)]
pub struct StageSpec {
    /// Its name, such as `prune_atoms`.
    pub name: String,
    /// Its parameters.
    pub params: Params,
}

impl StageSpec {
    /// An error at this stage as a whole.
    pub fn error(&self, message: impl Into<String>) -> RecipeError {
        self.params.source.error(&self.params.path, message)
    }

    /// The error for a stage that is none of the `known`.
    pub fn unknown(&self, known: &[&str]) -> RecipeError {
        self.error(unknown_word("stage", &self.name, known))
    }
}

impl Recipe {
    /// The recipe after every `--set`, with the defaults of this crate written out, as YAML that parses to the
    /// same recipe.
    ///
    /// Paths are as the user wrote them. `output` is left out: where a checkpoint lies is no part of what it is.
    pub fn resolved_yaml(&self) -> String {
        self.resolved.clone()
    }

    /// The text files of calibration and evaluation.
    pub fn text_files(&self) -> impl Iterator<Item = &FilePath> {
        let sets = self.calibration.iter().chain(&self.evaluate);
        sets.flat_map(|set| &set.files).map(|file| file.path.as_path())
    }

    /// An error at a path such as `calibration.window`, found by whoever knows more than the recipe does.
    pub fn error_at(&self, path: &str, message: impl Into<String>) -> RecipeError {
        self.top.source.error(&Path::read(path).unwrap_or_default(), message)
    }
}

/// Reads the recipe in `text`. `file` is where it came from: paths are relative to its folder, errors name it.
/// Each of `overrides` is the `PATH=VALUE` of one `--set`; a path starts at the top of the recipe, or with the
/// name of a stage when only one stage has it.
pub fn parse(text: &str, file: &FilePath, overrides: &[String]) -> Result<Recipe, RecipeError> {
    let top = top(text, file, overrides)?;
    top.only(&KEYS)?;
    read(&top, file.parent().unwrap_or(FilePath::new("")), None)
}

/// The mapping that a recipe is, after every override.
pub(crate) fn top(text: &str, file: &FilePath, overrides: &[String]) -> Result<Params, RecipeError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut source = Source { file: file.into(), text: String::new(), sets: Vec::new() };
    guard::check(text).map_err(|r| source.error_at(Some((r.line, r.column)), &Path::default(), r.message))?;
    let mut tree = tree::build(text).map_err(|m| source.error_at(m.place, &m.path, m.message))?;
    source.text = text.into();
    for argument in overrides {
        let changed = set::apply(&mut tree, argument).map_err(|(path, message)| RecipeError {
            set: Some(argument.as_str().into()),
            ..source.error_at(None, &path, message)
        })?;
        source.sets.push((changed, argument.clone()));
    }
    let Value::Mapping(map) = tree else {
        let message = "a recipe is a mapping with the keys version, model and stages".into();
        return Err(source.error_at(None, &Path::default(), message));
    };
    Ok(Params { path: Path::default(), map: Arc::new(map), source: Arc::new(source), rehearsal: None })
}

/// Asks for everything that a recipe may have.
pub(crate) fn rehearse(top: &Params) {
    // What it comes to does not matter.
    let _ = top.only(&KEYS);
    let _ = read(top, FilePath::new(""), None);
}

/// Reads a recipe, whose stages may come with a place of their own.
pub(crate) fn read(
    top: &Params,
    folder: &FilePath,
    stages: Option<(&[Value], Path)>,
) -> Result<Recipe, RecipeError> {
    top.usize_in("version", None, 1..=1)?;
    let model = top.text("model", None)?;
    let mtp = match top.word("mtp", Some("drop"), &["drop", "keep"])?.as_str() {
        "keep" => Mtp::Keep,
        _ => Mtp::Drop,
    };
    let (mut coverage, mut describe) = (Coverage::default(), false);
    let calibration = match top.mapping("calibration")? {
        None => None,
        Some(params) => {
            let other = [&Coverage::KEYS[..], &[DESCRIBE]].concat();
            let (texts, mut written) = TextSpec::read(&params, false, folder, &other)?;
            coverage = Coverage::read(&params, &mut written)?;
            describe = params.bool(DESCRIBE, Some(false))?;
            if describe {
                written.insert(DESCRIBE.into(), true.into());
            }
            Some((texts, written))
        }
    };
    let limits = match top.mapping("limits")? {
        None => Limits::default(),
        Some(params) => {
            params.only(&["memory"])?;
            Limits { memory: params.bytes("memory")? }
        }
    };
    let (stages, at) = match stages {
        Some(stages) => stages,
        None => (top.list("stages")?, Path::default().key("stages")),
    };
    let stages: Vec<StageSpec> =
        stages.iter().enumerate().map(|(k, v)| stage(top, at.index(k), v)).collect::<Result<_, _>>()?;
    let evaluate = top.mapping("evaluate")?;
    let evaluate = evaluate.map(|p| TextSpec::read(&p, true, folder, &["protocol", "stride"])).transpose()?;
    let gates = match top.mapping("gates")? {
        None => Gates::default(),
        Some(params) => {
            params.only(&["fail_if", "baseline"])?;
            let baseline = if params.has("baseline") { Some(params.text("baseline", None)?) } else { None };
            Gates { fail_if: params.texts("fail_if")?, baseline: baseline.map(|path| folder.join(path)) }
        }
    };
    let output = if top.has("output") { Some(top.text("output", None)?.into()) } else { None };

    let mut resolved = Mapping::new();
    resolved.insert("version".into(), 1.into());
    resolved.insert("model".into(), model.as_str().into());
    // Only where it was given: recipes from before there was the key resolve to what they did.
    if top.has("mtp") {
        resolved.insert("mtp".into(), if mtp == Mtp::Keep { "keep" } else { "drop" }.into());
    }
    if let Some((_, texts)) = &calibration {
        resolved.insert("calibration".into(), texts.clone().into());
    }
    resolved.insert("stages".into(), stages.iter().map(written).collect::<Vec<_>>().into());
    if let Some((_, texts)) = &evaluate {
        resolved.insert("evaluate".into(), texts.clone().into());
    }
    let resolved =
        serde_yaml::to_string(&resolved).map_err(|e| top.source.error(&Path::default(), e.to_string()))?;

    Ok(Recipe {
        model: folder.join(model),
        mtp,
        limits,
        calibration: calibration.map(|(texts, _)| texts),
        coverage,
        describe,
        stages,
        evaluate: evaluate.map(|(texts, _)| texts),
        gates,
        output,
        resolved,
        top: top.clone(),
    })
}

fn stage(top: &Params, path: Path, value: &Value) -> Result<StageSpec, RecipeError> {
    let shape = "must be the name of a stage, or one name with its parameters: `- name: {key: value}`";
    let (name, params) = match value {
        Value::String(name) => (name.as_str(), &Value::Null),
        Value::Mapping(map) => match (map.iter().next(), map.keys().nth(1).and_then(Value::as_str)) {
            (Some((name, params)), None) => (name.as_str().unwrap_or_default(), params),
            (_, Some(second)) => {
                let message = format!("{shape}; indent parameters further than the name");
                return Err(top.source.error(&path.key(second), message));
            }
            (None, None) => return Err(top.source.error(&path, shape)),
        },
        _ => return Err(top.source.error(&path, shape)),
    };
    if name.is_empty() {
        return Err(top.source.error(&path, shape));
    }
    let path = path.key(name);
    let map = match params {
        Value::Null => Mapping::new(),
        Value::Mapping(map) => map.clone(),
        _ => return Err(top.source.error(&path, "the parameters of a stage are a mapping: `{key: value}`")),
    };
    Ok(StageSpec { name: name.into(), params: Params { path, map: Arc::new(map), ..top.clone() } })
}

fn written(stage: &StageSpec) -> Value {
    if stage.params.map.is_empty() {
        return stage.name.as_str().into();
    }
    Mapping::from_iter([(stage.name.as_str().into(), Value::Mapping((*stage.params.map).clone()))]).into()
}
