//! A recipe: YAML in, checked intent out. The only crate that knows YAML.
//!
//! [`parse`] checks everything but the parameters of the stages; those are read by the stages themselves through
//! [`Params`], whose errors point at the line of the recipe or at the `--set` that holds the value.
//!
//! ```yaml
//! version: 1
//! model: models/qwen3-moe                # relative to the recipe file
//! mtp: drop                              # or keep: layers that predict several tokens, which are never run
//! limits: {memory: 2GiB}                 # most resident memory; a run that cannot keep to it is refused
//! calibration: {files: [novel.txt], window: 256, windows: 16}
//! stages:
//!   - prune_atoms: {method: heapr, ratio: 0.25}
//!   - quantize: {format: int4, group: 64}
//! evaluate: {files: [held_out.txt], window: 256, windows: 24}
//! gates: {fail_if: ["ppl_ratio > 1.03"]} # the result is written all the same, and the command fails
//! output: out/small                      # relative to the current directory
//! ```

mod coverage;
mod error;
mod guard;
mod locate;
mod params;
mod path;
mod recipe;
mod schema;
mod set;
mod size;
mod source;
mod sweep;
#[cfg(test)]
mod tests;
mod texts;
mod tree;

pub use coverage::{BelowMinTokens, Coverage};
pub use error::{RecipeError, unknown_word};
pub use guard::MAX_BYTES;
pub use params::Params;
pub use recipe::{Gates, Limits, Mtp, Recipe, StageSpec, parse};
pub use schema::{schema, stage_schema};
pub use size::size_in_bytes;
pub use sweep::{Curve, Point, Sweep, parse_sweep};
pub use texts::{Bos, Protocol, TextFile, TextForm, TextSpec};
