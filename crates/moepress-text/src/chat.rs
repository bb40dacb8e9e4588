//! Chat templates: Jinja from a checkpoint, as an untrusted program.

mod apart;
mod functions;
#[cfg(test)]
mod tests;

use crate::TextError;
use crate::special::TokenizerConfig;
use apart::{Limits, apart};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, Value, context};
use moepress_checkpoint::{CheckpointError, Files, read_file};
use serde::Deserialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const FILE: &str = "chat_template.jinja";
const FIELD: &str = "chat_template";
/// The largest in use have some ten kilobytes.
const MAX_BYTES: usize = 256 << 10;
/// An instruction costs 1, as do 64 bytes that a value or the output takes: 256 MB at most.
const FUEL: u64 = 4_000_000;
/// Of macros that call themselves.
const MAX_DEPTH: usize = 100;
/// A template takes milliseconds and little more than its fuel allows.
const LIMITS: Limits = Limits { memory: 512 << 20, time: Duration::from_secs(30) };
/// Bytes of a rendered chat.
const MAX_OUTPUT: usize = 32 << 20;

/// From messages to the text that a model was trained on.
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    /// As it was written.
    source: String,
    /// Where the template is, for errors: the file, and the field in it.
    place: String,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// Opens the template of a checkpoint: `chat_template.jinja`, else the field `chat_template` of
    /// `tokenizer_config.json`, of which a list holds templates by name and `default` is meant.
    ///
    /// # Errors
    /// There is none, or it is no Jinja.
    pub fn open(files: &dyn Files, dir: &Path) -> Result<Self, TextError> {
        let config = TokenizerConfig::open(files, dir)?;
        let (file, field, text) = source(files, dir, &config)?;
        if text.len() > MAX_BYTES {
            let reason =
                format!("has {} bytes, more than the {MAX_BYTES} that a template may have", text.len());
            return Err(CheckpointError::bad_input(&file, field, reason).into());
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_DEPTH);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        // As transformers renders them.
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .map_err(|error| config.bad(FIELD, error.to_string()))?,
        );
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        functions::add(&mut environment);
        // Jinja2 ends lines in one way.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let source = text.clone();
        let compiled = apart(LIMITS, move || {
            environment.add_template_owned(FIELD, without_marks(&text)).map_err(explained)?;
            Ok(Arc::new(environment))
        });
        let environment =
            compiled.flatten().map_err(|reason| CheckpointError::bad_input(&file, field, reason))?;
        let token = |name| Ok::<_, TextError>(config.token(name)?.map(str::to_owned));
        let place = match field {
            FIELD => format!("{field} of {}", file.display()),
            _ => file.display().to_string(),
        };
        Ok(Self { environment, source, place, bos: token("bos_token")?, eos: token("eos_token")? })
    }

    /// Whether the checkpoint in `dir` has a template.
    ///
    /// # Errors
    /// `tokenizer_config.json` is malformed.
    pub fn exists(files: &dyn Files, dir: &Path) -> Result<bool, TextError> {
        let file = !matches!(files.kind(&dir.join(FILE)), Ok(None));
        let config = TokenizerConfig::open(files, dir)?;
        Ok(file || config.fields.get(FIELD).is_some_and(|value| !value.is_null()))
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a chat that a reply is to follow.
    ///
    /// # Errors
    /// As for a chat in a file: what is wrong with the messages, or where the template broke off.
    pub fn prompt(&self, messages: &serde_json::Value) -> Result<String, String> {
        let messages = Value::deserialize(messages).map_err(|error| error.to_string())?;
        self.rendered(&messages, true)
    }

    /// The text of a chat, without the opening of a further reply. Messages are objects whose `role` and
    /// `content` are text; what else they hold is the template's affair.
    ///
    /// # Errors
    /// What is wrong with the messages, or where the template broke off.
    pub(crate) fn render(&self, messages: &Value) -> Result<String, String> {
        self.rendered(messages, false)
    }

    fn rendered(&self, messages: &Value, reply: bool) -> Result<String, String> {
        check(messages)?;
        let context = context! {
            messages => messages.clone(),
            add_generation_prompt => reply,
            // A token that there is not is undefined, as in transformers.
            bos_token => self.bos.as_deref().map_or(Value::UNDEFINED, Value::from),
            eos_token => self.eos.as_deref().map_or(Value::UNDEFINED, Value::from),
        };
        let environment = Arc::clone(&self.environment);
        let rendered = apart(LIMITS, move || {
            let mut output = Capped { bytes: vec![], limit: MAX_OUTPUT };
            let template = environment.get_template(FIELD).map_err(explained)?;
            template.render_captured_to(context, &mut output).map_err(explained)?;
            String::from_utf8(output.bytes).map_err(|error| error.to_string())
        });
        rendered.flatten().map_err(|reason| format!("{}: {reason}", self.place))
    }
}

/// The file of the template, the part of it, and the template.
fn source(
    files: &dyn Files,
    dir: &Path,
    config: &TokenizerConfig,
) -> Result<(PathBuf, &'static str, String), TextError> {
    let file = dir.join(FILE);
    if !matches!(files.kind(&file), Ok(None)) {
        let text = String::from_utf8(read_file(files, &file, MAX_BYTES as u64)?);
        let text = text.map_err(|_| CheckpointError::bad_input(&file, "template", "is not UTF-8"))?;
        return Ok((file, "template", text));
    }
    let value = config.fields.get(FIELD);
    let named = value.and_then(|value| value.as_array()).map(|templates| {
        let default = templates.iter().find(|template| template["name"] == "default");
        default.map_or(&serde_json::Value::Null, |template| &template["template"])
    });
    match named.or(value).map(|value| (value, value.as_str())) {
        Some((_, Some(text))) => Ok((config.file.clone(), FIELD, text.to_owned())),
        None | Some((serde_json::Value::Null, _)) => {
            let reason = format!("is missing, and so is {FILE}, but a chat needs a template");
            Err(config.bad(FIELD, reason))
        }
        Some(_) => Err(config.bad(FIELD, "is neither text nor a list of templates by name".into())),
    }
}

/// Makes the tags `generation` and `endgeneration`, with which transformers marks replies, tags that change nothing.
fn without_marks(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, tag, after)) = next_tag(rest) {
        text.push_str(before);
        text.push_str(&match tag.trim_matches(['-', '+']).trim() {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        });
        rest = after;
    }
    text + rest
}

/// The text up to the inside of the next tag, the inside, and the rest.
fn next_tag(text: &str) -> Option<(&str, &str, &str)> {
    let start = text.find("{%")? + 2;
    let end = start + text[start..].find("%}")?;
    Some((&text[..start], &text[start..end], &text[end..]))
}

/// Refuses what is no list of messages.
fn check(messages: &Value) -> Result<(), String> {
    let shape = r#"is no list of messages such as {"role": "user", "content": "Hello"}"#;
    let list = || messages.try_iter().ok().filter(|_| messages.kind() == ValueKind::Seq);
    let mut count = 0;
    for (index, message) in list().ok_or(shape)?.enumerate() {
        count += 1;
        let text = |key| message.get_attr(key).is_ok_and(|value| value.as_str().is_some());
        if let Some(key) = ["role", "content"].into_iter().find(|key| !text(key)) {
            return Err(format!("message {index} has no text as its `{key}`"));
        }
    }
    if count == 0 { Err("has no messages".into()) } else { Ok(()) }
}

/// The library's errors as `line 3: reason`.
fn explained(error: minijinja::Error) -> String {
    let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    let reason = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "the template does not come to an end".to_owned(),
        (ErrorKind::WriteFailure, _) => format!("the text has more than {MAX_OUTPUT} bytes"),
        (kind, None) => kind.to_string(),
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
    };
    line + &reason
}

/// Collects bytes up to a limit.
struct Capped {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
