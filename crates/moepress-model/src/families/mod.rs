//! One file per family: configuration → [`ModelSpec`], and what its tensors are called on disk.

mod qwen3_moe;

use crate::{Config, ConfigError, ModelSpec, Tensor};

/// A family of models, recognised by `model_type`.
pub struct Family {
    /// The word in `config.json`.
    pub model_type: &'static str,
    /// The description that a configuration stands for, in plain bf16.
    pub spec: fn(Config<'_>) -> Result<ModelSpec, ConfigError>,
    /// The name of a tensor in a source checkpoint (experts have one segment there).
    pub source_name: fn(Tensor) -> String,
}

/// Every supported family.
pub const FAMILIES: &[Family] = &[qwen3_moe::FAMILY];

/// The family that a configuration belongs to.
///
/// # Errors
/// `model_type` is missing or unknown; says which are known and which is nearest.
pub fn family(config: Config<'_>) -> Result<&'static Family, ConfigError> {
    let word = config.get("model_type").and_then(|value| value.as_str());
    let Some(word) = word else {
        return Err(ConfigError::new("model_type", "is missing, so the family of the model is not known"));
    };
    if let Some(family) = FAMILIES.iter().find(|family| family.model_type == word) {
        return Ok(family);
    }
    let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
    let near = known.iter().max_by(|a, b| strsim::jaro(word, a).total_cmp(&strsim::jaro(word, b)));
    let hint = match near.filter(|near| strsim::jaro(word, near) > 0.8) {
        Some(near) => format!("; the nearest is `{near}`"),
        None => String::new(),
    };
    Err(ConfigError::new(
        "model_type",
        format!("`{}` is not supported (known: {}){hint}", word.escape_debug(), known.join(", ")),
    ))
}
