//! Calibration and evaluation text as windows of token ids.

use crate::PipelineError;
use moepress_checkpoint::{Files, digest};
use moepress_eval::Text;
use moepress_recipe as recipe;
use moepress_text::{Bos, Form, Protocol, Sampler, Sampling, Tokenizer};
use serde::Serialize;
use std::collections::BTreeMap;

/// Texts, and where they came from.
pub struct TextSet {
    /// Every file as windows, named by its stem.
    pub texts: Vec<Text>,
    /// SHA-256 of every file, by its name.
    pub digests: BTreeMap<String, String>,
    /// Lines for the report.
    pub notes: Vec<String>,
    /// What was taken of every file.
    pub report: TextsReport,
}

/// What was taken of every file, and by which policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextsReport {
    /// How windows follow each other and what is scored of them: `paper`, `llama.cpp` or `strided`.
    pub protocol: &'static str,
    /// Tokens of a window.
    pub window: usize,
    /// Tokens from the start of a window to that of the next.
    pub stride: usize,
    /// The seed that drew the windows; none when they are the first of every file.
    pub seed: Option<u64>,
    /// Where the beginning-of-sequence token went: `none`, `window` or `document`.
    pub bos: &'static str,
    /// The files, in the order of the recipe.
    pub files: Vec<TextReport>,
}

/// What was taken of a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextReport {
    /// Its name, as the digests of the inputs have it.
    pub file: String,
    /// SHA-256 of it.
    pub sha256: String,
    /// Its weight in the mix.
    pub weight: f64,
    /// Windows that were taken.
    pub windows: usize,
    /// Tokens in them. There is no padding.
    pub tokens: usize,
    /// Of those, the ones that are scored when a model is evaluated.
    pub scored: usize,
    /// Bytes of text that the scored tokens stand for.
    pub bytes: u64,
    /// Documents that were read; without a seed no more than were needed.
    pub documents: usize,
}

/// What to say of files that are measured on and evaluated on.
pub(crate) fn overlap(calibration: &TextSet, evaluation: &TextSet) -> Vec<String> {
    let measured = &calibration.report.files;
    let shared =
        evaluation.report.files.iter().filter(|file| measured.iter().any(|m| m.sha256 == file.sha256));
    let note = |file: &TextReport| {
        format!(
            "{} is measured on and evaluated on: its figures are better than those of text that was not seen",
            file.file
        )
    };
    shared.map(note).collect()
}

/// Reads, tokenizes and cuts the files of a recipe.
///
/// # Errors
/// A file is missing, malformed or too short for one window, or the checkpoint of the tokenizer lacks the
/// beginning-of-sequence token or the chat template that is asked for.
pub fn load_texts(
    files: &dyn Files,
    tokenizer: &Tokenizer,
    spec: &recipe::TextSpec,
) -> Result<TextSet, PipelineError> {
    let (window, seed) = (spec.window, spec.seed);
    let protocol = protocol(spec.protocol);
    let sampler = Sampler::open(files, tokenizer, Sampling { window, seed, bos: bos(spec.bos), protocol })?;
    let report = TextsReport {
        protocol: spec.protocol.name(),
        window,
        stride: match spec.protocol {
            recipe::Protocol::Strided { stride } => stride,
            recipe::Protocol::Paper | recipe::Protocol::LlamaCpp => window,
        },
        seed,
        bos: match sampler.bos() {
            Bos::Window => "window",
            Bos::Document => "document",
            Bos::None | Bos::Auto => "none",
        },
        files: vec![],
    };
    let mut set = TextSet { texts: vec![], digests: BTreeMap::new(), notes: vec![], report };
    for file in &spec.files {
        let path = &file.path;
        let cut = sampler.sample(path, &form(&file.form), file.windows(spec.windows))?;
        let (found, asked) = (cut.windows.len(), cut.asked);
        if found < asked && asked != recipe::TextSpec::ALL {
            set.notes.push(format!(
                "{} has {found} windows of {window} tokens, {asked} were asked for",
                path.display()
            ));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Two folders may hold files of one name.
        let repeats = set
            .digests
            .keys()
            .filter(|known| **known == name || known.starts_with(&format!("{name}#")))
            .count();
        let name = if repeats == 0 { name } else { format!("{name}#{}", repeats + 1) };
        let sha256 = digest(files, path)?;
        set.digests.insert(name.clone(), sha256.clone());
        set.report.files.push(TextReport {
            file: name,
            sha256,
            weight: file.weight,
            windows: found,
            tokens: cut.windows.iter().map(|window| window.ids.len()).sum(),
            scored: cut.windows.iter().map(|window| window.ids.len() - window.first).sum(),
            bytes: cut.windows.iter().map(|window| window.bytes).sum(),
            documents: cut.documents,
        });
        set.texts.push(Text { name: file.name(), windows: cut.windows });
    }
    Ok(set)
}

fn form(form: &recipe::TextForm) -> Form {
    match form {
        recipe::TextForm::Plain => Form::Plain,
        recipe::TextForm::Lines(field) => Form::Lines(field.clone()),
        recipe::TextForm::Chats(field) => Form::Chats(field.clone()),
    }
}

fn bos(bos: recipe::Bos) -> Bos {
    match bos {
        recipe::Bos::None => Bos::None,
        recipe::Bos::Window => Bos::Window,
        recipe::Bos::Document => Bos::Document,
        recipe::Bos::Auto => Bos::Auto,
    }
}

fn protocol(protocol: recipe::Protocol) -> Protocol {
    match protocol {
        recipe::Protocol::Paper => Protocol::Paper,
        recipe::Protocol::LlamaCpp => Protocol::LlamaCpp,
        recipe::Protocol::Strided { stride } => Protocol::Strided(stride),
    }
}
