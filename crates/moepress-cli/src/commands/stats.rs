//! `moepress stats`: measures in shards, and adds what they measured.

use super::recipe::RecipeFile;
use super::{Context, Ending, model};
use crate::args::{Placed, Threads};
use crate::failure::Failure;
use crate::new_file::NewFile;
use crate::progress::Shown;
use crate::{output, place};
use clap::Subcommand;
use moepress_checkpoint::digest_of;
use moepress_pipeline::{Measure, Shard, StatisticsFile, StatisticsHeader, measure, merge};
use serde::Serialize;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  moepress stats recipes/demo.yaml --out all.safetensors
  moepress stats recipes/demo.yaml --shard 1/2 --out 1.safetensors
  moepress stats recipes/demo.yaml --shard 2/2 --out 2.safetensors
  moepress stats merge 1.safetensors 2.safetensors --out all.safetensors
  moepress run recipes/demo.yaml --statistics-from all.safetensors

Measures what the recipe measures first, on every n-th chunk of its calibration windows. Shards may be measured on \
different machines; added, they come to the same decisions as one run. A file is refused where model, text or \
version differ. The output file must not exist.";

const MERGE_EXAMPLES: &str = "\
Examples:
  moepress stats merge 1.safetensors 2.safetensors --out all.safetensors

The files must be of the same model, text, groups and version, and no shard may be in two. The output file must \
not exist.";

/// Measure a model in shards, or add what shards measured
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    recipe: Option<RecipeFile>,
    /// Measure shard i of n, i from 1
    #[arg(long, value_name = "i/n", default_value_t = Shard::WHOLE)]
    shard: Shard,
    /// File to write, which must not exist
    #[arg(long, value_name = "FILE", required = true)]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
    #[command(flatten)]
    placed: Placed,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Merge(MergeArgs),
}

/// Add the statistics of disjoint shards
#[derive(Debug, clap::Args)]
#[command(after_help = MERGE_EXAMPLES)]
struct MergeArgs {
    /// Statistics files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// File to write, which must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        let (recipe, out) = match (self.command, self.recipe, self.out) {
            (Some(Command::Merge(args)), ..) => return args.run(context),
            (None, Some(recipe), Some(out)) => (recipe, out),
            // clap asks for both before.
            _ => return Err(Failure::usage("name a recipe and --out, or files to merge")),
        };
        let recipe = recipe.read(context)?;
        place::apart(&out, "model", &recipe.model)?;
        let (device, _) = model::device(self.placed.device)?;
        self.threads.start()?;
        let file = NewFile::claim(&context.files, &out)?;
        let progress = Shown::new(context);
        // Beside the result: activations are large, and the file system of the result has room for it.
        let mut spool = out.clone().into_os_string();
        spool.push(format!(".spool-{}", std::process::id()));
        let job = Measure {
            files: &context.files,
            recipe: &recipe,
            needs: None,
            shard: self.shard,
            device,
            spool: spool.into(),
        };
        let measured = measure(&job, &progress)?;
        drop(progress);
        write(file, &measured, &out, self.json)
    }
}

impl MergeArgs {
    fn run(self, context: &Context) -> Result<Ending, Failure> {
        let file = NewFile::claim(&context.files, &self.out)?;
        let progress = Shown::new(context);
        let merged = merge(context.files.as_ref(), &self.files, &progress)?;
        drop(progress);
        write(file, &merged, &self.out, self.json)
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    output: String,
    sha256: &'a str,
    bytes: usize,
    /// Of the shards that are in the file.
    tokens: u64,
    complete: bool,
    header: &'a StatisticsHeader,
}

fn write(file: NewFile, statistics: &StatisticsFile, out: &Path, json: bool) -> Result<Ending, Failure> {
    let bytes = statistics.encode()?;
    file.write(&bytes)?;
    let header = &statistics.header;
    let document = Document {
        schema_version: 1,
        output: out.display().to_string(),
        sha256: &digest_of(&bytes),
        bytes: bytes.len(),
        tokens: statistics.tokens()? as u64,
        complete: header.is_complete(),
        header,
    };
    if json {
        output::json(&document)?;
    } else {
        let rows = [
            ("file", format!("{} ({})", document.output, output::bytes(bytes.len() as u64))),
            ("sha256", document.sha256.to_owned()),
            ("shards", header.shards_line()),
            ("tokens", document.tokens.to_string()),
            ("measured", header.groups_line()),
        ];
        let lines = rows.map(|(name, value)| format!("{name:<8}  {value}\n"));
        output::result(&lines.concat())?;
    }
    Ok(Ending::Done)
}
