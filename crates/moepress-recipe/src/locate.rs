//! From a path back to its line: the tree has no positions, but the parser's errors do, so the text is walked once
//! more with an error raised at the end of the path.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Deserializer;

use crate::path::{Path, Step};
use crate::tree::place;

/// Line and column of the last step of `path`, or of the nearest step above it that the text has.
pub(crate) fn locate(text: &str, path: &Path) -> Option<(usize, usize)> {
    (1..=path.0.len()).rev().find_map(|length| {
        let walk = Walk { steps: &path.0[..length] };
        walk.deserialize(Deserializer::from_str(text)).err().as_ref().and_then(place)
    })
}

struct Walk<'a> {
    steps: &'a [Step],
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.steps.is_empty() {
            return deserializer.deserialize_any(Here);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a step")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(found) = map.next_key_seed(AtKey { steps: self.steps })? {
            if found {
                map.next_value_seed(Walk { steps: &self.steps[1..] })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let [Step::Index(wanted), rest @ ..] = self.steps else { return drain(list) };
        for _ in 0..*wanted {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        list.next_element_seed(Walk { steps: rest })?;
        drain(list)
    }
}

fn drain<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Whether a key is the first step; an error there when it is also the last.
struct AtKey<'a> {
    steps: &'a [Step],
}

impl<'de> DeserializeSeed<'de> for AtKey<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AtKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        match self.steps {
            [Step::Key(wanted)] if wanted == key => Err(E::custom("here")),
            [Step::Key(wanted), ..] => Ok(wanted == key),
            _ => Ok(false),
        }
    }
}

/// Refuses any value, so that the error holds its place.
struct Here;

impl Visitor<'_> for Here {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this place")
    }
}
