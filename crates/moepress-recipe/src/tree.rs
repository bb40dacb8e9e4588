//! YAML text to a tree of values.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Deserializer, Mapping, Value};

use crate::error::shorten;
use crate::guard::is_forbidden;
use crate::path::Path;

const MAX_DEPTH: usize = 16;

/// Why text is no tree: line and column from 1 where known, and the path.
pub(crate) struct Malformed {
    pub(crate) place: Option<(usize, usize)>,
    pub(crate) path: Path,
    pub(crate) message: String,
}

/// Builds the tree: keys are words and unique, nesting is at most 16 deep, text is one line.
pub(crate) fn build(text: &str) -> Result<Value, Malformed> {
    let fault = RefCell::new(None);
    let path = Path::default();
    Node { path: &path, fault: &fault }.deserialize(Deserializer::from_str(text)).map_err(|error| {
        let (path, message) = fault.take().unwrap_or_else(|| {
            let message = error.to_string();
            let end = message.find(" at line ").unwrap_or(message.len());
            (Path::default(), format!("not valid YAML: {}", shorten(&message[..end])))
        });
        Malformed { place: place(&error), path, message }
    })
}

/// Line and column from 1 of a parser's error.
pub(crate) fn place(error: &serde_yaml::Error) -> Option<(usize, usize)> {
    error.location().map(|l| (l.line(), l.column()))
}

const NOT_ONE_LINE: &str = "text is one line without control characters";

/// Escapes in quotes can bring back what the guard refuses.
fn is_one_line(text: &str) -> bool {
    !text.chars().any(|c| c == '\t' || is_forbidden(c))
}

type Fault = RefCell<Option<(Path, String)>>;

struct Node<'a> {
    path: &'a Path,
    fault: &'a Fault,
}

impl Node<'_> {
    fn refuse<E: serde::de::Error>(&self, path: Path, message: String) -> E {
        *self.fault.borrow_mut() = Some((path, message));
        E::custom("refused")
    }

    fn child<E: serde::de::Error>(&self, path: Path) -> Result<Path, E> {
        if path.0.len() > MAX_DEPTH {
            return Err(self.refuse(Path::default(), format!("nested more than {MAX_DEPTH} deep")));
        }
        Ok(path)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, a list, a word or a number")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    // An empty text.
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    // Whole numbers beyond 64 bits; those beyond 128 bits arrive as fractions.
    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        Err(self
            .refuse(self.path.clone(), format!("{value} is above the largest whole number, {}", u64::MAX)))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        Err(self.refuse(self.path.clone(), format!("{value} is below the least whole number, {}", i64::MIN)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        if !is_one_line(value) {
            return Err(self.refuse(self.path.clone(), NOT_ONE_LINE.into()));
        }
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        loop {
            let path = self.child(self.path.index(values.len()))?;
            match list.next_element_seed(Node { path: &path, fault: self.fault })? {
                Some(value) => values.push(value),
                None => return Ok(Value::Sequence(values)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Mapping::new();
        while let Some(key) = map.next_key_seed(Key { of: &self, seen: &values })? {
            let path = self.child(self.path.key(&key))?;
            values.insert(key.into(), map.next_value_seed(Node { path: &path, fault: self.fault })?);
        }
        Ok(Value::Mapping(values))
    }
}

struct Key<'a> {
    of: &'a Node<'a>,
    seen: &'a Mapping,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    // The error leaves from inside the key, so that the parser attaches the key's own place.
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a word as key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        if !is_one_line(key) {
            return Err(self.of.refuse(self.of.path.clone(), NOT_ONE_LINE.into()));
        }
        if self.seen.contains_key(key) {
            return Err(self.of.refuse(self.of.path.key(key), "is given twice".into()));
        }
        Ok(key.into())
    }
}
