//! `moepress plan`: what a recipe would do, from headers alone.

use super::recipe::RecipeFile;
use super::{Context, Ending, gates};
use crate::args::Threads;
use crate::failure::{Failure, Reason};
use crate::{output, place};
use moepress_checkpoint::{Checkpoint, available_memory};
use moepress_model::Class;
use moepress_pipeline::{Plan, Sizes, plan};
use serde::Serialize;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  moepress plan recipes/demo.yaml
  moepress plan recipes/demo.yaml --set assign_bits.bpw=3
  moepress plan recipes/demo.yaml --json

Reads headers only and writes nothing. Sizes after stages that choose by measurements are expectations.";

/// Kinds of walks over the layers, in the order they happen.
const WALKS: [&str; 4] = ["forward", "backward", "weights only", "evaluation"];

/// Show what a recipe would do: bytes, walks over the model, memory, disk
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    recipe: RecipeFile,
    /// Output directory whose disk is looked at
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    model: String,
    output: String,
    #[serde(flatten)]
    plan: &'a Plan,
    available_memory_bytes: Option<u64>,
    free_disk_bytes: u64,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        let recipe = self.recipe.read(context)?;
        gates::check_written(&recipe)?;
        let out = place::output(self.out.as_deref(), recipe.output.as_deref(), &self.recipe.path);
        place::apart(&out, "model", &recipe.model)?;
        self.threads.start()?;
        let (plan, _) = plan(&recipe, &Checkpoint::open(&context.files, &recipe.model)?)?;
        let free = context.files.free_space(&place::existing(&out)).map_err(|error| {
            Failure::new(Reason::Fault, format!("{}: cannot ask for free space: {error}", out.display()))
        })?;
        let document = Document {
            schema_version: 1,
            model: recipe.model.display().to_string(),
            output: out.display().to_string(),
            plan: &plan,
            available_memory_bytes: available_memory(),
            free_disk_bytes: free,
        };
        match self.json {
            true => output::json(&document)?,
            false => output::result(&text(&document, &out))?,
        }
        Ok(Ending::Done)
    }
}

fn text(document: &Document<'_>, out: &Path) -> String {
    let plan = document.plan;
    let mut lines = vec![
        format!("model   {} ({})", document.model, plan.family),
        format!(
            "output  {}{}",
            document.output,
            if out.exists() { " (exists: choose another with --out)" } else { "" }
        ),
    ];
    lines.extend(plan.notes.iter().map(|note| format!("note    {note}")));
    lines.extend([String::new(), "stages".to_owned()]);
    for (index, stage) in plan.stages.iter().enumerate() {
        lines.push(format!("  {} {}", index + 1, stage.what));
        if !stage.measures.is_empty() {
            lines.push(format!("    before it, measures {}", stage.measures.join(", ")));
        }
    }
    lines.push(String::new());
    lines.push(output::table(&sizes(plan)));
    let walked =
        |what| plan.walks.get(what).filter(|&&count| count > 0).map(|count| format!("{count} {what}"));
    let walks: Vec<String> = WALKS.into_iter().filter_map(walked).collect();
    lines.push(format!("walks   {}", walks.join(", ")));
    let available = document.available_memory_bytes;
    let memory = available.map_or("unknown".into(), output::bytes);
    let peak = plan.peak_memory_bytes;
    let short = if available.is_some_and(|available| available < peak) { " (not enough)" } else { "" };
    lines.push(format!("memory  {} at the peak, {memory} available{short}", output::bytes(peak)));
    let short =
        if document.free_disk_bytes < plan.disk_bytes + plan.spool_bytes { " (not enough)" } else { "" };
    let (disk, free) = (output::bytes(plan.disk_bytes), output::bytes(document.free_disk_bytes));
    let spool = match plan.spool_bytes {
        0 => String::new(),
        bytes => format!(" and {} for activations on the way", output::bytes(bytes)),
    };
    lines.push(format!("disk    {disk} for the output{spool}, {free} free{short}\n"));
    lines.join("\n")
}

/// Classes of tensors down, the original and the stages across.
fn sizes(plan: &Plan) -> Vec<Vec<String>> {
    let columns: Vec<&Sizes> =
        [&plan.before].into_iter().chain(plan.stages.iter().map(|s| &s.after)).collect();
    let row = |head: &str, cell: &dyn Fn(&Sizes) -> String| {
        [head.to_owned()].into_iter().chain(columns.iter().map(|sizes| cell(sizes))).collect::<Vec<_>>()
    };
    let mut stages = 0..;
    let mut heads = vec!["bytes".to_owned()];
    heads.extend(columns.iter().map(|_| match stages.next() {
        Some(stage @ 1..) => format!("after {stage}"),
        _ => "original".to_owned(),
    }));
    let mut rows = vec![heads];
    for class in Class::ALL.map(Class::name) {
        if plan.before.classes.contains_key(class) {
            rows.push(row(class, &|sizes| {
                output::bytes(sizes.classes.get(class).map_or(0, |size| size.bytes))
            }));
        }
    }
    rows.push(row("total", &|sizes| output::bytes(sizes.total.bytes)));
    rows.push(row("weights", &|sizes| sizes.total.weights.to_string()));
    rows.push(row("bits per weight", &|sizes| format!("{:.3}", sizes.bpw)));
    rows
}
