//! Special tokens that a checkpoint names outside `tokenizer.json`.

use crate::{TextError, Tokenizer};
use moepress_checkpoint::{CheckpointError, Files, read_json};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

const CONFIG: &str = "tokenizer_config.json";
/// The largest in use list all their added tokens, in some hundred kilobytes.
const MAX_BYTES: u64 = 16 << 20;

/// `tokenizer_config.json`; empty where there is none.
pub(crate) struct TokenizerConfig {
    pub(crate) file: PathBuf,
    pub(crate) fields: Map<String, Value>,
}

impl TokenizerConfig {
    /// Reads the file in `dir`.
    ///
    /// # Errors
    /// It is larger than 16 MB or malformed.
    pub(crate) fn open(files: &dyn Files, dir: &Path) -> Result<Self, TextError> {
        let file = dir.join(CONFIG);
        let fields = fields(files, &file)?;
        Ok(Self { file, fields })
    }

    /// The text of a special token such as `bos_token`; `None` where the file has none.
    ///
    /// # Errors
    /// It is neither text nor an object with the text as its `content`.
    pub(crate) fn token(&self, name: &str) -> Result<Option<&str>, TextError> {
        let value = self.fields.get(name).unwrap_or(&Value::Null);
        let text = value.as_str().or_else(|| value.get("content")?.as_str());
        if text.is_none() && !value.is_null() {
            return Err(self.bad(name, "is neither text nor an object with the text as `content`".into()));
        }
        Ok(text)
    }

    pub(crate) fn bad(&self, field: &str, reason: String) -> TextError {
        CheckpointError::bad_input(&self.file, field, reason).into()
    }
}

/// What a checkpoint calls its special tokens, and its chat template: what clients of a server ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Before a text.
    pub bos: Option<String>,
    /// After a text.
    pub eos: Option<String>,
    /// To make texts equally long.
    pub pad: Option<String>,
}

impl SpecialTokens {
    /// Reads `tokenizer_config.json` in `dir`; all are absent where there is none.
    ///
    /// # Errors
    /// The file is larger than 16 MB or malformed.
    pub fn open(files: &dyn Files, dir: &Path) -> Result<Self, TextError> {
        let config = TokenizerConfig::open(files, dir)?;
        let token = |name| Ok::<_, TextError>(config.token(name)?.map(str::to_owned));
        Ok(Self { bos: token("bos_token")?, eos: token("eos_token")?, pad: token("pad_token")? })
    }
}

/// The id of the beginning-of-sequence token of a checkpoint: `bos_token` of `tokenizer_config.json`, else
/// `bos_token_id` of `config.json` or `generation_config.json`.
///
/// # Errors
/// There is none, or it is no token of the tokenizer.
pub(crate) fn bos(files: &dyn Files, tokenizer: &Tokenizer) -> Result<u32, TextError> {
    const TOKEN: &str = "bos_token";
    const ID: &str = "bos_token_id";
    let config = TokenizerConfig::open(files, tokenizer.dir())?;
    if let Some(token) = config.token(TOKEN)? {
        return tokenizer
            .id(token)
            .ok_or_else(|| config.bad(TOKEN, format!("{token:?} is no token of tokenizer.json")));
    }
    for name in ["config.json", "generation_config.json"] {
        let file = tokenizer.dir().join(name);
        let value = fields(files, &file)?.remove(ID).unwrap_or(Value::Null);
        if !value.is_null() {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| tokenizer.has(id));
            let reason = || format!("{value} is no token of tokenizer.json");
            return id.ok_or_else(|| CheckpointError::bad_input(&file, ID, reason()).into());
        }
    }
    let reason = "is missing, and so is bos_token_id of config.json and generation_config.json, but the text is \
                  to have a beginning-of-sequence token (`bos: none` does without)";
    Err(config.bad(TOKEN, reason.into()))
}

/// The beginning-of-sequence token, where the tokenizer of a checkpoint puts it before every text by itself: as
/// `add_bos_token` of `tokenizer_config.json` says, else as `tokenizer.json` does.
///
/// # Errors
/// `add_bos_token` is neither true nor false, or asks for a token that there is not.
pub(crate) fn own_bos(files: &dyn Files, tokenizer: &Tokenizer) -> Result<Option<u32>, TextError> {
    const ADD: &str = "add_bos_token";
    let config = TokenizerConfig::open(files, tokenizer.dir())?;
    match config.fields.get(ADD).unwrap_or(&Value::Null) {
        Value::Bool(true) => bos(files, tokenizer).map(Some),
        Value::Bool(false) => Ok(None),
        // A token before the text that is not the one meant is none: BERT's [CLS], say.
        Value::Null => {
            let first = tokenizer.encode_whole("")?.first().copied();
            Ok(first.filter(|&first| bos(files, tokenizer).is_ok_and(|bos| bos == first)))
        }
        _ => Err(config.bad(ADD, "is neither true nor false".into())),
    }
}

/// The fields of a JSON file; none when there is no such file.
fn fields(files: &dyn Files, file: &Path) -> Result<Map<String, Value>, TextError> {
    match files.kind(file) {
        Ok(None) => Ok(Map::new()),
        _ => Ok(read_json(files, file, MAX_BYTES)?),
    }
}
