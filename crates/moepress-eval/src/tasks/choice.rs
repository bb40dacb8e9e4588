//! Multiple choice: every choice is scored by its likelihood after the question and a space, as
//! lm-evaluation-harness does it for `local-completions`.

use super::{Task, TaskResult};
use crate::evaluate::Beside;
use crate::pass::{chunks, in_order, pass};
use crate::score::Chunk;
use crate::{EvalError, Subject};
use moepress_checkpoint::{CheckpointError, Progress};
use moepress_text::{Tokenizer, Window};

/// What multiple choice came to.
pub struct Choices {
    /// The model.
    pub model: TaskResult,
    /// What it is compared with, if anything; the model then has `flips` and `changed` too.
    pub original: Option<TaskResult>,
    /// Questions whose text was cut at its start to fit the context.
    pub cut: usize,
}

/// Asks all questions of a task, in one batch of windows. Figures: `acc`, by the sum of log-probabilities; `acc_norm`,
/// over the characters of a choice; `acc_bytes`, over its bytes. Beside an original also `flips`, the share of
/// questions that only one of both gets right, and `changed`, the share that both answer differently.
///
/// # Errors
/// A choice has no tokens of its own, or the models cannot be run.
pub fn choose(
    model: &Subject<'_>,
    against: Option<&Subject<'_>>,
    tokenizer: &Tokenizer,
    task: &Task,
    progress: &dyn Progress,
) -> Result<Choices, EvalError> {
    let prefix = task.prefix();
    let context = model.spec().context.min(against.map_or(usize::MAX, |against| against.spec().context));
    let (mut windows, mut cut) = (Vec::new(), 0);
    for (number, question) in task.asked().iter().enumerate() {
        for choice in &question.choices {
            let (mut ids, mut first) = pair(tokenizer, &format!("{prefix}{}", question.text), choice)?;
            if first == ids.len() || first == 0 || ids.len() - first >= context {
                let place = format!("question {}", number + task.shots + 1);
                let reason = format!(
                    "the choice {choice:?} cannot be told from the question by its tokens, or is too long"
                );
                return Err(CheckpointError::bad_input(&task.path, &place, reason).into());
            }
            if ids.len() > context {
                let surplus = ids.len() - context;
                ids.drain(..surplus);
                first -= surplus;
                cut += 1;
            }
            windows.push(Window { ids, first, bytes: choice.len() as u64 });
        }
    }
    // Windows of one length run together.
    let mut order: Vec<usize> = (0..windows.len()).collect();
    order.sort_by_key(|&index| windows[index].ids.len());
    let sorted: Vec<Window> = order.iter().map(|&index| windows[index].clone()).collect();
    let chunks: Vec<Chunk> = in_order(chunks(0, &sorted).collect());
    let mut sums = vec![[0.0; 2]; windows.len()];
    let mut next = 0;
    let mut beside = against.map_or(Beside::Nothing, Beside::Model);
    let phase = format!("evaluate {}", task.name);
    pass(model, &mut beside, &chunks, &phase, progress, &mut |chunk, scores| {
        let mut at = 0;
        for first in &chunk.first {
            let run = at..at + chunk.window - first;
            let sum = |losses: &[f64]| -losses.get(run.clone()).unwrap_or_default().iter().sum::<f64>();
            sums[order[next]] = [sum(&scores.pairs.losses), sum(&scores.pairs.original_losses)];
            (at, next) = (run.end, next + 1);
        }
    })?;
    if sums.iter().flatten().any(|sum| !sum.is_finite()) {
        return Err(EvalError::NotFinite(task.name.clone()));
    }
    let (model, original) = results(task, &sums, against.is_some());
    Ok(Choices { model, original, cut })
}

/// Figures from log-probabilities of all choices under the model and under the original.
fn results(task: &Task, sums: &[[f64; 2]], compared: bool) -> (TaskResult, Option<TaskResult>) {
    let ours = judged(task, sums, 0);
    let mut model = ours.result(task);
    let original = compared.then(|| judged(task, sums, 1));
    if let Some(theirs) = &original {
        let differ = |a: &[usize], b: &[usize]| a.iter().zip(b).map(|(a, b)| f64::from(a != b)).collect();
        let flips = ours.right.iter().zip(&theirs.right).map(|(a, b)| (a - b).abs()).collect();
        let more =
            TaskResult::new(task, [("flips", flips), ("changed", differ(&ours.picked, &theirs.picked))]);
        model.figures.extend(more.figures);
    }
    (model, original.map(|original| original.result(task)))
}

/// The tokens of a context and a continuation after a space, and where the latter begin: the context's tokens are those
/// of the context alone, without white space at its end, which belongs to the continuation.
fn pair(tokenizer: &Tokenizer, context: &str, continuation: &str) -> Result<(Vec<u32>, usize), EvalError> {
    let kept = context.trim_end();
    let whole = format!("{context} {continuation}");
    Ok((tokenizer.encode(&whole)?, tokenizer.encode(kept)?.len()))
}

/// Answers to all questions.
struct Judged {
    /// Index of the choice with the largest sum.
    picked: Vec<usize>,
    /// 1 where that is right.
    right: Vec<f64>,
    /// The same by the sum over characters, and over bytes.
    by_length: [Vec<f64>; 2],
}

impl Judged {
    fn result(&self, task: &Task) -> TaskResult {
        let [by_characters, by_bytes] = self.by_length.clone();
        let figures = [("acc", self.right.clone()), ("acc_norm", by_characters), ("acc_bytes", by_bytes)];
        TaskResult::new(task, figures)
    }
}

fn judged(task: &Task, sums: &[[f64; 2]], which: usize) -> Judged {
    let mut judged = Judged { picked: vec![], right: vec![], by_length: [vec![], vec![]] };
    let mut sums = sums.iter().map(|sums| sums[which]);
    for question in task.asked() {
        let of: Vec<f64> = sums.by_ref().take(question.choices.len()).collect();
        let best = |length: &dyn Fn(&str) -> usize| {
            let values = of.iter().zip(&question.choices).map(|(sum, choice)| sum / length(choice) as f64);
            // The first of equals.
            values.enumerate().fold((0, f64::NEG_INFINITY), |best, (index, value)| {
                if value > best.1 { (index, value) } else { best }
            })
        };
        let picked = best(&|_| 1).0;
        judged.picked.push(picked);
        judged.right.push(f64::from(picked == question.right));
        let lengths: [&dyn Fn(&str) -> usize; 2] = [&|choice| choice.chars().count(), &str::len];
        for (right, length) in judged.by_length.iter_mut().zip(lengths) {
            right.push(f64::from(best(length).0 == question.right));
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_checkpoint::OsFiles;

    #[test]
    fn figures_by_hand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quiz.jsonl");
        let line = |right: usize| {
            format!("{{\"question\":\"q\",\"choices\":[\"ab\",\"é\",\"abcd\"],\"answer\":{right}}}\n")
        };
        std::fs::write(&path, [line(0), line(1), line(2), line(0)].concat()).unwrap();
        let task = Task::read(&OsFiles, &path, 0).unwrap();
        // By the sum the largest; over 2, 1 and 4 characters; over 2, 2 and 4 bytes.
        let ours = [
            [-2.0, -3.0, -5.0], // 0; -1, -3, -1.25: 0; -1, -1.5, -1.25: 0
            [-2.0, -2.5, -9.0], // 0; -1, -2.5, -2.25: 0; -1, -1.25, -2.25: 0
            [-3.0, -1.9, -3.6], // 1; -1.5, -1.9, -0.9: 2; -1.5, -0.95, -0.9: 2
            [-2.2, -1.9, -9.0], // 1; -1.1, -1.9, -2.25: 0; -1.1, -0.95, -2.25: 1
        ];
        let theirs = [[-1.0, -2.0, -3.0], [-2.0, -1.0, -3.0], [-2.0, -3.0, -4.0], [-3.0, -2.0, -1.0]]; // 0 1 0 2
        let sums: Vec<[f64; 2]> =
            ours.iter().flatten().zip(theirs.iter().flatten()).map(|(a, b)| [*a, *b]).collect();
        let (model, original) = results(&task, &sums, true);
        let of = |result: &TaskResult, key: &str| result.figures[&format!("{key},none")];
        assert_eq!(["acc", "acc_norm", "acc_bytes"].map(|key| of(&model, key)), [0.25, 0.75, 0.5]);
        // Only the second is right in one of both; the second to the fourth are answered differently.
        assert_eq!(["flips", "changed"].map(|key| of(&model, key)), [0.25, 0.75]);
        assert_eq!(of(&original.unwrap(), "acc"), 0.5);
        // Root of p (1 - p) / (n - 1).
        assert!((of(&model, "acc_stderr") - 0.25).abs() < 1e-12);
        assert_eq!(results(&task, &sums, false).1, None);
    }
}
