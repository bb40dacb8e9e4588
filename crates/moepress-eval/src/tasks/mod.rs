//! Questions with known answers: multiple choice by likelihood, and generation by exact match.

mod choice;
mod generate;
mod read;

pub use choice::{Choices, choose};
pub use generate::answer;
pub use read::{Kind, Question, Task};

use crate::likelihood::mean;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a task came to, under the keys that lm-evaluation-harness has for it: `acc,none`, `acc_stderr,none`, ….
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TaskResult {
    /// The name of the task.
    pub alias: String,
    /// Questions that were asked.
    pub samples: usize,
    /// Figures by key.
    #[serde(flatten)]
    pub figures: BTreeMap<String, f64>,
}

impl TaskResult {
    fn new(task: &Task, figures: impl IntoIterator<Item = (&'static str, Vec<f64>)>) -> Self {
        let mut result = Self { alias: task.name.clone(), samples: task.asked().len(), ..Self::default() };
        for (name, values) in figures {
            let (value, stderr) = mean(&values);
            result.figures.insert(format!("{name},none"), value);
            result.figures.insert(format!("{name}_stderr,none"), stderr);
        }
        result
    }
}
