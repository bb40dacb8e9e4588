//! `--set PATH=VALUE`: changes a recipe before it is checked.

use serde_yaml::{Mapping, Value};

use crate::error::{shorten, unknown_word};
use crate::guard;
use crate::path::{Path, Step};
use crate::recipe::KEYS;
use crate::tree;

/// Applies one argument to the tree; returns the full path that it changed.
pub(crate) fn apply(tree: &mut Value, argument: &str) -> Result<Path, (Path, String)> {
    let top = |message: String| (Path::default(), message);
    let (left, right) = argument.split_once('=').ok_or_else(|| top("write --set PATH=VALUE".into()))?;
    let path = Path::read(left.trim()).map_err(top)?;
    let path = from_top(tree, path).map_err(top)?;
    guard::check(right).map_err(|refused| (path.clone(), refused.message))?;
    let value = tree::build(right).map_err(|malformed| (path.clone(), malformed.message))?;
    if value.is_null() {
        return Err((path, "has no value".into()));
    }
    *place(tree, &path)? = value;
    Ok(path)
}

/// Completes `prune_atoms.ratio` to `stages[1].prune_atoms.ratio` where one stage has that name.
fn from_top(tree: &Value, path: Path) -> Result<Path, String> {
    let Some(Step::Key(first)) = path.0.first() else { return Ok(path) };
    if KEYS.contains(&first.as_str()) {
        return Ok(path);
    }
    let names: Vec<&str> =
        tree.get("stages").and_then(Value::as_sequence).into_iter().flatten().map(stage_name).collect();
    let matches: Vec<usize> = (0..names.len()).filter(|&k| names[k] == first).collect();
    match matches[..] {
        [only] => {
            let head = Path::default().key("stages").index(only);
            Ok(Path(head.0.into_iter().chain(path.0).collect()))
        }
        [] => {
            let mut known: Vec<&str> = KEYS.to_vec();
            known.extend(
                names
                    .iter()
                    .enumerate()
                    .filter(|(k, n)| !n.is_empty() && !names[..*k].contains(n))
                    .map(|(_, n)| n),
            );
            Err(unknown_word("key or stage", first, &known))
        }
        _ => {
            let choices: Vec<String> = matches.iter().map(|k| format!("stages[{k}].{first}")).collect();
            Err(format!("several stages are named `{}`; write {}", shorten(first), choices.join(" or ")))
        }
    }
}

/// The name of a stage, or nothing when it has no single name.
fn stage_name(stage: &Value) -> &str {
    match stage {
        Value::Mapping(map) if map.len() == 1 => {
            map.keys().next().and_then(Value::as_str).unwrap_or_default()
        }
        other => other.as_str().unwrap_or_default(),
    }
}

/// The value at `path`; missing keys are made on the way, missing list elements are not.
fn place<'a>(tree: &'a mut Value, path: &Path) -> Result<&'a mut Value, (Path, String)> {
    let mut at = tree;
    for (k, step) in path.0.iter().enumerate() {
        let here = || Path(path.0[..k].to_vec());
        at = match (step, at) {
            (Step::Key(key), at) => {
                if at.is_null() {
                    *at = Mapping::new().into();
                }
                // A stage written as a bare word has no parameters yet.
                if at.as_str() == Some(key)
                    && matches!(&path.0[..k], [Step::Key(s), Step::Index(_)] if s == "stages")
                {
                    *at = Mapping::from_iter([(key.as_str().into(), Value::Null)]).into();
                }
                let map = at.as_mapping_mut().ok_or_else(|| (here(), "is not a mapping".to_owned()))?;
                map.entry(key.as_str().into()).or_insert(Value::Null)
            }
            (Step::Index(index), at) => {
                let list = at.as_sequence_mut().ok_or_else(|| (here(), "is not a list".to_owned()))?;
                let count = list.len();
                list.get_mut(*index)
                    .ok_or_else(|| (here(), format!("has {count} entries, counted from 0")))?
            }
        };
    }
    Ok(at)
}
