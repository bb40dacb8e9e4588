//! `moepress schema`: what editors complete recipes from.

use super::{Context, Ending};
use crate::failure::Failure;
use crate::output;
use moepress_pipeline::recipe_schema;

const EXAMPLES: &str = "\
Examples:
  moepress schema > recipe.schema.json

An editor with a YAML language server completes and checks a recipe that begins with
  # yaml-language-server: $schema=recipe.schema.json
It knows the keys, words and ranges of this build; what depends on a model, `moepress plan` checks.";

/// Print the JSON Schema of recipes
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print as JSON, which it does anyway
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self, _: &Context) -> Result<Ending, Failure> {
        output::json(&recipe_schema())?;
        Ok(Ending::Done)
    }
}
