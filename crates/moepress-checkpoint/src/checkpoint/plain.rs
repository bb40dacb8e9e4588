//! Opening a plain checkpoint: `config.json` beside safetensors files with the names of its family.

use super::{CONFIG, Checkpoint, Layout, MIB, carried};
use crate::location::{Encoding, Location};
use crate::{CheckpointError, Files, Shards, read_json};
use moepress_model::{Config, ConfigError, ModelSpec, Part, Tensor, family};
use moepress_quant::Format;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Buffers that older versions of `transformers` saved; they follow from the configuration.
const BUFFER: &str = "rotary_emb.inv_freq";

impl Checkpoint {
    pub(super) fn open_plain(files: &Arc<dyn Files>, dir: &Path) -> Result<Self, CheckpointError> {
        let path = dir.join(CONFIG);
        let config: Map<String, Value> = read_json(files.as_ref(), &path, MIB)?;
        let config = Config(&config);
        let bad =
            |e: ConfigError| CheckpointError::bad_input(&path, &format!("field `{}`", e.field), e.reason);
        let family = family(config).map_err(bad)?;
        let mut spec = (family.spec)(config).map_err(bad)?;
        spec.validate().map_err(|e| CheckpointError::bad_input(&path, "sizes", e))?;
        let extra = carried::extra_layers(config).map_err(bad)?;
        let shards = Shards::open(files, dir)?;
        let names = shards.tensors().map(|(name, _)| name);
        let mut rest: BTreeSet<&str> = names.filter(|name| !name.contains(BUFFER)).collect();
        let mut locations = BTreeMap::new();
        for tensor in spec.tensors() {
            let location = locate(&shards, &spec, tensor, &(family.places)(tensor))?;
            for name in location.names() {
                rest.remove(name.as_str());
            }
            spec.set_format(tensor, Format::Plain(location.dtype()));
            locations.insert(tensor, location);
        }
        for name in rest {
            if !carried::is_extra(name, spec.layers.len(), extra) {
                let reason = format!("is not a tensor of the {} model that {CONFIG} describes", spec.family);
                return Err(shards.bad_tensor(name, reason));
            }
            spec.carried.insert(name.to_owned(), carried::describe(shards.info(name)?));
        }
        let notes = shards.notes().iter().cloned().chain(notes(config, &locations)).collect();
        let (files, dir) = (files.clone(), dir.to_owned());
        Ok(Self { files, dir, spec, shards, layout: Layout::Plain(locations), notes })
    }
}

fn locate(
    shards: &Shards,
    spec: &ModelSpec,
    tensor: Tensor,
    places: &[moepress_model::Place],
) -> Result<Location, CheckpointError> {
    let experts = tensor.layer().and_then(|layer| spec.moe(layer)).map_or(0, |moe| moe.experts.len());
    let location = Location::find(shards, places, &spec.shape(tensor).unwrap_or_default(), experts)?;
    // The biases of a layer's experts share one entry in the table of formats.
    if let Tensor::Layer(_, Part::ExpertBias { .. } | Part::ExpertOutputBias { .. }) = tensor
        && let Some(Format::Plain(others)) = spec.format(tensor)
        && others != location.dtype()
    {
        let reason = "has another dtype than other biases of these experts";
        return Err(shards.bad_tensor(&location.names()[0], reason));
    }
    Ok(location)
}

/// What is worth knowing about how the model was read, one line each.
fn notes(config: Config<'_>, locations: &BTreeMap<Tensor, Location>) -> Vec<String> {
    let mut notes = Vec::new();
    if config.get("auto_map").is_some() {
        notes.push(format!("{CONFIG} names custom code (auto_map): it is never run"));
    }
    for (encoding, name) in [(Encoding::Fp8, "FP8"), (Encoding::Mxfp4, "MXFP4")] {
        if locations.values().any(|location| location.encoding() == encoding) {
            notes.push(format!("weights are stored in {name} blocks and are read as bf16"));
        }
    }
    notes
}
