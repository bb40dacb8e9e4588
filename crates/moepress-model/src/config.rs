//! Reading `config.json`: every getter names the field when the value is not what a family was written for.

use serde_json::{Map, Value};

/// A field of `config.json` that is missing or cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {reason}")]
pub struct ConfigError {
    /// The key, or several keys when any of them would do.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl ConfigError {
    /// An error at `field`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// A view of a parsed `config.json`.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a>(pub &'a Map<String, Value>);

impl<'a> Config<'a> {
    /// The value of a key; null counts as absent.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn require(&self, key: &str) -> Result<&'a Value, ConfigError> {
        self.get(key).ok_or_else(|| ConfigError::new(key, "is missing"))
    }

    /// A positive integer of at most `most`.
    ///
    /// # Errors
    /// Missing, of another type, zero, or above `most`.
    pub fn size(&self, key: &str, most: usize) -> Result<usize, ConfigError> {
        let value = self.require(key)?;
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=most).contains(&n) => Ok(n),
            _ => Err(ConfigError::new(key, format!("is {value} but must be an integer from 1 to {most}"))),
        }
    }

    /// A size under the first of several spellings; all spellings present must agree.
    ///
    /// # Errors
    /// As [`Self::size`], or two spellings that contradict each other.
    pub fn size_of_any(&self, keys: &[&str], most: usize) -> Result<usize, ConfigError> {
        let mut found: Option<(&str, usize)> = None;
        for &key in keys.iter().filter(|key| self.get(key).is_some()) {
            let size = self.size(key, most)?;
            if let Some((first, other)) = found.filter(|&(_, other)| other != size) {
                return Err(ConfigError::new(key, format!("is {size}, but `{first}` is {other}")));
            }
            found.get_or_insert((key, size));
        }
        found.map(|(_, size)| size).ok_or_else(|| ConfigError::new(keys.join("` or `"), "is missing"))
    }

    /// A finite number above zero.
    ///
    /// # Errors
    /// Missing, of another type, or not above zero.
    pub fn positive(&self, key: &str) -> Result<f64, ConfigError> {
        let value = self.require(key)?;
        match value.as_f64() {
            Some(x) if x.is_finite() && x > 0.0 => Ok(x),
            _ => Err(ConfigError::new(key, format!("is {value} but must be a number above 0"))),
        }
    }

    /// A boolean, `default` when absent.
    ///
    /// # Errors
    /// Of another type.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(ConfigError::new(key, format!("is {value} but must be true or false"))),
        }
    }

    /// Refuses any value but `wanted` (absence is fine): the family was written for nothing else.
    ///
    /// # Errors
    /// Present with another value.
    pub fn only(&self, key: &str, wanted: &Value) -> Result<(), ConfigError> {
        match self.get(key) {
            Some(value) if value != wanted => {
                Err(ConfigError::new(key, format!("is {value}; only {wanted} is supported for this family")))
            }
            _ => Ok(()),
        }
    }

    /// A list of layer indices below `layers`, empty when absent.
    ///
    /// # Errors
    /// Not a list of such integers.
    pub fn layer_list(&self, key: &str, layers: usize) -> Result<Vec<usize>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let index = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n < layers);
        value
            .as_array()
            .and_then(|list| list.iter().map(index).collect())
            .ok_or_else(|| ConfigError::new(key, format!("must list layer indices below {layers}")))
    }

    /// Token ids under a key that holds one id, a list of ids, or nothing.
    ///
    /// # Errors
    /// An id that is no integer below `vocab`.
    pub fn token_ids(&self, key: &str, vocab: usize) -> Result<Vec<u32>, ConfigError> {
        let id = |v: &Value| v.as_u64().filter(|&n| (n as usize) < vocab).and_then(|n| u32::try_from(n).ok());
        let ids: Option<Vec<u32>> = match self.get(key) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| ConfigError::new(key, format!("must be token ids below {vocab}")))
    }

    /// A finite number of at least zero, `default` when absent.
    ///
    /// # Errors
    /// Of another type, or below zero.
    pub fn number(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        match self.get(key).map(|value| (value, value.as_f64())) {
            None => Ok(default),
            Some((_, Some(x))) if x.is_finite() && x >= 0.0 => Ok(x),
            Some((value, _)) => {
                Err(ConfigError::new(key, format!("is {value} but must be a number of at least 0")))
            }
        }
    }

    /// A size, `None` when absent.
    ///
    /// # Errors
    /// As [`Self::size`].
    pub fn optional_size(&self, key: &str, most: usize) -> Result<Option<usize>, ConfigError> {
        self.get(key).map(|_| self.size(key, most)).transpose()
    }

    /// A list of `count` numbers above zero.
    ///
    /// # Errors
    /// Missing, of another length, or not such numbers.
    pub fn positives(&self, key: &str, count: usize) -> Result<Vec<f64>, ConfigError> {
        let number = |v: &Value| v.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        let list = self.require(key)?.as_array().filter(|list| list.len() == count);
        list.and_then(|list| list.iter().map(number).collect())
            .ok_or_else(|| ConfigError::new(key, format!("must list {count} numbers above 0")))
    }

    /// One of the words given, the first when absent.
    ///
    /// # Errors
    /// Another word, or no word.
    pub fn word<'w>(&self, key: &str, words: &[&'w str]) -> Result<&'w str, ConfigError> {
        let first = words.first().copied().unwrap_or_default();
        let Some(value) = self.get(key) else { return Ok(first) };
        words.iter().copied().find(|word| value.as_str() == Some(word)).ok_or_else(|| {
            ConfigError::new(
                key,
                format!("is {value}; only {} is supported for this family", words.join(", ")),
            )
        })
    }
}
