//! The fields of a request: each is read once, what is left over is an error.

use crate::error::ApiError;
use moepress_checkpoint::{CheckpointError, parse_json};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;
use std::path::Path;

/// The object that a body is.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads a body: JSON without duplicate keys or great depth. A field that is null is absent.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = parse_json(Path::new("body"), "json", body).map_err(|error| {
            let reason = match error {
                CheckpointError::BadInput { reason, .. } => reason,
                other => other.to_string(),
            };
            ApiError::new(axum::http::StatusCode::BAD_REQUEST, format!("the body is no JSON: {reason}"))
        })?;
        match value {
            Value::Object(mut map) => {
                map.retain(|_, value| !value.is_null());
                Ok(Self(map))
            }
            _ => Err(ApiError::new(axum::http::StatusCode::BAD_REQUEST, "the body must be a JSON object")),
        }
    }

    /// Takes the value of a field.
    pub(crate) fn take(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field)
    }

    pub(crate) fn text(&mut self, field: &str) -> Result<Option<String>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::field(field, format!("`{field}` must be text"))),
        }
    }

    pub(crate) fn bool(&mut self, field: &str) -> Result<bool, ApiError> {
        match self.take(field) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(ApiError::field(field, format!("`{field}` must be true or false"))),
        }
    }

    pub(crate) fn integer(
        &mut self,
        field: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        // Some clients write whole numbers as 16.0.
        let whole = |number: &f64| number.fract() == 0.0 && (0.0..9e15).contains(number);
        let number = value.as_u64().or_else(|| value.as_f64().filter(whole).map(|number| number as u64));
        let (low, high) = (range.start(), range.end());
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(ApiError::field(
                field,
                format!("`{field}` must be a whole number from {low} to {high}, is {value}"),
            )),
        }
    }

    pub(crate) fn number(
        &mut self,
        field: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        let (low, high) = (range.start(), range.end());
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(ApiError::field(
                field,
                format!("`{field}` must be a number from {low} to {high}, is {value}"),
            )),
        }
    }

    /// Refuses a field unless it has a value that asks for nothing.
    pub(crate) fn only(&mut self, field: &str, nothing: &[Value]) -> Result<(), ApiError> {
        match self.take(field) {
            Some(value) if !nothing.contains(&value) => {
                Err(ApiError::field(field, format!("`{field}` is not supported")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what nobody took.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(field) => {
                let shown: String =
                    field.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect();
                Err(ApiError::field(&shown, format!("`{shown}` is not known or not supported here")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message<T: std::fmt::Debug>(result: Result<T, ApiError>) -> String {
        result.unwrap_err().message
    }

    #[test]
    fn bodies_are_objects_of_json() {
        for (body, reason) in [
            (&b"{"[..], "the body is no JSON: EOF"),
            (b"[1]", "must be a JSON object"),
            (b"{\"a\":1,\"a\":2}", "duplicate key"),
            (b"{\"a\":\"\xff\"}", "not UTF-8"),
            (&[b"{\"a\":".repeat(5000), b"1".to_vec(), b"}".repeat(5000)].concat(), "no JSON"),
        ] {
            let error = Fields::read(body).err().unwrap();
            assert!(error.message.contains(reason), "{}", error.message);
            assert_eq!(error.status.as_u16(), 400);
        }
    }

    #[test]
    fn values_are_checked_and_leftovers_refused() {
        let mut fields =
            Fields::read(br#"{"n": 3, "m": 4.0, "t": 0.5, "s": "x", "b": true, "null": null, "u": 1}"#)
                .unwrap();
        assert_eq!(fields.integer("n", 1..=3), Ok(Some(3)));
        assert_eq!(fields.integer("m", 1..=4), Ok(Some(4)));
        assert_eq!(fields.integer("n", 1..=3), Ok(None));
        assert_eq!(fields.number("t", 0.0..=2.0), Ok(Some(0.5)));
        assert_eq!(
            (fields.text("s"), fields.bool("b"), fields.text("null")),
            (Ok(Some("x".into())), Ok(true), Ok(None))
        );
        assert_eq!(message(fields.finish()), "`u` is not known or not supported here");
        let read = |value: Value| Fields::read(json!({ "f": value }).to_string().as_bytes()).unwrap();
        for value in [json!(-1), json!(1e18), json!(1.5), json!("1"), json!(true)] {
            assert!(message(read(value).integer("f", 0..=100)).contains("whole number from 0 to 100"));
        }
        assert!(message(read(json!(2.1)).number("f", 0.0..=2.0)).contains("from 0 to 2, is 2.1"));
        assert!(message(read(json!(1)).text("f")).contains("must be text"));
        assert!(message(read(json!(1)).bool("f")).contains("true or false"));
        assert_eq!(read(json!({})).only("f", &[json!({})]), Ok(()));
        assert!(message(read(json!({"1": 2})).only("f", &[json!({})])).contains("not supported"));
    }
}
