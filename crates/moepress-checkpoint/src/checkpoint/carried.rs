//! Tensors that belong to a checkpoint and are never run: layers that predict several tokens (DeepSeek-V3,
//! arXiv 2412.19437, section 2.2).

use crate::{CheckpointError, Shards, TensorInfo};
use moepress_model::{Carried, Config, ConfigError};
use std::collections::BTreeMap;

/// Keys that say how many such layers follow the others.
const KEYS: [&str; 2] = ["num_nextn_predict_layers", "num_mtp_modules"];
const MOST: usize = 1 << 12;

/// How many layers beyond those of the model its files may hold.
pub(super) fn extra_layers(config: Config<'_>) -> Result<usize, ConfigError> {
    let count = |key: &&str| match config.get(key).map(|value| (value, value.as_u64())) {
        None => Ok(0),
        Some((_, Some(n))) if n <= MOST as u64 => Ok(n as usize),
        Some((value, _)) => {
            Err(ConfigError::new(*key, format!("is {value} but must be an integer from 0 to {MOST}")))
        }
    };
    KEYS.iter().map(count).try_fold(0, |most, count| Ok(most.max(count?)))
}

/// Whether a tensor that is none of the model's belongs to such a layer.
pub(super) fn is_extra(name: &str, layers: usize, extra: usize) -> bool {
    let layer = || name.strip_prefix("model.layers.")?.split_once('.')?.0.parse::<usize>().ok();
    name.starts_with("mtp.") || layer().is_some_and(|layer| (layers..layers + extra).contains(&layer))
}

/// What the description of a model says of such a tensor.
pub(super) fn describe(info: &TensorInfo) -> Carried {
    Carried {
        dtype: info.dtype.to_string(),
        shape: info.shape.clone(),
        bytes: info.range.end - info.range.start,
    }
}

/// Checks that the files hold what a description says is carried along.
///
/// # Errors
/// The first tensor that is missing or another.
pub(super) fn check(shards: &Shards, carried: &BTreeMap<String, Carried>) -> Result<(), CheckpointError> {
    for (name, wanted) in carried {
        let found = describe(shards.info(name)?);
        if found != *wanted {
            let show = |c: &Carried| format!("{} {:?} of {} bytes", c.dtype, c.shape, c.bytes);
            return Err(shards.bad_tensor(name, format!("{} instead of {}", show(&found), show(wanted))));
        }
    }
    Ok(())
}
