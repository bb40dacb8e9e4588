//! The quality gates of a command: what it was given, what they come to, and where that is written.

use super::{Context, Ending, report_file};
use crate::failure::{Failure, Reason};
use crate::new_file::NewFile;
use crate::place;
use clap::Args;
use moepress_pipeline::{Report, Verdict};
use moepress_recipe::Recipe;
use moepress_report::{Available, Gate, junit};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The gates of a command.
#[derive(Clone, Debug, Args)]
pub struct GateArgs {
    /// Exit with 10 when this holds; repeatable
    #[arg(long = "fail-if", value_name = "CONDITION")]
    fail_if: Vec<Gate>,
    /// A report.json, or a directory with one, whose figures conditions call `baseline`
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Also write the verdicts as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// Gates that can be judged.
pub struct Gates {
    gates: Vec<Gate>,
    baseline: Option<Value>,
    junit: Option<NewFile>,
}

/// Refuses conditions of a recipe that cannot be read.
pub fn check_written(recipe: &Recipe) -> Result<(), Failure> {
    for (index, text) in recipe.gates.fail_if.iter().enumerate() {
        text.parse::<Gate>().map_err(|reason| recipe.error_at(&format!("gates.fail_if[{index}]"), reason))?;
    }
    Ok(())
}

impl GateArgs {
    /// Joins the gates of a recipe, reads the stored report, and refuses what will not be measured. Nothing that is
    /// written may lie in one of the directories `apart`, each with what it is.
    pub fn open(
        self,
        context: &Context,
        recipe: Option<&Recipe>,
        available: Available<'_>,
        apart: &[(&str, &Path)],
    ) -> Result<Gates, Failure> {
        let stored = self.baseline.as_deref().or(recipe.and_then(|recipe| recipe.gates.baseline.as_deref()));
        let baseline = stored.map(|path| report_file::read(context, path)).transpose()?;
        let available = Available { baseline: baseline.as_ref(), ..available };
        let mut gates = Vec::new();
        if let Some(recipe) = recipe {
            for (index, text) in recipe.gates.fail_if.iter().enumerate() {
                let gate = text.parse::<Gate>().and_then(|gate| gate.check(&available).map(|()| gate));
                gates.push(
                    gate.map_err(|reason| recipe.error_at(&format!("gates.fail_if[{index}]"), reason))?,
                );
            }
        }
        for gate in self.fail_if {
            let wrong = |reason| Failure::usage(format!("--fail-if '{}': {reason}", gate.text()));
            gate.check(&available).map_err(wrong)?;
            gates.push(gate);
        }
        if let Some(file) = &self.junit {
            apart.iter().try_for_each(|(what, dir)| place::apart(file, what, dir))?;
        }
        let junit = self.junit.map(|file| NewFile::claim(&context.files, &file)).transpose()?;
        Ok(Gates { gates, baseline, junit })
    }
}

impl Gates {
    /// What they say about a report.
    pub fn judge(&self, report: &Report) -> Vec<Verdict> {
        // A report that is no JSON has no figures, and what is not measured fails.
        let report = serde_json::to_value(report).unwrap_or_default();
        self.gates.iter().map(|gate| gate.judge(&report, self.baseline.as_ref())).collect()
    }

    /// Writes the verdicts where they are wanted.
    pub fn finish(self, verdicts: &[Verdict]) -> Result<Ending, Failure> {
        if let Some(file) = self.junit {
            file.write(junit(verdicts).as_bytes())?;
        }
        Ok(verdicts.iter().filter_map(Verdict::line).collect::<Vec<_>>().into())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(Reason::Fault, format!("cannot encode the result: {error}"))
    }
}
