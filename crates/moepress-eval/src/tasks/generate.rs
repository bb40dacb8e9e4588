//! Open questions: what the model writes by itself up to the end of a line, against the answer.

use super::{Task, TaskResult};
use crate::EvalError;
use moepress_checkpoint::Progress;
use moepress_runtime::{Model, Sampling, generate};
use moepress_text::{Stream, Tokenizer};
use std::ops::ControlFlow;

/// Asks all questions of a task: greedy, at most `most` tokens each, up to the first line break. `exact_match` is the
/// share whose text is the answer, white space around both aside.
///
/// # Errors
/// A question is longer than the context, or the model fails.
pub fn answer(
    model: &Model,
    tokenizer: &Tokenizer,
    task: &Task,
    most: usize,
    progress: &dyn Progress,
) -> Result<TaskResult, EvalError> {
    let prefix = task.prefix();
    let phase = format!("evaluate {}", task.name);
    let mut right = Vec::new();
    for (number, question) in task.asked().iter().enumerate() {
        if progress.cancelled() {
            return Err(EvalError::Cancelled);
        }
        let prompt = tokenizer.encode(&format!("{prefix}{}", question.text))?;
        let mut stream = Stream::new(tokenizer);
        let (mut text, mut failure) = (String::new(), None);
        let sampling = Sampling { temperature: 0.0, seed: 0 };
        generate(model, &prompt, most, sampling, &mut |id| match stream.push(id) {
            Ok(piece) => {
                text += &piece;
                if text.contains('\n') { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        text += &stream.finish()?;
        let line = text.split('\n').next().unwrap_or_default();
        right.push(f64::from(line.trim() == question.answer.trim()));
        progress.step(&phase, number as u64 + 1, task.asked().len() as u64);
    }
    Ok(TaskResult::new(task, [("exact_match", right)]))
}
