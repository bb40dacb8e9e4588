//! The JSON Schema of recipes, taken from the code that reads them.
//!
//! A rehearsal reads mappings that say nothing: every getter of [`Params`] notes what it was asked for and returns a
//! value that would do. Keys that only some values lead to are found by rehearsing again with those values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde_yaml::{Mapping, Value};

use crate::params::Params;
use crate::path::{Path, Step};
use crate::recipe::{self, StageSpec};
use crate::source::Source;

/// Rehearsals of one mapping at most; none needs a tenth of them.
const MOST: usize = 4000;

/// What was asked of the mappings of a rehearsal.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Fragments of schema by path, keys only; several where a key takes several kinds of values.
    fragments: BTreeMap<Vec<String>, Vec<Value>>,
    /// Keys that a mapping may have, by its path.
    known: BTreeMap<Vec<String>, BTreeSet<String>>,
}

pub(crate) type Log = Arc<Mutex<Asked>>;

/// Steps without indices: entries of a list are alike.
fn keys(path: &Path) -> Vec<String> {
    let key = |step: &Step| match step {
        Step::Key(key) => key.clone(),
        Step::Index(_) => "[]".to_owned(),
    };
    path.0.iter().map(key).collect()
}

pub(crate) fn note(log: &Log, path: &Path, fragment: Value) {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    let fragments = log.fragments.entry(keys(path)).or_default();
    if !fragments.contains(&fragment) {
        fragments.push(fragment);
    }
}

pub(crate) fn note_known(log: &Log, path: &Path, known: &[&str]) {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.known.entry(keys(path)).or_default().extend(known.iter().map(|&key| key.to_owned()));
}

/// `{key: value, …}`.
pub(crate) fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Mapping(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// A number or whole number within `range`.
pub(crate) fn number<T: Copy + Display + Into<Value>>(
    kind: &str,
    default: Option<T>,
    range: &impl RangeBounds<T>,
) -> Value {
    let mut fragment = Mapping::from_iter([("type".into(), kind.into())]);
    match range.start_bound() {
        Bound::Included(low) => fragment.insert("minimum".into(), (*low).into()),
        Bound::Excluded(low) => fragment.insert("exclusiveMinimum".into(), (*low).into()),
        Bound::Unbounded => None,
    };
    match range.end_bound() {
        Bound::Included(high) => fragment.insert("maximum".into(), (*high).into()),
        Bound::Excluded(high) => fragment.insert("exclusiveMaximum".into(), (*high).into()),
        Bound::Unbounded => None,
    };
    if let Some(default) = default {
        fragment.insert("default".into(), default.into());
    }
    fragment.into()
}

/// One of these words.
pub(crate) fn word(default: Option<&str>, allowed: &[&str]) -> Value {
    let words: Vec<Value> = allowed.iter().map(|&word| word.into()).collect();
    let mut fragment = Mapping::from_iter([("enum".into(), words.into())]);
    if let Some(default) = default {
        fragment.insert("default".into(), default.into());
    }
    fragment.into()
}

/// A list of these, or one of them.
pub(crate) fn one_or_more(item: Value) -> Value {
    let list = map([("type", "array".into()), ("items", item.clone()), ("minItems", 1.into())]);
    map([("anyOf", vec![item, list].into())])
}

pub(crate) fn text() -> Value {
    map([("type", "string".into()), ("minLength", 1.into())])
}

/// Reads mappings at `path`, with up to `depth` keys, until nothing new is asked for.
fn explore(path: &Path, depth: usize, read: &dyn Fn(&Params)) -> Log {
    let log = Log::default();
    let source = Arc::new(Source { file: PathBuf::new(), text: String::new(), sets: vec![] });
    let mut tried = Vec::new();
    let mut queue = vec![Mapping::new()];
    while let Some(map) = queue.pop() {
        if tried.contains(&map) || tried.len() == MOST {
            continue;
        }
        let params = Params {
            path: path.clone(),
            map: Arc::new(map.clone()),
            source: Arc::clone(&source),
            rehearsal: Some(Arc::clone(&log)),
        };
        read(&params);
        if leaves(&map) < depth {
            queue.extend(variations(&log, &keys(path), &map));
        }
        tried.push(map);
    }
    log
}

fn leaves(map: &Mapping) -> usize {
    map.values().map(|value| value.as_mapping().map_or(1, leaves)).sum()
}

/// The mapping with one more key, in itself or in a mapping below: each that there may be, as a text and as none; each
/// word that a key takes.
fn variations(log: &Log, top: &[String], map: &Mapping) -> Vec<Mapping> {
    let log = log.lock().unwrap_or_else(PoisonError::into_inner);
    let mut more = Vec::new();
    for (path, known) in &log.known {
        let Some(below) = path.strip_prefix(top).filter(|below| !below.contains(&"[]".to_owned())) else {
            continue;
        };
        for key in known {
            let here: Vec<String> = path.iter().chain([key]).cloned().collect();
            let words = log.fragments.get(&here).into_iter().flatten();
            let words = words.filter_map(|fragment| fragment.get("enum")?.as_sequence()).flatten().cloned();
            let values = words.chain([Value::Bool(true), "?".into()]);
            more.extend(values.filter_map(|value| with(map, below, key, value)));
        }
    }
    more
}

/// The mapping with one more key in the mapping at `path`; none where it has it.
fn with(map: &Mapping, path: &[String], key: &str, value: Value) -> Option<Mapping> {
    let mut map = map.clone();
    let value = match path.split_first() {
        None if map.contains_key(key) => return None,
        None => return map.insert(key.into(), value).is_none().then_some(map),
        Some((first, rest)) => {
            let inner =
                map.get(first.as_str()).map_or(Some(Mapping::new()), |inner| inner.as_mapping().cloned())?;
            Value::from(with(&inner, rest, key, value)?)
        }
    };
    map.insert(path[0].as_str().into(), value);
    Some(map)
}

/// The schema of the mapping at `path`.
fn object(asked: &Asked, path: &[String], required: &[&str]) -> Value {
    let mut properties = Mapping::new();
    let known = asked.known.get(path).into_iter().flatten();
    for key in known {
        let here: Vec<String> = path.iter().chain([key]).cloned().collect();
        let fragments = asked.fragments.get(&here).cloned().unwrap_or_default();
        let mut fragments: Vec<Value> = fragments.into_iter().map(|f| filled(asked, &here, f)).collect();
        let schema = match fragments.len() {
            0 => Mapping::new().into(),
            1 => fragments.remove(0),
            _ => map([("anyOf", fragments.into())]),
        };
        properties.insert(key.as_str().into(), schema);
    }
    let mut schema = Mapping::from_iter([
        ("type".into(), "object".into()),
        ("properties".into(), properties.into()),
        ("additionalProperties".into(), false.into()),
    ]);
    if !required.is_empty() {
        schema.insert(
            "required".into(),
            required.iter().map(|&key| Value::from(key)).collect::<Vec<_>>().into(),
        );
    }
    schema.into()
}

/// A fragment whose mappings have their keys.
fn filled(asked: &Asked, path: &[String], fragment: Value) -> Value {
    match fragment.get("type").and_then(Value::as_str) {
        Some("object") => object(asked, path, &[]),
        Some("entries") => {
            let item: Vec<String> = path.iter().cloned().chain(["[]".to_owned()]).collect();
            let entry = map([("anyOf", vec![text(), object(asked, &item, &["file"])].into())]);
            map([("type", "array".into()), ("items", entry), ("minItems", 1.into())])
        }
        _ => fragment,
    }
}

/// The parameters of a stage, as `build` reads them.
pub fn stage_schema(name: &str, build: &dyn Fn(&StageSpec)) -> Value {
    let path = Path::default().key(name);
    // Two keys at a time are enough to get from one to those that depend on it.
    let log = explore(&path, 2, &|params| build(&StageSpec { name: name.into(), params: params.clone() }));
    let asked = log.lock().unwrap_or_else(PoisonError::into_inner);
    object(&asked, &keys(&path), &[])
}

/// The JSON Schema (draft 2020-12) of a recipe, given what it says of every stage by name.
pub fn schema(stages: &[(&str, Value)]) -> Value {
    let log = explore(&Path::default(), 1, &|params| recipe::rehearse(params));
    let asked = log.lock().unwrap_or_else(PoisonError::into_inner);
    let mut whole = object(&asked, &[], &["version", "model", "stages"]);
    let names: Vec<Value> = stages.iter().map(|(name, _)| (*name).into()).collect();
    let mut forms = vec![map([("enum", names.into())])];
    forms.extend(stages.iter().map(|(name, parameters)| {
        let nothing = map([("type", "null".into())]);
        let parameters = map([("anyOf", vec![parameters.clone(), nothing].into())]);
        map([
            ("type", "object".into()),
            ("properties", map([(name, parameters)])),
            ("required", vec![Value::from(*name)].into()),
            ("additionalProperties", false.into()),
        ])
    }));
    let list = map([("type", "array".into()), ("items", map([("anyOf", forms.into())]))]);
    if let Some(properties) = whole.get_mut("properties").and_then(Value::as_mapping_mut) {
        properties.insert("stages".into(), list);
    }
    let mut document = Mapping::from_iter([
        ("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into()),
        ("title".into(), "A recipe of moepress, version 1".into()),
    ]);
    document.extend(whole.as_mapping().cloned().unwrap_or_default());
    document.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value at `a.b.c`.
    fn at<'a>(schema: &'a Value, path: &str) -> &'a Value {
        path.split('.').fold(schema, |value, key| match key.parse::<usize>() {
            Ok(index) => &value[index],
            Err(_) => &value[key],
        })
    }

    #[test]
    fn what_is_read_is_in_the_schema() {
        let schema = schema(&[("prune", Mapping::new().into())]);
        let of = |path: &str| at(&schema, path);
        assert_eq!(of("properties.calibration.properties.window.minimum"), &Value::from(2));
        assert_eq!(of("properties.evaluate.properties.protocol.enum.1"), &Value::from("llama.cpp"));
        assert_eq!(of("properties.evaluate.properties.stride.default"), &Value::from(512));
        let files = of("properties.calibration.properties.files.items.anyOf.1.properties");
        for key in ["file", "field", "chat", "weight"] {
            assert!(
                files
                    .get(key)
                    .is_some_and(|schema| schema.get("anyOf").is_some() || schema.get("type").is_some()),
                "{key}"
            );
        }
        assert_eq!(of("properties.calibration.properties.below_min_tokens.enum.3"), &Value::from("error"));
        assert!(of("properties.calibration.properties").get("protocol").is_none());
        assert_eq!(of("properties.stages.items.anyOf.0.enum.0"), &Value::from("prune"));
        assert_eq!(of("additionalProperties"), &Value::from(false));
        assert!(of("properties.limits.properties.memory").get("anyOf").is_some());
        assert_eq!(of("properties.gates.properties.baseline.type"), &Value::from("string"));
    }

    #[test]
    fn keys_that_a_value_leads_to_are_found() {
        let schema = stage_schema("prune", &|spec| {
            let p = &spec.params;
            let method = p.word("method", Some("a"), &["a", "b"]).unwrap();
            let more: &[&str] = if method == "b" { &["depth"] } else { &[] };
            p.only(&[&["method", "ratio", "group"], more].concat()).unwrap();
            if method == "b" && p.has("depth") {
                p.usize_in("depth", None, 1..=9).unwrap();
            }
            p.f64_in("ratio", None, (Bound::Excluded(0.0), Bound::Excluded(1.0))).unwrap();
            if p.is_text("group") {
                p.word("group", None, &["row"]).unwrap();
            } else {
                p.usize_in("group", Some(64), 1..).unwrap();
            }
        });
        let of = |path: &str| at(&schema, path);
        assert_eq!(of("properties.depth.maximum"), &Value::from(9));
        assert_eq!(of("properties.ratio.exclusiveMaximum"), &Value::from(1.0));
        let group = of("properties.group.anyOf").as_sequence().unwrap();
        assert!(group.iter().any(|f| f["enum"][0] == "row") && group.iter().any(|f| f["default"] == 64));
    }
}
