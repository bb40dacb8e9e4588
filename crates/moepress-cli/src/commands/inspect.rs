//! `moepress inspect`: what a checkpoint is.

use super::{Context, Ending};
use crate::failure::Failure;
use crate::output;
use moepress_checkpoint::{Checkpoint, Source};
use moepress_model::{Class, ModelSpec};
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
    hidden: usize,
    vocabulary: usize,
    context: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    tied_embeddings: bool,
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
            false => output::result(&text(&document))?,
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
            hidden: spec.hidden,
            vocabulary: spec.vocab,
            context: spec.context,
            heads: spec.attention.heads,
            kv_heads: spec.attention.kv_heads,
            head_dim: spec.attention.head_dim,
            tied_embeddings: spec.tied_embeddings,
            size: Sizes::of(spec),
            formats: formats(spec),
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

fn range(values: impl Iterator<Item = usize>) -> Option<Range> {
    values.fold(None, |range, value| {
        let Range { least, most } = range.unwrap_or(Range { least: value, most: value });
        Some(Range { least: least.min(value), most: most.max(value) })
    })
}

fn formats(spec: &ModelSpec) -> BTreeMap<String, FormatUse> {
    let mut formats: BTreeMap<String, FormatUse> = BTreeMap::new();
    for tensor in spec.tensors() {
        let Some(format) = spec.format(tensor) else { continue };
        let used = formats.entry(format.to_string()).or_default();
        used.tensors += 1;
        used.weights += spec.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>() as u64);
        used.bytes += spec.stored_bytes(tensor);
    }
    formats
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.least == self.most {
            true => write!(f, "{}", self.least),
            false => write!(f, "{}–{}", self.least, self.most),
        }
    }
}

fn text(model: &Document<'_>) -> String {
    let mut facts = vec![
        format!("path        {}", model.path),
        match &model.compact {
            None => format!("family      {}, plain checkpoint", model.family),
            Some(c) => format!(
                "family      {}, compact checkpoint, format version {}, written by {}",
                model.family, c.format_version, c.written_by
            ),
        },
        format!("layers      {}, {} of them with experts", model.layers, model.moe_layers),
    ];
    if let (Some(experts), Some(rows), Some(top), Some(width)) =
        (model.experts, model.router_rows, model.experts_per_token, model.expert_width)
    {
        let rows = if (rows.least, rows.most) == (experts.least, experts.most) {
            String::new()
        } else {
            format!(" behind {rows} router rows")
        };
        facts.push(format!("experts     {experts} per layer{rows}, {top} per token, {width} channels wide"));
    }
    facts.push(format!(
        "widths      hidden {}, vocabulary {}{}, context {}",
        model.hidden,
        model.vocabulary,
        if model.tied_embeddings { " (head tied)" } else { "" },
        model.context
    ));
    facts.push(format!(
        "attention   {} query heads, {} key/value heads, {} channels each",
        model.heads, model.kv_heads, model.head_dim
    ));
    facts.extend(model.notes.iter().map(|note| format!("note        {note}")));
    let size = |head: &str, weights: u64, bytes: u64| {
        let bpw = 8.0 * bytes as f64 / weights.max(1) as f64;
        vec![
            head.to_owned(),
            weights.to_string(),
            bytes.to_string(),
            output::bytes(bytes),
            format!("{bpw:.3}"),
        ]
    };
    let heads = |first: &str| [first, "weights", "bytes", "", "bpw"].map(str::to_owned).to_vec();
    let mut classes = vec![heads("class")];
    for class in Class::ALL.map(Class::name) {
        if let Some(found) = model.size.classes.get(class) {
            classes.push(size(class, found.weights, found.bytes));
        }
    }
    classes.push(size("total", model.size.total.weights, model.size.total.bytes));
    let mut formats = vec![heads("format")];
    formats[0].insert(1, "tensors".to_owned());
    for (name, used) in &model.formats {
        let mut row = size(name, used.weights, used.bytes);
        row.insert(1, used.tensors.to_string());
        formats.push(row);
    }
    let mut text =
        format!("{}\n\n{}\n{}", facts.join("\n"), output::table(&classes), output::table(&formats));
    if let Some(compact) = &model.compact {
        text += &inputs(compact);
    }
    text
}

fn inputs(compact: &Compact<'_>) -> String {
    let mut text = "\nmade from (SHA-256)\n".to_owned();
    for (kind, files) in compact.inputs {
        let rows = files.iter().map(|(name, digest)| vec![format!("  {kind} {name}"), digest.clone()]);
        text += &output::table(&rows.collect::<Vec<_>>());
    }
    if compact.verified {
        text += &format!("\nverified: all {} files match their digests\n", compact.files);
    }
    text
}
