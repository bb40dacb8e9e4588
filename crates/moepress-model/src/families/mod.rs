//! One file per family: configuration → [`ModelSpec`], and what its tensors are called on disk.

mod common;
mod deepseek;
mod names;
mod rope;

mod deepseek_v2;
mod deepseek_v3;
mod ernie4_5_moe;
mod glm4_moe;
mod gpt_oss;
mod granitemoe;
mod minimax_m2;
mod mixtral;
mod olmoe;
mod phimoe;
mod qwen2_moe;
mod qwen3_moe;

use crate::{Config, ConfigError, ModelSpec, Place, Tensor};

/// A family of models, recognised by `model_type`.
pub struct Family {
    /// The word in `config.json`.
    pub model_type: &'static str,
    /// Keys of its configurations that tell it from others.
    pub keys: &'static [&'static str],
    /// The description that a configuration stands for, in plain bf16.
    pub spec: fn(Config<'_>) -> Result<ModelSpec, ConfigError>,
    /// Every spelling of a tensor in a source checkpoint (where experts have one segment), the family's own first.
    pub places: fn(Tensor) -> Vec<Place>,
}

/// Every supported family.
pub const FAMILIES: &[Family] = &[
    deepseek_v2::FAMILY,
    deepseek_v3::FAMILY,
    ernie4_5_moe::FAMILY,
    glm4_moe::FAMILY,
    gpt_oss::FAMILY,
    granitemoe::FAMILY,
    minimax_m2::FAMILY,
    mixtral::FAMILY,
    olmoe::FAMILY,
    phimoe::FAMILY,
    qwen2_moe::FAMILY,
    qwen3_moe::FAMILY,
];

/// The family that a configuration belongs to.
///
/// # Errors
/// `model_type` is missing or unknown; says which are known, which is nearest by its keys, and what of it is
/// missing.
pub fn family(config: Config<'_>) -> Result<&'static Family, ConfigError> {
    let word = config.get("model_type").and_then(|value| value.as_str());
    if let Some(family) = FAMILIES.iter().find(|family| word == Some(family.model_type)) {
        return Ok(family);
    }
    let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
    let known = known.join(", ");
    let found = match word {
        Some(word) => format!("`{}` is not supported (known: {known})", word.escape_debug()),
        None => format!("is missing (known: {known})"),
    };
    Err(ConfigError::new("model_type", format!("{found}{}", nearest(config, word.unwrap_or_default()))))
}

/// What the configuration is most like: by its keys, then by the spelling of its name.
fn nearest(config: Config<'_>, word: &str) -> String {
    let keys = |family: &Family| -> (Vec<&str>, Vec<&str>) {
        family.keys.iter().copied().partition(|key| config.get(key).is_some())
    };
    let likeness = |family: &Family| {
        let share = keys(family).0.len() as f64 / family.keys.len() as f64;
        share + strsim::jaro(word, family.model_type)
    };
    let best = FAMILIES.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let near = |family: &&Family| !keys(family).0.is_empty() || strsim::jaro(word, family.model_type) > 0.8;
    let Some(family) = best.filter(near) else {
        return "; it has none of the keys of a Mixture-of-Experts model".into();
    };
    let (found, missing) = keys(family);
    let (found, missing) = (found.join(", "), missing.join(", "));
    let keys = match (found.as_str(), missing.as_str()) {
        ("", missing) => format!("keys missing: {missing}"),
        (found, "") => format!("keys found: {found}; none missing"),
        (found, missing) => format!("keys found: {found}; missing: {missing}"),
    };
    format!("; nearest: `{}` ({keys})", family.model_type)
}
