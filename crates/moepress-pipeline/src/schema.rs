//! The JSON Schema of recipes.

use moepress_stages::STAGES;
use serde::Serialize;

/// The schema of a recipe with all stages there are, from the code that reads them.
pub fn recipe_schema() -> impl Serialize {
    // What a stage makes of nothing does not matter, only what it asks for.
    let stages: Vec<_> = STAGES
        .iter()
        .map(|(name, build)| (*name, moepress_recipe::stage_schema(name, &|spec| drop(build(spec)))))
        .collect();
    moepress_recipe::schema(&stages)
}
