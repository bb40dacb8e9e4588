//! Options that change where tokens go while a model runs.

use super::{Context, experts};
use crate::args::at_least;
use crate::failure::Failure;
use moepress_model::ModelSpec;
use moepress_runtime::rules::{Batch, Profile, Rule, Skip, TopP};
use std::path::PathBuf;

/// What routes tokens besides the routers. Each option costs quality: `moepress bench rules` measures how much.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Routing")]
pub struct Rules {
    /// Per token only the likeliest experts that together have this share of its gates
    #[arg(long, value_name = "SHARE", value_parser = share)]
    experts_top_p: Option<f64>,
    /// Skip experts whose gate is below this share of the token's largest
    #[arg(long, value_name = "SHARE", value_parser = share)]
    skip_below: Option<f64>,
    /// Use at most this many router rows per layer for all tokens that run at once
    #[arg(long, value_name = "N", value_parser = at_least(1, 1 << 16))]
    experts_per_pass: Option<usize>,
    /// Restrict experts to those that a task used: a file of generate --record-experts
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Share of the gate mass in the profile that the experts left must have had
    #[arg(long, value_name = "SHARE", default_value = "0.9", value_parser = share, requires = "profile")]
    profile_share: f64,
}

/// Above 0 and up to 1.
fn share(word: &str) -> Result<f64, String> {
    match word.parse() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("must be a number above 0 and at most 1".to_owned()),
    }
}

impl Rules {
    /// The rules for a model of this shape.
    pub fn build(&self, context: &Context, spec: &ModelSpec) -> Result<Vec<Box<dyn Rule>>, Failure> {
        let mut rules: Vec<Box<dyn Rule>> = Vec::new();
        if let Some(profile) = self.profile(context, spec)? {
            rules.push(Box::new(profile));
        }
        rules.extend(self.experts_top_p.map(|share| Box::new(TopP(share)) as Box<dyn Rule>));
        rules.extend(self.skip_below.map(|share| Box::new(Skip(share)) as Box<dyn Rule>));
        rules.extend(self.experts_per_pass.map(|rows| Box::new(Batch(rows)) as Box<dyn Rule>));
        Ok(rules)
    }

    /// The experts of a task.
    pub fn profile(&self, context: &Context, spec: &ModelSpec) -> Result<Option<Profile>, Failure> {
        let Some(path) = &self.profile else { return Ok(None) };
        Ok(Some(Profile::new(spec, &experts::read(context, path, spec)?, self.profile_share)))
    }
}
