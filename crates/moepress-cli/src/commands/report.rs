//! `moepress report`: what reports say, compared and explained.

use super::{Context, Ending, report_file};
use crate::failure::Failure;
use crate::output;
use moepress_report::{Changed, METRICS, difference};
use serde::Serialize;
use std::path::PathBuf;

const DIFF: &str = "\
Examples:
  moepress report diff out/a out/b
  moepress report diff baseline.json out/b/report.json --json

Each is a report.json, or a directory with one. Figures that neither has are left out; those that were measured on other \
text, or on text cut otherwise, are not compared.";

const METRICS_HELP: &str = "\
Examples:
  moepress report metrics

A condition, of --fail-if or of `gates` in a recipe, is METRIC>BOUND, or with <, >= or <=. A bound is a number, or a sum of \
numbers and of multiples of these words:
  stderr     the standard error of what is judged: of the metric; beside `original`, of the paired difference; beside \
`baseline`, of both
  original   the same metric of the original
  baseline   the same metric in the report given with --baseline or as `baseline` of `gates`
Such as 'kld_mean>0.05', 'nll>original+0.02+2*stderr', 'size_bytes>1.01*baseline'. Metrics of texts can be asked of one: \
'ppl_ratio[novel]>1.1'.";

const EXAMPLES: &str = "\
Examples:
  moepress report diff out/a out/b
  moepress report metrics";

/// Compare reports, or list the figures they have
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Diff(Diff),
    Metrics(Metrics),
}

/// Compare two reports, figure by figure
#[derive(Debug, clap::Args)]
#[command(after_help = DIFF)]
struct Diff {
    /// The first report
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The second report
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// List what quality gates can ask about
#[derive(Debug, clap::Args)]
#[command(after_help = METRICS_HELP)]
struct Metrics {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    a: String,
    b: String,
    #[serde(flatten)]
    changed: &'a Changed,
}

impl Args {
    pub fn run(self, context: &Context) -> Result<Ending, Failure> {
        match self.what {
            What::Diff(args) => args.run(context)?,
            What::Metrics(args) => args.run()?,
        }
        Ok(Ending::Done)
    }
}

impl Diff {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let [first, second] = [&self.a, &self.b].map(|path| report_file::read(context, path));
        let changed = difference(&first?, &second?);
        let [a, b] = [&self.a, &self.b].map(|path| path.display().to_string());
        if self.json {
            return output::json(&Document { schema_version: 1, a, b, changed: &changed });
        }
        let mut rows = vec![["", "A", "B", "change"].map(str::to_owned).to_vec()];
        rows.extend(changed.metrics.iter().map(|metric| {
            let words = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.6}"));
            let percent = match metric.change {
                Some(change) => format!("{:+.2}%", 100.0 * change),
                None if metric.a.is_some() && metric.b.is_some() && !metric.alike => "other text".to_owned(),
                None => "-".to_owned(),
            };
            vec![metric.name.clone(), words(metric.a), words(metric.b), percent]
        }));
        let mut text = format!("A  {a}\nB  {b}\n\n{}", output::table(&rows));
        for (title, lines) in [("only A", &changed.only_a), ("only B", &changed.only_b)] {
            if !lines.is_empty() {
                text += &format!(
                    "\n{title}\n{}",
                    lines.iter().map(|line| format!("  {line}\n")).collect::<String>()
                );
            }
        }
        output::result(&text)
    }
}

impl Metrics {
    fn run(self) -> Result<(), Failure> {
        if self.json {
            let metrics: Vec<_> = METRICS
                .iter()
                .map(|metric| serde_json::json!({"name": metric.name, "meaning": metric.meaning}))
                .collect();
            return output::json(&serde_json::json!({"schema_version": 1, "metrics": metrics}));
        }
        let line = |metric: &moepress_report::Metric| format!("{:<26}{}\n", metric.name, metric.meaning);
        output::result(&METRICS.iter().map(line).collect::<String>())
    }
}
