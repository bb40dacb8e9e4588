//! `moepress logits`: raw logits, to be compared with those of another engine.

use super::{Context, Ending, model};
use crate::args::{Placed, Threads};
use crate::failure::Failure;
use crate::new_file::NewFile;
use crate::progress::Shown;
use crate::{output, place};
use moepress_checkpoint::{CheckpointError, Progress, RawDtype, RawTensor, encode_shard, read_json};
use moepress_runtime::{Model, Precision, RuntimeError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Of a file of token ids.
const MAX_BYTES: u64 = 64 << 20;
/// Tokens whose logits are computed at a time.
const ROWS: usize = 256;

const EXAMPLES: &str = "\
Examples:
  moepress logits out/demo --prompt \"The old house\" --out logits.safetensors
  moepress logits out/demo --ids ids.json --out logits.safetensors

ids.json is a list of equally long lists of token ids, such as [[12, 7, 301], [5, 5, 9]]. The file holds one \
F32 tensor `logits` of shape [sequences, tokens, vocabulary]; it must not exist.";

/// Write the logits of a text or of token ids
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["prompt", "ids"])))]
pub struct Args {
    /// Model directory, plain or compact
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Text to run the model on
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// JSON file of token ids to run the model on
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// File to write, which must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    placed: Placed,
    #[command(flatten)]
    threads: Threads,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        self.threads.start()?;
        place::apart(&self.out, "model", &self.path)?;
        let file = NewFile::claim(&context.files, &self.out)?;
        let checkpoint = model::open(context, &self.path)?;
        let vocab = moepress_checkpoint::Source::spec(&checkpoint).vocab;
        let sequences = match (&self.ids, &self.prompt) {
            (Some(ids), _) => checked(ids, read_json(context.files.as_ref(), ids, MAX_BYTES)?, vocab)?,
            (None, prompt) => {
                let text = prompt.as_deref().unwrap_or_default();
                vec![model::tokenizer(context, &checkpoint)?.encode(text)?]
            }
        };
        let tokens = sequences.first().map_or(0, Vec::len);
        if tokens == 0 {
            return Err(Failure::usage("--prompt has no text to run the model on"));
        }
        let shape = vec![sequences.len(), tokens, vocab];
        let bytes = shape.iter().fold(4u64, |bytes, &size| bytes.saturating_mul(size as u64));
        let given = self.ids.as_ref().map_or("--prompt".to_owned(), |ids| ids.display().to_string());
        // The logits, and the file they are encoded into.
        let model = model::load(context, &checkpoint, bytes.saturating_mul(2), self.placed.device)?;
        let mut logits = Vec::with_capacity(bytes as usize);
        let progress = Shown::new(context);
        for (index, ids) in sequences.iter().enumerate() {
            context.interrupt.check()?;
            append(&model, ids, &mut logits).map_err(|error| model::blame(&checkpoint, &given, error))?;
            progress.step("logits", index as u64 + 1, sequences.len() as u64);
        }
        drop(progress);
        let tensor = RawTensor { dtype: RawDtype::F32, shape: shape.clone(), bytes: logits };
        file.write(&encode_shard(&BTreeMap::from([("logits".to_owned(), tensor)]))?)?;
        let out = self.out.display();
        match self.json {
            true => output::json(&json!({ "schema_version": 1, "output": out.to_string(), "shape": shape }))?,
            false => output::result(&format!("{out}: logits {shape:?} f32\n"))?,
        }
        Ok(Ending::Done)
    }
}

/// Appends the logits of one sequence, little-endian.
fn append(model: &Model, ids: &[u32], logits: &mut Vec<u8>) -> Result<(), RuntimeError> {
    let hidden = model.hidden(ids, 1)?;
    for rows in hidden.chunks(ROWS * model.spec().hidden) {
        for logit in model.logits(rows, Precision::Exact)? {
            if !logit.is_finite() {
                return Err(RuntimeError::NotFinite);
            }
            logits.extend(logit.to_le_bytes());
        }
    }
    Ok(())
}

/// Equally long, non-empty lists of ids below `vocab`.
fn checked(file: &Path, json: Value, vocab: usize) -> Result<Vec<Vec<u32>>, CheckpointError> {
    let bad = |field: &str, reason: String| CheckpointError::bad_input(file, field, reason);
    let shape = || "must be a list of equally long lists of token ids, such as [[12, 7], [5, 9]]".to_owned();
    let lists = json.as_array().filter(|lists| !lists.is_empty()).ok_or_else(|| bad("ids", shape()))?;
    let mut sequences: Vec<Vec<u32>> = Vec::with_capacity(lists.len());
    for (index, list) in lists.iter().enumerate() {
        let place = format!("[{index}]");
        let list = list.as_array().filter(|list| !list.is_empty()).ok_or_else(|| bad(&place, shape()))?;
        let expected = sequences.first().map_or(list.len(), Vec::len);
        if list.len() != expected {
            let reason =
                format!("has {} ids, [0] has {expected}; all lists must be equally long", list.len());
            return Err(bad(&place, reason));
        }
        let id = |(position, value): (usize, &Value)| {
            let id = value.as_u64().filter(|&id| id < vocab as u64).and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| {
                bad(
                    &format!("[{index}][{position}]"),
                    format!("{value} is no token id from 0 to {}", vocab - 1),
                )
            })
        };
        sequences.push(list.iter().enumerate().map(id).collect::<Result<_, _>>()?);
    }
    Ok(sequences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_are_checked() {
        let check = |json| checked(Path::new("i.json"), json, 10).map_err(|e| e.to_string());
        assert_eq!(check(json!([[1, 9], [0, 3]])).unwrap(), [[1, 9], [0, 3]]);
        for (json, reason) in [
            (json!({"ids": []}), "i.json: ids: must be a list of equally long lists"),
            (json!([]), "i.json: ids: must be"),
            (json!([1, 2]), "i.json: [0]: must be"),
            (json!([[]]), "i.json: [0]: must be"),
            (json!([[1, 2], [3]]), "i.json: [1]: has 1 ids, [0] has 2"),
            (json!([[1, 10]]), "i.json: [0][1]: 10 is no token id from 0 to 9"),
            (json!([[1, -1]]), "-1 is no token id"),
            (json!([[1.5]]), "1.5 is no token id"),
        ] {
            let error = check(json).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
