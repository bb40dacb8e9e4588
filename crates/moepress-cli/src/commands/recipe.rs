//! The recipe that a command was given.

use super::Context;
use crate::failure::{Failure, Reason};
use clap::Args;
use moepress_checkpoint::{CheckpointError, read_file};
use moepress_recipe::{MAX_BYTES, Recipe, Sweep, parse, parse_sweep};
use std::path::PathBuf;

/// A recipe file and changes to it.
#[derive(Debug, Args)]
pub struct RecipeFile {
    /// Recipe file (YAML)
    #[arg(value_name = "RECIPE")]
    pub path: PathBuf,
    /// Change a value of the recipe, such as prune_atoms.ratio=0.5 or stages[0].prune_atoms.ratio=0.5; repeatable
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub sets: Vec<String>,
    /// Most resident memory, such as 2GiB; the same as --set limits.memory=SIZE
    #[arg(long, value_name = "SIZE")]
    pub max_memory: Option<String>,
}

impl RecipeFile {
    /// Reads and checks it. Whatever is wrong with it is wrong usage.
    pub fn read(&self, context: &Context) -> Result<Recipe, Failure> {
        let (text, sets) = self.text(context)?;
        Ok(parse(&text, &self.path, &sets)?)
    }

    /// The same of several lists of stages at these budgets.
    pub fn read_sweep(&self, context: &Context, budgets: &[String]) -> Result<Sweep, Failure> {
        let (text, sets) = self.text(context)?;
        Ok(parse_sweep(&text, &self.path, &sets, budgets)?)
    }

    /// The recipe as written, and the changes to it.
    fn text(&self, context: &Context) -> Result<(String, Vec<String>), Failure> {
        let usage = |error: CheckpointError| Failure { reason: Reason::Usage, ..error.into() };
        let bytes = read_file(context.files.as_ref(), &self.path, MAX_BYTES as u64).map_err(usage)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Failure::usage(format!("{}: not UTF-8 at byte {at}", self.path.display()))
        })?;
        let limit = self.max_memory.iter().map(|size| format!("limits.memory={size}"));
        Ok((text, self.sets.iter().cloned().chain(limit).collect()))
    }
}
