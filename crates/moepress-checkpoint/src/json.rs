//! Strict JSON: bounded in size, depth and members, and no key twice.

use crate::{CheckpointError, Files, read_file};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::path::Path;

const DEPTH: usize = 64;
const MEMBERS: usize = 1_000_000;

/// The value of a JSON file of at most `max` bytes.
///
/// # Errors
/// As [`read_file`] and [`parse_json`].
pub fn read_json<T: DeserializeOwned>(
    files: &dyn Files,
    path: &Path,
    max: u64,
) -> Result<T, CheckpointError> {
    parse_json(path, "JSON", &read_file(files, path, max)?)
}

/// The value of JSON text; `file` and `field` only name it in errors.
///
/// # Errors
/// Text that is not UTF-8 or not JSON, is nested deeper than 64, has an object of more than a million
/// members or one with the same key twice, or is not what `T` asks for. The error gives the position.
pub fn parse_json<T: DeserializeOwned>(file: &Path, field: &str, text: &[u8]) -> Result<T, CheckpointError> {
    let bad = |reason: &dyn fmt::Display| CheckpointError::bad_input(file, field, reason);
    let text = str::from_utf8(text).map_err(|e| bad(&format_args!("not UTF-8: {e}")))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    Strict { depth: 0 }.deserialize(&mut reader).and_then(|()| reader.end()).map_err(|e| bad(&e))?;
    serde_json::from_str(text).map_err(|e| bad(&e))
}

/// Walks a value and keeps nothing but the keys of the objects it is in.
struct Strict {
    depth: usize,
}

impl Strict {
    fn inner<E: Error>(&self) -> Result<usize, E> {
        match self.depth < DEPTH {
            true => Ok(self.depth + 1),
            false => Err(E::custom(format_args!("nested deeper than the limit of {DEPTH}"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let depth = self.inner()?;
        while items.next_element_seed(Self { depth })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let depth = self.inner()?;
        let mut keys = HashSet::new();
        while let Some(key) = members.next_key::<String>()? {
            if keys.len() == MEMBERS {
                return Err(A::Error::custom(format_args!(
                    "an object of more than the limit of {MEMBERS} members"
                )));
            }
            members.next_value_seed(Self { depth })?;
            if let Some(key) = keys.replace(key) {
                return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use proptest::prelude::*;
    use serde_json::Value;

    fn parse(text: &[u8]) -> Result<Value, CheckpointError> {
        parse_json(Path::new("config.json"), "JSON", text)
    }

    #[test]
    fn malformed_text_is_refused_with_its_reason() {
        let nested = |depth| [vec![b'['; depth], vec![b']'; depth]].concat();
        let members: Vec<_> = (0..=MEMBERS).map(|i| format!("\"{i}\":0")).collect();
        let many = format!("{{{}}}", members.join(","));
        let cases: [(&[u8], &str); 9] = [
            (b"", "EOF"),
            (b"\xff", "not UTF-8"),
            (b"{} x", "trailing characters at line 1 column 4"),
            (b"{\"a\":1,\n\"a\":2}", "duplicate key \"a\" at line 2"),
            (b"[{\"a\":{\"\\u0062\":1,\"b\":2}}]", "duplicate key \"b\""),
            (&nested(65), "nested deeper than the limit of 64"),
            (&[b'['; 100_000], "nested deeper"),
            (many.as_bytes(), "more than the limit of 1000000 members"),
            (b"1e400", "number out of range"),
        ];
        for (text, reason) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert!(error.to_string().starts_with("config.json: JSON: "), "{error}");
            assert_eq!(error.kind(), ErrorKind::BadInput);
        }
        assert!(parse(&nested(64)).is_ok());
    }

    proptest! {
        #[test]
        fn accepts_only_what_serde_json_reads_the_same(text in "[\\[\\]{}:,\"ab01. -]{0,12}") {
            if let Ok(value) = parse(text.as_bytes()) {
                prop_assert_eq!(value, serde_json::from_str::<Value>(&text).unwrap());
            }
        }
    }
}
