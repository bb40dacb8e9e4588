//! `moepress inspect`: what a checkpoint is.

mod text;
mod words;

use super::{Context, Ending};
use crate::failure::Failure;
use crate::output;
use moepress_checkpoint::{Checkpoint, Source};
use moepress_model::{Activation, Attention, Mlp, ModelSpec, Norm, Routing, Scales, Shared};
use moepress_pipeline::Sizes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  moepress inspect tests/fixtures/demo-qwen3-moe
  moepress inspect out/demo --verify
  moepress inspect out/demo --json

Reads headers only. --verify reads every file of a compact checkpoint and compares it with its digest.";

/// Show what a plain or compact checkpoint is: family, layers, experts, formats, bytes
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model directory
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Compare every file of a compact checkpoint with its digest
    #[arg(long)]
    verify: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Least and most over layers or experts.
#[derive(Serialize, Clone, Copy)]
struct Range {
    least: usize,
    most: usize,
}

#[derive(Serialize, Default)]
struct FormatUse {
    tensors: usize,
    weights: u64,
    bytes: u64,
}

/// What layers with experts have in common, and which those are.
#[derive(Serialize)]
struct Mixture<'a> {
    layers: Vec<usize>,
    routing: &'a Routing,
    activation: Activation,
    expert_biases: bool,
    shared_expert: Option<Shared>,
}

#[derive(Serialize)]
struct Compact<'a> {
    format_version: u64,
    written_by: &'a str,
    inputs: &'a BTreeMap<String, BTreeMap<String, String>>,
    files: usize,
    /// Whether all digests were compared; a mismatch is an error.
    verified: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    path: String,
    family: &'a str,
    /// What is worth knowing about how it is read.
    notes: &'a [String],
    layers: usize,
    moe_layers: usize,
    experts: Option<Range>,
    router_rows: Option<Range>,
    experts_per_token: Option<Range>,
    expert_width: Option<Range>,
    experts_by_layer: Vec<usize>,
    mixtures: Vec<Mixture<'a>>,
    /// Of MLPs in layers without experts.
    dense_width: Option<Range>,
    hidden: usize,
    vocabulary: usize,
    context: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    attention: &'a Attention,
    /// The last tokens that a token of each layer attends to; null where all.
    window_by_layer: Vec<Option<usize>>,
    norm: Norm,
    scales: Scales,
    tied_embeddings: bool,
    head_bias: bool,
    end_tokens: &'a [u32],
    size: Sizes,
    formats: BTreeMap<String, FormatUse>,
    compact: Option<Compact<'a>>,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        let checkpoint = Checkpoint::open(&context.files, &self.path)?;
        if self.verify {
            match checkpoint.manifest() {
                Some(_) => checkpoint.verify()?,
                None => output::stderr("note: a plain checkpoint has no digests to compare with"),
            }
        }
        let document = self.document(&checkpoint);
        match self.json {
            true => output::json(&document)?,
            false => output::result(&text::text(&document))?,
        }
        Ok(Ending::Done)
    }

    fn document<'a>(&self, checkpoint: &'a Checkpoint) -> Document<'a> {
        let spec = checkpoint.spec();
        let moes = || spec.moe_layers().map(|(_, moe)| moe);
        let experts = |layer| spec.moe(layer).map_or(0, |moe| moe.experts.len());
        Document {
            schema_version: 1,
            path: self.path.display().to_string(),
            family: &spec.family,
            notes: checkpoint.notes(),
            layers: spec.layers.len(),
            moe_layers: moes().count(),
            experts: range(moes().map(|moe| moe.experts.len())),
            router_rows: range(moes().map(|moe| moe.router.len())),
            experts_per_token: range(moes().map(|moe| moe.routing.top_k)),
            expert_width: range(moes().flat_map(|moe| &moe.experts).map(|expert| expert.width())),
            experts_by_layer: (0..spec.layers.len()).map(experts).collect(),
            mixtures: mixtures(spec),
            dense_width: range(spec.layers.iter().filter_map(|layer| match layer.mlp {
                Mlp::Dense { width, .. } => Some(width),
                Mlp::Moe(_) => None,
            })),
            hidden: spec.hidden,
            vocabulary: spec.vocab,
            context: spec.context,
            heads: spec.attention.heads,
            kv_heads: spec.attention.kv_heads,
            head_dim: spec.attention.head_dim,
            attention: &spec.attention,
            window_by_layer: spec.layers.iter().map(|layer| layer.window).collect(),
            norm: spec.norm,
            scales: spec.scales,
            tied_embeddings: spec.tied_embeddings,
            head_bias: spec.head_bias,
            end_tokens: &spec.end_tokens,
            size: Sizes::on_disk(checkpoint),
            formats: formats(checkpoint),
            compact: checkpoint.manifest().map(|manifest| Compact {
                format_version: manifest.format_version,
                written_by: &manifest.written_by,
                inputs: &manifest.inputs,
                files: manifest.files.len(),
                verified: self.verify,
            }),
        }
    }
}

/// The kinds of mixtures, in the order of their first layers.
fn mixtures(spec: &ModelSpec) -> Vec<Mixture<'_>> {
    let mut kinds: Vec<Mixture<'_>> = vec![];
    for (layer, moe) in spec.moe_layers() {
        let same = |kind: &&mut Mixture<'_>| {
            *kind.routing == moe.routing
                && kind.activation == moe.activation
                && (kind.expert_biases, kind.shared_expert) == (moe.biases, moe.shared)
        };
        match kinds.iter_mut().find(same) {
            Some(kind) => kind.layers.push(layer),
            None => kinds.push(Mixture {
                layers: vec![layer],
                routing: &moe.routing,
                activation: moe.activation,
                expert_biases: moe.biases,
                shared_expert: moe.shared,
            }),
        }
    }
    kinds
}

fn range(values: impl Iterator<Item = usize>) -> Option<Range> {
    values.fold(None, |range, value| {
        let Range { least, most } = range.unwrap_or(Range { least: value, most: value });
        Some(Range { least: least.min(value), most: most.max(value) })
    })
}

fn formats(checkpoint: &Checkpoint) -> BTreeMap<String, FormatUse> {
    let spec = checkpoint.spec();
    let mut formats: BTreeMap<String, FormatUse> = BTreeMap::new();
    for tensor in spec.tensors() {
        let Some(format) = checkpoint.disk_format(tensor) else { continue };
        let used = formats.entry(format).or_default();
        used.tensors += 1;
        used.weights += spec.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>() as u64);
        used.bytes += checkpoint.disk_bytes(tensor);
    }
    for carried in spec.carried.values() {
        let used = formats.entry(format!("{}, carried", carried.dtype.to_lowercase())).or_default();
        used.tensors += 1;
        used.weights += carried.shape.iter().product::<usize>() as u64;
        used.bytes += carried.bytes;
    }
    formats
}
