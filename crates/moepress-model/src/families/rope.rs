//! Rotary positions, in both generations of configurations: `rope_parameters`, or `rope_theta` beside
//! `rope_scaling`.

use crate::attention::{Pairs, Rope, RopeScaling};
use crate::{Config, ConfigError};
use serde_json::{Map, Value};

/// What a configuration says about rotary positions.
pub struct Rotary {
    /// The positions.
    pub rope: Rope,
    /// YaRN's `mscale` over all channels, squared: what DeepSeek multiplies the softmax scale by. 1 without.
    pub softmax: f64,
}

/// What a family wants of it.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Channels of the head, or of its rotary part.
    pub dims: usize,
    pub pairs: Pairs,
    /// The fraction of `dims` that is rotated when the configuration does not say.
    pub partial: f64,
    /// Whether LongRoPE was written for.
    pub long: bool,
}

/// Reads the rotary positions of a model.
pub fn rotary(config: Config<'_>, wanted: Wanted) -> Result<Rotary, ConfigError> {
    let (place, map) = parameters(config)?;
    let rope = Config(&map);
    let inside = |e: ConfigError| match rope.get(&e.field) {
        None if config.get(&e.field).is_some() => e,
        _ => ConfigError::new(format!("{place}.{}", e.field), e.reason),
    };
    rope.only("mrope_section", &Value::Null).map_err(inside)?;
    let theta = rope.positive("rope_theta").map_err(|e| match place {
        "rope_parameters" => inside(e),
        _ => e,
    })?;
    let context = config.size("max_position_embeddings", 1 << 30)?;
    let partial = rope.number("partial_rotary_factor", wanted.partial).map_err(inside)?;
    let dims = partial * wanted.dims as f64;
    if !(2.0..=wanted.dims as f64).contains(&dims) || !(dims as usize).is_multiple_of(2) {
        let reason = format!("leaves {dims} of {} channels, which must be an even number", wanted.dims);
        return Err(inside(ConfigError::new("partial_rotary_factor", reason)));
    }
    let dims = dims as usize;
    let known: &[&str] = if wanted.long { &["default", "yarn", "longrope"] } else { &["default", "yarn"] };
    let original = || -> Result<usize, ConfigError> {
        let key = "original_max_position_embeddings";
        match (config.get(key), rope.get(key)) {
            (Some(_), _) => config.size(key, 1 << 30),
            (None, Some(_)) => rope.size(key, 1 << 30).map_err(inside),
            (None, None) => Ok(context),
        }
    };
    let mut softmax = 1.0;
    let scaling = match rope.word("rope_type", known).map_err(inside)? {
        "yarn" => {
            let original_context = original()?;
            let factor = rope.number("factor", context as f64 / original_context as f64).map_err(inside)?;
            let mscale = |key| rope.number(key, 0.0).map_err(inside);
            let (some, all) = (mscale("mscale")?, mscale("mscale_all_dim")?);
            let amplitude = match some > 0.0 && all > 0.0 {
                true => magnitude(factor, some) / magnitude(factor, all),
                false => magnitude(factor, 1.0),
            };
            if all > 0.0 {
                softmax = magnitude(factor, all).powi(2);
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast: rope.number("beta_fast", 32.0).map_err(inside)?,
                beta_slow: rope.number("beta_slow", 1.0).map_err(inside)?,
                truncate: rope.flag("truncate", true).map_err(inside)?,
                amplitude: rope.number("attention_factor", amplitude).map_err(inside)?,
            }
        }
        "longrope" => RopeScaling::Long {
            original_context: original()?,
            divisors: rope.positives("short_factor", dims / 2).map_err(inside)?,
            short_amplitude: rope.positive("short_mscale").map_err(inside)?,
            long_amplitude: rope.positive("long_mscale").map_err(inside)?,
        },
        _ => RopeScaling::None,
    };
    Ok(Rotary { rope: Rope { theta, dims, pairs: wanted.pairs, scaling }, softmax })
}

/// YaRN, section 3.4: how much attention is sharpened when the context is stretched by `factor`.
fn magnitude(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
}

/// Both generations as one mapping, and the name of where it was found.
fn parameters(config: Config<'_>) -> Result<(&'static str, Map<String, Value>), ConfigError> {
    let object = |key: &'static str| match config.get(key) {
        None => Ok(None),
        Some(value) => match value.as_object() {
            Some(map) => Ok(Some(map.clone())),
            None => Err(ConfigError::new(key, format!("is {value} but must be an object"))),
        },
    };
    let (place, mut map) = match (object("rope_parameters")?, object("rope_scaling")?) {
        (Some(map), _) => ("rope_parameters", map),
        (None, Some(map)) => ("rope_scaling", map),
        (None, None) => ("rope_scaling", Map::new()),
    };
    if let (Some(word), None) = (map.get("type").cloned(), map.get("rope_type")) {
        map.insert("rope_type".into(), word);
    }
    for key in ["rope_theta", "partial_rotary_factor"] {
        if let (None, Some(value)) = (map.get(key), config.get(key)) {
            map.insert(key.into(), value.clone());
        }
    }
    Ok((place, map))
}
