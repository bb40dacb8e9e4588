//! `moepress doctor`: whether a recipe can run on this machine, before hours are spent on it.

use super::recipe::RecipeFile;
use super::{Context, Ending, gates};
use crate::args::{Threads, backend};
use crate::failure::{Failure, Reason};
use crate::output::{self, bytes};
use crate::place;
use crate::progress::Shown;
use moepress_bench::Roofline;
use moepress_checkpoint::{Checkpoint, Files, available_memory};
use moepress_nn::Backend;
use moepress_pipeline::{Plan, Rehearsal, Rehearse, plan, rehearse};
use moepress_recipe::Recipe;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  moepress doctor recipe.yaml
  moepress doctor
  moepress doctor recipe.yaml --out /data/result --json

With a recipe, also plans it, reads all of its text, and rehearses: measures what it measures first on the model's layers up \
to the first with experts and a few windows of the calibration. What it writes on the way, beside the output, it removes again. The exit \
code is that of the first check that failed, or 0.";

/// Check machine, devices, disk, and with a recipe whether it can run here
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Recipe file (YAML) that is meant to run
    #[arg(value_name = "RECIPE")]
    recipe: Option<PathBuf>,
    /// Change a value of the recipe, as for run; repeatable
    #[arg(long = "set", value_name = "PATH=VALUE", requires = "recipe")]
    sets: Vec<String>,
    /// Most resident memory, such as 2GiB; the same as --set limits.memory=SIZE
    #[arg(long, value_name = "SIZE", requires = "recipe")]
    max_memory: Option<String>,
    /// Output directory whose disk is looked at [default: as for run]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where calibration would compute: cpu, cuda or wgpu
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = backend)]
    device: Backend,
    #[command(flatten)]
    threads: Threads,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Good,
    /// Not there, and not needed.
    Absent,
    Failed,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
}

#[derive(Default)]
struct Checks {
    made: Vec<Check>,
    first: Option<Failure>,
}

impl Checks {
    fn add(&mut self, name: &'static str, result: Result<String, Failure>) {
        let (state, found) = match result {
            Ok(found) => (State::Good, found),
            Err(failure) => {
                let found = failure.message.clone();
                self.first.get_or_insert(failure);
                (State::Failed, found)
            }
        };
        self.made.push(Check { name, state, found });
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    checks: &'a [Check],
    roofline: Option<Roofline>,
    available_memory_bytes: Option<u64>,
    plan: Option<&'a Plan>,
    rehearsal: Option<&'a Rehearsal>,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        self.threads.start()?;
        let mut checks = Checks::default();
        let roofline = Roofline::measure(rayon::current_num_threads()).map_err(Failure::from);
        checks.add("processor", roofline.as_ref().map(speed).map_err(Failure::clone));
        let available = available_memory();
        checks.add("memory", Ok(format!("{} free", available.map_or("unknown".into(), bytes))));
        for backend in [Backend::Cuda, Backend::Wgpu] {
            let (name, found) = (if backend == Backend::Cuda { "cuda" } else { "wgpu" }, backend.device());
            match found {
                Err(error) if backend != self.device => {
                    checks.made.push(Check { name, state: State::Absent, found: error.to_string() });
                }
                found => {
                    checks.add(name, found.map(|_| "there is a device".to_owned()).map_err(Failure::from));
                }
            }
        }
        let recipe = match &self.recipe {
            Some(path) => {
                let (path, sets, max_memory) = (path.clone(), self.sets.clone(), self.max_memory.clone());
                Some(RecipeFile { path, sets, max_memory }.read(context)?)
            }
            None => None,
        };
        let written = recipe.as_ref().and_then(|recipe| recipe.output.as_deref());
        let named = self.recipe.as_deref().unwrap_or(Path::new("recipe"));
        let out = place::output(self.out.as_deref(), written, named);
        // Never in the output itself, which may be there.
        let folder = place::existing(out.parent().unwrap_or(&out));
        checks.add("disk", disk(context.files.as_ref(), &folder));
        let (mut planned, mut rehearsed) = (None, None);
        if let Some(recipe) = &recipe {
            match check_recipe(context, recipe, &out) {
                Ok(plan) => {
                    checks.add("recipe", Ok(format!("{} stages for a {}", plan.stages.len(), plan.family)));
                    checks.add("room in memory", room("memory", plan.peak_memory_bytes, available));
                    let free = context.files.free_space(&folder).ok();
                    checks.add("room on disk", room("disk", plan.disk_bytes + plan.spool_bytes, free));
                    planned = Some(plan);
                    let result = self.rehearse(context, recipe, &folder);
                    checks.add("rehearsal", result.as_ref().map(in_words).map_err(Failure::clone));
                    rehearsed = result.ok().flatten();
                }
                Err(failure) => checks.add("recipe", Err(failure)),
            }
        }
        if self.json {
            output::json(&Document {
                schema_version: 1,
                checks: &checks.made,
                roofline: roofline.ok(),
                available_memory_bytes: available,
                plan: planned.as_ref(),
                rehearsal: rehearsed.as_ref(),
            })?;
        } else {
            let line = |check: &Check| {
                let mark = match check.state {
                    State::Good => "ok",
                    State::Absent => "-",
                    State::Failed => "FAILED",
                };
                format!("{mark:<7} {:<14}  {}\n", check.name, check.found)
            };
            output::result(&checks.made.iter().map(line).collect::<String>())?;
        }
        Ok(checks.first.map_or(Ending::Done, Ending::ChecksFailed))
    }

    fn rehearse(
        &self,
        context: &Context,
        recipe: &Recipe,
        folder: &Path,
    ) -> Result<Option<Rehearsal>, Failure> {
        let progress = Shown::new(context);
        let job = Rehearse {
            files: &context.files,
            recipe,
            device: self.device.device()?,
            spool: folder.join(format!(".moepress-rehearsal-{}", std::process::id())),
        };
        Ok(rehearse(&job, &progress)?)
    }
}

fn speed(roofline: &Roofline) -> String {
    let rate =
        |what: &str, rate: Option<f64>| rate.map_or(String::new(), |rate| format!(", {rate:.0} {what}"));
    format!(
        "{} threads read {:.0} GB/s{}{}{}",
        roofline.threads,
        roofline.read_gb_per_s,
        rate("GFLOP/s in f32", roofline.fma_gflops),
        rate("in bf16", roofline.bf16_gflops),
        rate("Gop/s on bytes", roofline.int8_gops),
    )
}

/// Written, synced and removed.
const TRIED: usize = 32 << 20;

/// Writes a file as results are written, and removes it.
fn disk(files: &dyn Files, folder: &Path) -> Result<String, Failure> {
    let path = folder.join(format!(".moepress-doctor-{}", std::process::id()));
    let moved = path.with_extension("moved");
    let started = Instant::now();
    let tried = (|| {
        let mut file = files.create(&path)?;
        let block = vec![0x5a; 1 << 20];
        (0..TRIED / block.len()).try_for_each(|_| file.write(&block))?;
        file.sync()?;
        files.rename(&path, &moved)
    })();
    let seconds = started.elapsed().as_secs_f64();
    // Whichever of them is there.
    let _ = files.remove_file(&path);
    let _ = files.remove_file(&moved);
    let free = files.free_space(folder).map_or("unknown".to_owned(), bytes);
    let folder = folder.display();
    tried.map_err(|error| Failure::new(Reason::Fault, format!("{folder}: cannot write there: {error}")))?;
    Ok(format!("{folder}: {free} free, writes {:.0} MB/s", TRIED as f64 / 1e6 / seconds))
}

fn check_recipe(context: &Context, recipe: &Recipe, out: &Path) -> Result<Plan, Failure> {
    gates::check_written(recipe)?;
    place::apart(out, "model", &recipe.model)?;
    if out.exists() {
        return Err(Failure::usage(format!("{}: exists (choose another with --out)", out.display())));
    }
    Ok(plan(recipe, &Checkpoint::open(&context.files, &recipe.model)?)?.0)
}

fn room(what: &str, needed: u64, there: Option<u64>) -> Result<String, Failure> {
    let Some(there) = there else {
        return Ok(format!("{} needed, nobody knows what there is", bytes(needed)));
    };
    let said = format!("{} of {what} needed, {} free", bytes(needed), bytes(there));
    if there < needed { Err(Failure::new(Reason::NoSpace, said)) } else { Ok(said) }
}

fn in_words(rehearsal: &Option<Rehearsal>) -> String {
    let Some(Rehearsal { layers, of_layers, tokens, of_tokens, seconds, whole_seconds, .. }) = rehearsal
    else {
        return "the recipe measures nothing before it writes".to_owned();
    };
    let whole = match whole_seconds {
        ..100.0 => format!("{whole_seconds:.0} s"),
        100.0..6000.0 => format!("{:.0} min", whole_seconds / 60.0),
        _ => format!("{:.1} h", whole_seconds / 3600.0),
    };
    format!(
        "{tokens} of {of_tokens} tokens through {layers} of {of_layers} layers took {seconds:.1} s: the first measurement \
         takes about {whole}"
    )
}
