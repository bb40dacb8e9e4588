//! Reading a mapping of a recipe, with errors that point at the line.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use serde_yaml::{Mapping, Value};

use crate::error::{RecipeError, shorten, unknown_word};
use crate::path::Path;
use crate::schema::{self, Log};
use crate::size;
use crate::source::Source;

/// A mapping of the recipe, such as the parameters of a stage. Cheap to clone.
///
/// A getter without a default requires its key. Call [`Params::only`] with the keys that were read, so that a
/// misspelt one is an error. Two are equal when their values are, wherever they came from.
#[derive(Debug, Clone)]
pub struct Params {
    pub(crate) path: Path,
    pub(crate) map: Arc<Mapping>,
    pub(crate) source: Arc<Source>,
    /// What is asked for goes there, and everything would do: see [`crate::schema`].
    pub(crate) rehearsal: Option<Log>,
}

/// An entry of a list.
pub(crate) enum Entry {
    Text(String),
    Map(Params),
}

impl PartialEq for Params {
    fn eq(&self, other: &Self) -> bool {
        self.map == other.map
    }
}

impl Params {
    /// A finite number within `range`.
    pub fn f64_in(
        &self,
        key: &str,
        default: Option<f64>,
        range: impl RangeBounds<f64>,
    ) -> Result<f64, RecipeError> {
        self.asked(key, || schema::number("number", default, &range));
        self.or_any(key, default.or_else(|| within(&range, [1.0, 0.5])), || {
            let Some(value) = self.value(key, default.is_none())? else {
                return self.or_missing(key, default);
            };
            let number = value.as_f64().filter(|n| n.is_finite());
            let number = number.ok_or_else(|| self.expected(key, "a number", value))?;
            self.within(key, number, &range)
        })
    }

    /// A whole number within `range`.
    pub fn usize_in(
        &self,
        key: &str,
        default: Option<usize>,
        range: impl RangeBounds<usize>,
    ) -> Result<usize, RecipeError> {
        self.asked(key, || {
            let as_64 = |bound: Bound<&usize>| bound.map(|&number| number as u64);
            let range = (as_64(range.start_bound()), as_64(range.end_bound()));
            schema::number("integer", default.map(|number| number as u64), &range)
        });
        self.or_any(key, default.or_else(|| within(&range, [1, 16])), || {
            let Some(value) = self.value(key, default.is_none())? else {
                return self.or_missing(key, default);
            };
            let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
            let number = number.ok_or_else(|| self.expected(key, "a whole number, 0 or more", value))?;
            self.within(key, number, &range)
        })
    }

    /// `true` or `false`.
    pub fn bool(&self, key: &str, default: Option<bool>) -> Result<bool, RecipeError> {
        self.asked(key, || match default {
            Some(default) => schema::map([("type", "boolean".into()), ("default", default.into())]),
            None => schema::map([("type", "boolean".into())]),
        });
        self.or_any(key, Some(default.unwrap_or(false)), || {
            let Some(value) = self.value(key, default.is_none())? else {
                return self.or_missing(key, default);
            };
            value.as_bool().ok_or_else(|| self.expected(key, "true or false", value))
        })
    }

    /// One of the `allowed` words.
    pub fn word(&self, key: &str, default: Option<&str>, allowed: &[&str]) -> Result<String, RecipeError> {
        self.asked(key, || schema::word(default, allowed));
        let any = default.or(allowed.first().copied()).map(str::to_owned);
        self.or_any(key, any, || {
            let word = self.text_of(key, default)?;
            if self.has(key) && !allowed.contains(&word.as_str()) {
                return Err(self.error(key, unknown_word("word", &word, allowed)));
            }
            Ok(word)
        })
    }

    /// A list of the `allowed` words, each at most once, in the order written; a single word stands for a list of it.
    pub fn words(
        &self,
        key: &str,
        default: Option<&[&str]>,
        allowed: &[&str],
    ) -> Result<Vec<String>, RecipeError> {
        self.asked(key, || schema::one_or_more(schema::word(None, allowed)));
        let default: Option<Vec<String>> = default.map(|words| words.iter().map(|&w| w.into()).collect());
        let any = default.clone().unwrap_or_else(|| allowed.iter().take(1).map(|&w| w.into()).collect());
        self.or_any(key, Some(any), || {
            if !self.has(key) {
                return self.or_missing(key, default);
            }
            let words = self.texts_of(key)?;
            for (k, word) in words.iter().enumerate() {
                let at = self.path.key(key).index(k);
                if !allowed.contains(&word.as_str()) {
                    return Err(self.source.error(&at, unknown_word("word", word, allowed)));
                }
                if words[..k].contains(word) {
                    return Err(self.source.error(&at, format!("`{word}` is listed twice")));
                }
            }
            Ok(words)
        })
    }

    /// Text of at least one character.
    pub fn text(&self, key: &str, default: Option<&str>) -> Result<String, RecipeError> {
        self.asked(key, schema::text);
        self.or_any(key, Some(default.unwrap_or("?").to_owned()), || self.text_of(key, default))
    }

    fn text_of(&self, key: &str, default: Option<&str>) -> Result<String, RecipeError> {
        let Some(value) = self.value(key, default.is_none())? else {
            return self.or_missing(key, default.map(str::to_owned));
        };
        self.as_text(&self.path.key(key), value)
    }

    /// A list of at least one text, or a single text.
    pub fn texts(&self, key: &str) -> Result<Vec<String>, RecipeError> {
        self.asked(key, || schema::one_or_more(schema::text()));
        self.or_any(key, Some(vec!["?".to_owned()]), || self.texts_of(key))
    }

    fn texts_of(&self, key: &str) -> Result<Vec<String>, RecipeError> {
        if let Some(Value::String(_)) = self.value(key, true)? {
            return Ok(vec![self.text_of(key, None)?]);
        }
        let list = self.list(key)?;
        if list.is_empty() {
            return Err(self.error(key, "is empty"));
        }
        let path = self.path.key(key);
        list.iter().enumerate().map(|(k, value)| self.as_text(&path.index(k), value)).collect()
    }

    /// A size above 0 such as `4.2GiB`, `3MB` or `1048576`; `None` when the key is absent.
    pub fn bytes(&self, key: &str) -> Result<Option<u64>, RecipeError> {
        self.asked(key, || {
            let number = schema::number("integer", None, &(1u64..));
            schema::map([("anyOf", vec![number, schema::text()].into())])
        });
        self.or_any(key, Some(self.has(key).then_some(1 << 30)), || self.bytes_of(key))
    }

    fn bytes_of(&self, key: &str) -> Result<Option<u64>, RecipeError> {
        let Some(value) = self.value(key, false)? else { return Ok(None) };
        let size = value.as_u64().or_else(|| value.as_str().and_then(size::bytes)).filter(|&size| size > 0);
        size.map(Some).ok_or_else(|| self.expected(key, size::EXPECTED, value))
    }

    /// Whether the key is present.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Whether the value of a key is text, for keys that take a number or a word.
    pub fn is_text(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_string)
    }

    /// Refuses every key that is not known.
    pub fn only(&self, known: &[&str]) -> Result<(), RecipeError> {
        if let Some(log) = &self.rehearsal {
            schema::note_known(log, &self.path, known);
            return Ok(());
        }
        let unknown = self.map.keys().filter_map(Value::as_str).find(|key| !known.contains(key));
        unknown.map_or(Ok(()), |key| Err(self.error(key, unknown_word("key", key, known))))
    }

    /// An error at `key`, for a check that the getters do not make.
    pub fn error(&self, key: &str, message: impl Into<String>) -> RecipeError {
        self.source.error(&self.path.key(key), message)
    }

    /// The mapping under a key, if there is one.
    pub(crate) fn mapping(&self, key: &str) -> Result<Option<Self>, RecipeError> {
        self.asked(key, || schema::map([("type", "object".into())]));
        if self.rehearsal.is_some() {
            let map = self.map.get(key).and_then(Value::as_mapping).cloned().unwrap_or_default();
            return Ok(Some(Self { path: self.path.key(key), map: Arc::new(map), ..self.clone() }));
        }
        let Some(value) = self.value(key, false)? else { return Ok(None) };
        let map = value.as_mapping().ok_or_else(|| self.expected(key, "a mapping", value))?;
        Ok(Some(Self { path: self.path.key(key), map: Arc::new(map.clone()), ..self.clone() }))
    }

    pub(crate) fn list(&self, key: &str) -> Result<&[Value], RecipeError> {
        if self.rehearsal.is_some() {
            return Ok(&[]);
        }
        let Some(value) = self.value(key, true)? else { return Ok(&[]) };
        value.as_sequence().map(Vec::as_slice).ok_or_else(|| self.expected(key, "a list", value))
    }

    /// A list of at least one text or mapping.
    pub(crate) fn entries(&self, key: &str) -> Result<Vec<Entry>, RecipeError> {
        self.asked(key, || schema::map([("type", "entries".into())]));
        if self.rehearsal.is_some() {
            let one = |index, map| Self {
                path: self.path.key(key).index(index),
                map: Arc::new(map),
                ..self.clone()
            };
            let lines = Mapping::from_iter([("file".into(), "a.jsonl".into())]);
            return Ok(vec![Entry::Map(one(0, Mapping::new())), Entry::Map(one(1, lines))]);
        }
        let list = self.list(key)?;
        if list.is_empty() {
            return Err(self.error(key, "is empty"));
        }
        let entry = |(k, value): (usize, &Value)| {
            let path = self.path.key(key).index(k);
            let Value::Mapping(map) = value else { return self.as_text(&path, value).map(Entry::Text) };
            Ok(Entry::Map(Self { path, map: Arc::new(map.clone()), ..self.clone() }))
        };
        list.iter().enumerate().map(entry).collect()
    }

    fn as_text(&self, path: &Path, value: &Value) -> Result<String, RecipeError> {
        match value {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            Value::Bool(_) | Value::Number(_) => {
                let message =
                    format!("must be text, is {}; quote it if it is meant as text", describe(value));
                Err(self.source.error(path, message))
            }
            _ => Err(self.source.error(path, format!("must be text, is {}", describe(value)))),
        }
    }

    /// The value of a key; `None` when it is absent and not required.
    fn value(&self, key: &str, required: bool) -> Result<Option<&Value>, RecipeError> {
        match self.map.get(key) {
            Some(Value::Null) => Err(self.error(key, "has no value")),
            None if required => Err(self.error(key, "is missing")),
            value => Ok(value),
        }
    }

    fn or_missing<T>(&self, key: &str, default: Option<T>) -> Result<T, RecipeError> {
        default.ok_or_else(|| self.error(key, "is missing"))
    }

    fn expected(&self, key: &str, what: &str, found: &Value) -> RecipeError {
        self.error(key, format!("must be {what}, is {}", describe(found)))
    }

    /// Notes what a key is asked for, in a rehearsal.
    fn asked(&self, key: &str, fragment: impl FnOnce() -> Value) {
        if let Some(log) = &self.rehearsal {
            schema::note(log, &self.path.key(key), fragment());
        }
    }

    /// What `read` returns; in a rehearsal `any` where it fails.
    fn or_any<T>(
        &self,
        key: &str,
        any: Option<T>,
        read: impl FnOnce() -> Result<T, RecipeError>,
    ) -> Result<T, RecipeError> {
        match (read(), &self.rehearsal) {
            (Err(_), Some(_)) => any.ok_or_else(|| self.error(key, "is missing")),
            (result, _) => result,
        }
    }

    fn within<T: PartialOrd + Display>(
        &self,
        key: &str,
        number: T,
        range: &impl RangeBounds<T>,
    ) -> Result<T, RecipeError> {
        if range.contains(&number) {
            return Ok(number);
        }
        let low = match range.start_bound() {
            Bound::Included(low) => Some(format!("at least {low}")),
            Bound::Excluded(low) => Some(format!("above {low}")),
            Bound::Unbounded => None,
        };
        let high = match range.end_bound() {
            Bound::Included(high) => Some(format!("at most {high}")),
            Bound::Excluded(high) => Some(format!("below {high}")),
            Bound::Unbounded => None,
        };
        let bounds: Vec<String> = low.into_iter().chain(high).collect();
        Err(self.error(key, format!("must be {}, is {number}", bounds.join(" and "))))
    }
}

/// The first of `numbers` that is within `range`, else where that starts or ends.
fn within<T: PartialOrd + Copy, const N: usize>(range: &impl RangeBounds<T>, numbers: [T; N]) -> Option<T> {
    let bound = |bound| match bound {
        Bound::Included(&number) => Some(number),
        Bound::Excluded(_) | Bound::Unbounded => None,
    };
    let found = numbers.into_iter().find(|number| range.contains(number));
    found.or_else(|| bound(range.start_bound())).or_else(|| bound(range.end_bound()))
}

pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => format!("the text `{}`", shorten(text)),
        Value::Sequence(_) => "a list".into(),
        Value::Mapping(_) => "a mapping".into(),
        Value::Tagged(_) => "a tagged value".into(),
    }
}
