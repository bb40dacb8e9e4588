//! `moepress bench cache`: what policies make of a recorded trace.

use super::super::{Context, Ending, experts};
use crate::failure::Failure;
use crate::output;
use moepress_checkpoint::{Checkpoint, Source};
use moepress_recipe::size_in_bytes;
use moepress_runtime::{ExpertId, POLICIES, Replayed, belady, expert_bytes, replay};
use serde::Serialize;
use serde_json::json;
use std::path::PathBuf;

/// Replay which experts were used, under every policy and the best that could have been done
#[derive(Debug, clap::Args)]
pub struct CacheArgs {
    /// Model directory, plain or compact
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Uses to replay: a file of generate --record-experts
    #[arg(long, value_name = "FILE")]
    uses: PathBuf,
    /// Bytes of experts in memory; repeatable [default: a quarter and a half of all]
    #[arg(long = "expert-bytes", value_name = "SIZE", value_parser = size_in_bytes)]
    budgets: Vec<u64>,
    /// Uses before, for the policies pinned and hit-density
    #[arg(long, value_name = "FILE")]
    used_before: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// One policy under one budget.
#[derive(Serialize)]
struct Replay {
    expert_bytes: u64,
    policy: &'static str,
    uses: u64,
    /// Uses whose expert was in memory since an earlier use.
    kept: u64,
    /// Uses whose expert had been read ahead; none where nothing is read ahead.
    ahead: Option<u64>,
    /// Experts read ahead.
    read_ahead: Option<u64>,
    /// Hits, of those that the best cache has that reads nothing ahead; with experts read ahead more than one is possible.
    of_best: f64,
    bytes_read: u64,
}

impl Replay {
    fn cells(&self) -> Vec<String> {
        let share = |part: u64, of: u64| format!("{:.1} %", 100.0 * part as f64 / of.max(1) as f64);
        let (ahead, used) = match (self.ahead, self.read_ahead) {
            (Some(ahead), Some(read)) => (share(ahead, self.uses), share(ahead, read)),
            _ => (String::new(), String::new()),
        };
        vec![
            self.policy.to_owned(),
            output::bytes(self.expert_bytes),
            share(self.kept, self.uses),
            ahead,
            format!("{:.2}", self.of_best),
            output::bytes(self.bytes_read),
            used,
        ]
    }
}

impl CacheArgs {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        let checkpoint = Checkpoint::open(&context.files, &self.path)?;
        let spec = checkpoint.spec();
        let trace = experts::read(context, &self.uses, spec)?;
        let before = self.used_before.as_ref().map(|path| experts::read(context, path, spec)).transpose()?;
        let sizes = expert_bytes(spec);
        let all: u64 = sizes.iter().flatten().sum();
        let budgets = if self.budgets.is_empty() { vec![all / 4, all / 2] } else { self.budgets };
        let bytes = |id: ExpertId| sizes[id.layer][id.expert];
        let mut rows = Vec::new();
        for expert_bytes in budgets {
            context.interrupt.check()?;
            let best = belady(&trace, expert_bytes, bytes);
            let mut row = |policy, reads_ahead: bool, found: Replayed| {
                let Replayed { uses, kept, ahead, read_ahead, bytes_read } = found;
                let of_best = found.hits() as f64 / best.hits().max(1) as f64;
                let [ahead, read_ahead] = [ahead, read_ahead].map(|count| reads_ahead.then_some(count));
                rows.push(Replay {
                    expert_bytes,
                    policy,
                    uses,
                    kept,
                    ahead,
                    read_ahead,
                    of_best,
                    bytes_read,
                });
            };
            for reads_ahead in [false, true] {
                for (name, make) in POLICIES {
                    let policy = make(before.as_ref());
                    row(name, reads_ahead, replay(&trace, expert_bytes, policy, reads_ahead, bytes));
                }
            }
            row("best", false, best);
        }
        if self.json {
            output::json(
                &json!({ "schema_version": 2, "model": self.path.display().to_string(), "result": rows }),
            )?;
            return Ok(Ending::Done);
        }
        let head = [
            "policy",
            "experts in memory",
            "kept",
            "read ahead",
            "hits of the best",
            "read",
            "of read ahead used",
        ];
        let mut table = vec![head.map(str::to_owned).to_vec()];
        table.extend(rows.iter().map(Replay::cells));
        output::result(&output::table(&table))?;
        Ok(Ending::Done)
    }
}
