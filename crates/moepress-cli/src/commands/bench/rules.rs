//! `moepress bench rules`: what routing by rules costs and gains.

use crate::args::Place;
use crate::args::{Threads, at_least};
use crate::commands::experts::Memory;
use crate::commands::rules::Rules;
use crate::commands::{Context, Ending, model};
use crate::failure::Failure;
use crate::output;
use moepress_bench::Named;
use moepress_model::ModelSpec;
use moepress_nn::Backend;
use moepress_runtime::Precision;
use moepress_runtime::rules::{Batch, Rule, Skip, TopP};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Measure what routing rules cost in quality and gain in speed
#[derive(Debug, clap::Args)]
pub(super) struct RulesArgs {
    /// Model directory, plain or compact
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Text that the model is scored on, a token at a time
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Sequences that advance together
    #[arg(long, value_name = "N", default_value = "4", value_parser = at_least(1, 256))]
    sequences: usize,
    /// Tokens of each
    #[arg(long, value_name = "N", default_value = "128", value_parser = at_least(2, 1 << 20))]
    tokens: usize,
    /// Compute in f32 throughout
    #[arg(long)]
    exact: bool,
    #[command(flatten)]
    memory: Memory,
    #[command(flatten)]
    threads: Threads,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    rules: Rules,
}

impl RulesArgs {
    pub(super) fn run(self, context: &Context) -> Result<Ending, Failure> {
        self.threads.start()?;
        let checkpoint = Arc::new(model::open(context, &self.path)?);
        let text = moepress_text::read_text(context.files.as_ref(), &self.text)?;
        let ids = model::tokenizer(context, &checkpoint)?.encode(&text)?;
        let sequences: Vec<Vec<u32>> =
            ids.chunks_exact(self.tokens).take(self.sequences).map(<[u32]>::to_vec).collect();
        if sequences.len() < self.sequences {
            let (path, needed) = (self.text.display(), self.sequences * self.tokens);
            return Err(Failure::usage(format!("{path} has {} tokens, {needed} are needed", ids.len())));
        }
        let mut model = model::load_within(context, &checkpoint, &self.memory, Place::On(Backend::Cpu))?;
        let named = self.named(context, model.spec())?;
        let precision = if self.exact { Precision::Exact } else { Precision::Fast };
        let result = moepress_bench::rules(&mut model, &sequences, named, precision)?;
        if self.json {
            let model = self.path.display().to_string();
            output::json(&json!({ "schema_version": 1, "model": model, "result": result }))?;
            return Ok(Ending::Done);
        }
        let head = ["rule", "tokens per second", "experts a step", "NLL", "increase"];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        if model.cache_report().is_some() {
            table[0].extend(["read a step", "by high bits"].map(str::to_owned));
        }
        table.extend(result.iter().map(|ruled| {
            let mut row = vec![
                ruled.rule.clone(),
                format!("{:.1}", ruled.tokens_per_second),
                format!("{:.2}", ruled.experts_per_step),
                format!("{:.4}", ruled.nll),
                format!("{:+.4}", ruled.nll_increase),
            ];
            row.extend(ruled.bytes_per_step.map(|bytes| output::bytes(bytes as u64)));
            row.extend(ruled.by_high_bits.map(|share| format!("{:.1} %", 100.0 * share)));
            row
        }));
        output::result(&output::table(&table))?;
        Ok(Ending::Done)
    }

    /// Every rule at several strengths, and those of the command line together.
    fn named(&self, context: &Context, spec: &ModelSpec) -> Result<Vec<Named>, Failure> {
        let mut named: Vec<Named> = vec![("none".to_owned(), vec![])];
        let one = |name: String, rule: Box<dyn Rule>| (name, vec![rule]);
        named.extend([0.9, 0.7, 0.5].map(|p| one(format!("experts top-p {p}"), Box::new(TopP(p)))));
        named.extend([0.2, 0.4, 0.6].map(|s| one(format!("skip below {s}"), Box::new(Skip(s)))));
        let top_k = spec.moe_layers().map(|(_, moe)| moe.routing.top_k).max().unwrap_or(1);
        let rows = [3 * top_k, 2 * top_k, top_k];
        named.extend(rows.map(|rows| one(format!("{rows} rows a pass"), Box::new(Batch(rows)))));
        if let Some(profile) = self.rules.profile(context, spec)? {
            named.push(one(format!("profile of {} experts", profile.len()), Box::new(profile)));
        }
        let given = self.rules.build(context, spec)?;
        if !given.is_empty() {
            named.push(("as given".to_owned(), given));
        }
        Ok(named)
    }
}
