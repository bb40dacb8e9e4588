//! The text of a recipe: files, and how windows are cut from them.

use std::ops::Bound;
use std::path::{Path as FilePath, PathBuf};

use serde_yaml::{Mapping, Value};

use crate::error::{RecipeError, unknown_word};
use crate::params::{Entry, Params};

const MOST_WINDOWS: usize = 1_000_000;
const BOS: [(&str, Bos); 4] =
    [("none", Bos::None), ("window", Bos::Window), ("document", Bos::Document), ("auto", Bos::Auto)];

/// Text to calibrate or to evaluate on.
#[derive(Debug, Clone, PartialEq)]
pub struct TextSpec {
    /// At least one file.
    pub files: Vec<TextFile>,
    /// Tokens per window, 2 to 2²⁰; 256 unless given.
    pub window: usize,
    /// Windows of a file of weight 1, 1 to 10⁶; 16 to calibrate and 24 to evaluate unless given.
    pub windows: usize,
    /// Draws the windows from all of a file; without it they are the first of the file.
    pub seed: Option<u64>,
    /// Where the beginning-of-sequence token goes.
    pub bos: Bos,
    /// How windows are cut to evaluate, and what of them is scored; [`Protocol::Paper`] to calibrate.
    pub protocol: Protocol,
}

/// How text is cut to evaluate on it, and what of it is scored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Windows without overlap, all of whose tokens but the first are scored.
    #[default]
    Paper,
    /// Windows without overlap, whose second half is scored.
    LlamaCpp,
    /// Windows that start `stride` tokens after each other, of which only what is new is scored.
    Strided {
        /// Tokens from the start of a window to that of the next.
        stride: usize,
    },
}

impl Protocol {
    /// Their names.
    pub const NAMES: [&str; 3] = ["paper", "llama.cpp", "strided"];
    /// Tokens from a window to the next unless given.
    pub const STRIDE: usize = 512;

    /// The protocol of that name, and its stride if it has one.
    pub fn named(name: &str, stride: usize) -> Option<Self> {
        match name {
            "paper" => Some(Self::Paper),
            "llama.cpp" => Some(Self::LlamaCpp),
            "strided" => Some(Self::Strided { stride }),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::LlamaCpp => "llama.cpp",
            Self::Strided { .. } => "strided",
        }
    }

    /// Tokens of the windows that its figures are usually given for.
    pub fn window(self) -> usize {
        if self == Self::LlamaCpp { 512 } else { 2048 }
    }
}

/// A file of text.
#[derive(Debug, Clone, PartialEq)]
pub struct TextFile {
    /// Where it is; the recipe names it relative to its own folder.
    pub path: PathBuf,
    /// What it holds.
    pub form: TextForm,
    /// Its share of windows, above 0; 1 unless given.
    pub weight: f64,
}

/// What a file of text holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextForm {
    /// One text.
    Plain,
    /// A JSON object per line, whose field of this name is a document.
    Lines(String),
    /// A JSON object per line, whose field of this name is a list of chat messages.
    Chats(String),
}

/// Where the beginning-of-sequence token goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Bos {
    /// Nowhere.
    #[default]
    None,
    /// Before every window, as one of its tokens.
    Window,
    /// Before every document: once per plain text, once per line of JSON.
    Document,
    /// As the tokenizer does by itself: before every document, or nowhere.
    Auto,
}

impl Bos {
    /// The policy that a recipe has that word for.
    pub fn named(word: &str) -> Result<Self, String> {
        let found = BOS.iter().find(|(name, _)| *name == word);
        found.map(|(_, bos)| *bos).ok_or_else(|| unknown_word("word", word, &BOS.map(|(word, _)| word)))
    }

    /// The word a recipe has for it.
    pub fn word(self) -> &'static str {
        BOS.iter().find(|(_, bos)| *bos == self).map_or("", |(word, _)| word)
    }
}

impl TextFile {
    /// A file as its path alone describes it: JSON lines with the field `text` when it ends in `.jsonl`, else
    /// plain text; weight 1.
    pub fn new(path: PathBuf) -> Self {
        let form = if is_lines(&path) { TextForm::Lines("text".into()) } else { TextForm::Plain };
        Self { path, form, weight: 1.0 }
    }

    /// What it is called in results.
    pub fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Windows of this file when one of weight 1 has `windows`.
    pub fn windows(&self, windows: usize) -> usize {
        if windows == TextSpec::ALL {
            return windows;
        }
        ((windows as f64 * self.weight).round() as usize).max(1)
    }

    fn read(params: &Params, folder: &FilePath) -> Result<Self, RecipeError> {
        params.only(&["file", "field", "chat", "weight"])?;
        let mut file = Self::new(folder.join(params.text("file", None)?));
        if file.form != TextForm::Plain {
            file.form = match params.bool("chat", Some(false))? {
                true => TextForm::Chats(params.text("field", Some("messages"))?),
                false => TextForm::Lines(params.text("field", Some("text"))?),
            };
        } else if let Some(key) = ["field", "chat"].into_iter().find(|key| params.has(key)) {
            return Err(
                params.error(key, "is for JSON lines, but the name of this file does not end in .jsonl")
            );
        }
        file.weight = params.f64_in("weight", Some(1.0), (Bound::Excluded(0.0), Bound::Included(1e6)))?;
        Ok(file)
    }

    /// The entry of a list of files, `path` as the user wrote it: nothing but the path where that says it all.
    fn written(&self, path: &str) -> Value {
        let mut map = Mapping::from_iter([("file".into(), path.into())]);
        if let TextForm::Lines(field) | TextForm::Chats(field) = &self.form {
            map.insert("field".into(), field.as_str().into());
            map.insert("chat".into(), matches!(self.form, TextForm::Chats(_)).into());
        } else if self.weight == 1.0 {
            return path.into();
        }
        map.insert("weight".into(), self.weight.into());
        map.into()
    }
}

impl TextSpec {
    /// As many windows as there are.
    pub const ALL: usize = usize::MAX;

    /// Reads `calibration` or, with `evaluates`, `evaluate`; `calibration` may have `other` keys. Beside it the
    /// mapping that a resolved recipe has for it.
    pub(crate) fn read(
        params: &Params,
        evaluates: bool,
        folder: &FilePath,
        other: &[&str],
    ) -> Result<(Self, Mapping), RecipeError> {
        params.only(&[&["files", "window", "windows", "seed", "bos"], other].concat())?;
        let (mut files, mut written) = (Vec::new(), Vec::<Value>::new());
        for entry in params.entries("files")? {
            let (file, path) = match &entry {
                Entry::Text(path) => (TextFile::new(folder.join(path)), path.clone()),
                Entry::Map(entry) => (TextFile::read(entry, folder)?, entry.text("file", None)?),
            };
            written.push(file.written(&path));
            files.push(file);
        }
        let named = params.has("protocol");
        let protocol = if evaluates { protocol(params)? } else { Protocol::Paper };
        // A protocol that is named brings its own window, and takes the whole text as the tokenizer has it.
        let usual = if named { protocol.window() } else { 256 };
        let window = params.usize_in("window", Some(usual), 2..=1 << 20)?;
        let windows = match (params.has("windows"), named, evaluates) {
            (false, true, _) => Self::ALL,
            (_, _, true) => params.usize_in("windows", Some(24), 1..=MOST_WINDOWS)?,
            (_, _, false) => params.usize_in("windows", Some(16), 1..=MOST_WINDOWS)?,
        };
        let too_many = |file: &&TextFile| windows != Self::ALL && file.windows(windows) > MOST_WINDOWS;
        if let Some(file) = files.iter().find(too_many) {
            let (path, weight) = (file.path.display(), file.weight);
            let message = format!("times the weight {weight} of {path} is more than {MOST_WINDOWS} windows");
            return Err(params.error("windows", message));
        }
        let seed = if params.has("seed") { Some(params.usize_in("seed", None, ..)? as u64) } else { None };
        let usual = if named { Bos::Auto } else { Bos::None };
        let word = params.word("bos", Some(usual.word()), &BOS.map(|(word, _)| word))?;
        let bos = Bos::named(&word).unwrap_or(usual);
        let mut map = Mapping::from_iter([("files".into(), written.into())]);
        // What a recipe does not ask for leaves its digest alone.
        if named {
            map.insert("protocol".into(), protocol.name().into());
        }
        map.insert("window".into(), (window as u64).into());
        if let Protocol::Strided { stride } = protocol {
            map.insert("stride".into(), (stride as u64).into());
        }
        if windows != Self::ALL {
            map.insert("windows".into(), (windows as u64).into());
        }
        if let Some(seed) = seed {
            map.insert("seed".into(), seed.into());
        }
        if bos != Bos::None || named {
            map.insert("bos".into(), bos.word().into());
        }
        let spec = Self { files, window, windows, seed, bos, protocol };
        match spec.contradiction() {
            Some((key, reason)) => Err(params.error(key, reason)),
            None => Ok((spec, map)),
        }
    }

    /// A key whose value does not go with the protocol, and why.
    pub fn contradiction(&self) -> Option<(&'static str, String)> {
        let name = self.protocol.name();
        match self.protocol {
            Protocol::Paper => None,
            _ if self.bos == Bos::Window => {
                Some(("bos", format!("`window` does not go with the protocol {name}")))
            }
            Protocol::Strided { stride } if stride >= self.window => Some((
                "stride",
                format!("must be less than the window of {} tokens, is {stride}", self.window),
            )),
            Protocol::Strided { .. } if self.seed.is_some() => Some((
                "seed",
                "does not go with the protocol strided, whose windows follow each other".into(),
            )),
            Protocol::LlamaCpp if self.window < 4 => {
                Some(("window", "must be 4 at least, as the protocol llama.cpp scores half of it".into()))
            }
            _ => None,
        }
    }
}

/// The protocol and, of a strided one, its stride.
fn protocol(params: &Params) -> Result<Protocol, RecipeError> {
    let name = params.word("protocol", Some("paper"), &Protocol::NAMES)?;
    let stride = params.usize_in("stride", Some(Protocol::STRIDE), 1..=1 << 20)?;
    match Protocol::named(&name, stride).unwrap_or_default() {
        Protocol::Paper | Protocol::LlamaCpp if params.has("stride") => {
            Err(params.error("stride", "is for `protocol: strided`"))
        }
        protocol => Ok(protocol),
    }
}

fn is_lines(path: &FilePath) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Recipe, parse};

    fn read(calibration: &str) -> Result<Recipe, String> {
        let text = format!("version: 1\nmodel: m\ncalibration: {calibration}\nstages: []\n");
        parse(&text, FilePath::new("r/r.yaml"), &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_mix_of_files_with_a_seed() {
        let recipe = read(
            "{files: [a.txt, b.jsonl, {file: c.txt, weight: 0.5}, {file: d.jsonl, field: body, weight: 2}, \
             {file: e.JSONL, chat: true}, {file: f.txt}], windows: 9, seed: 18446744073709551615, bos: document}",
        )
        .unwrap();
        let texts = recipe.calibration.as_ref().unwrap();
        let lines = |field: &str| TextForm::Lines(field.into());
        let wanted = [
            ("r/a.txt", TextForm::Plain, 1.0, 9),
            ("r/b.jsonl", lines("text"), 1.0, 9),
            ("r/c.txt", TextForm::Plain, 0.5, 5),
            ("r/d.jsonl", lines("body"), 2.0, 18),
            ("r/e.JSONL", TextForm::Chats("messages".into()), 1.0, 9),
            ("r/f.txt", TextForm::Plain, 1.0, 9),
        ];
        assert_eq!(texts.files.len(), wanted.len());
        for (file, (path, form, weight, windows)) in texts.files.iter().zip(wanted) {
            assert_eq!(file, &TextFile { path: path.into(), form, weight });
            assert_eq!(file.windows(texts.windows), windows, "{path}");
        }
        assert_eq!((texts.seed, texts.bos), (Some(u64::MAX), Bos::Document));
        let resolved = "\
version: 1
model: m
calibration:
  files:
  - a.txt
  - file: b.jsonl
    field: text
    chat: false
    weight: 1.0
  - file: c.txt
    weight: 0.5
  - file: d.jsonl
    field: body
    chat: false
    weight: 2.0
  - file: e.JSONL
    field: messages
    chat: true
    weight: 1.0
  - f.txt
  window: 256
  windows: 9
  seed: 18446744073709551615
  bos: document
stages: []
";
        assert_eq!(recipe.resolved_yaml(), resolved);
        let again = parse(resolved, FilePath::new("r/r.yaml"), &[]).unwrap();
        assert_eq!((again.resolved_yaml(), again), (resolved.to_owned(), recipe));
    }

    #[test]
    fn a_named_protocol_brings_its_defaults() {
        let evaluate = |keys: &str| {
            let text = format!("version: 1\nmodel: m\nstages: []\nevaluate: {{files: [a]{keys}}}\n");
            let recipe = parse(&text, FilePath::new("r.yaml"), &[]).map_err(|error| error.to_string())?;
            let again = parse(&recipe.resolved_yaml(), FilePath::new("r.yaml"), &[]).unwrap();
            assert_eq!((again.resolved_yaml(), &again), (recipe.resolved_yaml(), &recipe));
            Ok::<_, String>(recipe.evaluate.unwrap())
        };
        let of = |keys: &str| {
            let spec = evaluate(keys).unwrap();
            (spec.protocol, spec.window, spec.windows, spec.bos)
        };
        assert_eq!(of(""), (Protocol::Paper, 256, 24, Bos::None));
        assert_eq!(of(", protocol: paper"), (Protocol::Paper, 2048, TextSpec::ALL, Bos::Auto));
        assert_eq!(of(", protocol: llama.cpp, windows: 3"), (Protocol::LlamaCpp, 512, 3, Bos::Auto));
        let strided = Protocol::Strided { stride: 512 };
        assert_eq!(of(", protocol: strided, bos: none"), (strided, 2048, TextSpec::ALL, Bos::None));
        for (keys, reason) in [
            (", protocol: papers", "protocol: unknown word `papers`; did you mean `paper`?"),
            (", stride: 3", "stride: is for `protocol: strided`"),
            (
                ", protocol: strided, window: 512",
                "stride: must be less than the window of 512 tokens, is 512",
            ),
            (", protocol: strided, seed: 1", "seed: does not go with the protocol strided"),
            (", protocol: llama.cpp, bos: window", "bos: `window` does not go with the protocol llama.cpp"),
            (", protocol: llama.cpp, window: 3", "window: must be 4 at least"),
        ] {
            let error = evaluate(keys).unwrap_err();
            assert!(error.contains(&format!("evaluate.{reason}")), "{error}");
        }
        let error = read("{files: [a], protocol: paper}").unwrap_err();
        assert!(error.contains("calibration.protocol: unknown key `protocol`"), "{error}");
    }

    #[test]
    fn a_small_weight_gives_a_window() {
        let file = TextFile { weight: 1e-9, ..TextFile::new("a".into()) };
        assert_eq!((file.windows(16), file.windows(1_000_000)), (1, 1));
    }

    #[test]
    fn wrong_texts_are_found_in_their_line() {
        for (calibration, reason) in [
            ("{files: []}", "calibration.files: is empty"),
            ("{files: a.txt}", "calibration.files: must be a list, is the text `a.txt`"),
            ("{files: [a, 3]}", "calibration.files[1]: must be text, is 3; quote it if it is meant as text"),
            ("{files: [a, [b]]}", "calibration.files[1]: must be text, is a list"),
            ("{files: [{}]}", "calibration.files[0].file: is missing"),
            (
                "{files: [{file: a, wieght: 2}]}",
                "calibration.files[0].wieght: unknown key `wieght`; did you mean `weight`? (known: file, field, chat, weight)",
            ),
            (
                "{files: [{file: a, weight: 0}]}",
                "calibration.files[0].weight: must be above 0 and at most 1000000, is 0",
            ),
            ("{files: [{file: a, weight: .nan}]}", "weight: must be a number, is .nan"),
            ("{files: [{file: a, weight: -1}]}", "weight: must be above 0"),
            ("{files: [{file: a.jsonl, field: 3}]}", "field: must be text, is 3; quote it"),
            ("{files: [{file: a.jsonl, chat: yes}]}", "chat: must be true or false, is the text `yes`"),
            (
                "{files: [{file: a.txt, chat: false}]}",
                "calibration.files[0].chat: is for JSON lines, but the name of this file does not end in .jsonl",
            ),
            (
                "{files: [{file: a, weight: 1e6}]}",
                "calibration.windows: times the weight 1000000 of r/a is more than 1000000 windows",
            ),
            (
                "{files: [a], bos: windows}",
                "bos: unknown word `windows`; did you mean `window`? (known: none, window, document, auto)",
            ),
            ("{files: [a], seed: -1}", "seed: must be a whole number, 0 or more, is -1"),
            (
                "{files: [a], seed: 18446744073709551616}",
                "3:33: calibration.seed: 18446744073709551616 is above the largest whole number, 18446744073709551615",
            ),
            (
                "{files: [a, -9223372036854775809]}",
                "3:26: calibration.files[1]: -9223372036854775809 is below the least whole number",
            ),
        ] {
            let error = read(calibration).unwrap_err();
            assert!(error.starts_with("r/r.yaml:3:") && error.contains(reason), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
    }
}
