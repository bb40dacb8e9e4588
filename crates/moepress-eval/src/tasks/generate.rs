//! Open questions: what the model writes by itself up to the end of a line, against the answer.

use super::{Question, Task, TaskResult};
use crate::EvalError;
use moepress_checkpoint::Progress;
use moepress_runtime::{Model, Precision, Request, Sampling, Stop, generate};
use moepress_text::{StopStrings, Stream, TextError, Tokenizer};
use std::ops::ControlFlow;

/// Questions that are answered side by side.
const TOGETHER: usize = 16;

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
    let (prefix, stop) = (task.prefix(), ["\n".to_owned()]);
    let phase = format!("evaluate {}", task.name);
    let request = Request { most, sampling: Sampling::default(), precision: Precision::Exact };
    let mut right = Vec::new();
    for questions in task.asked().chunks(TOGETHER) {
        if progress.cancelled() {
            return Err(EvalError::Cancelled);
        }
        let encode = |question: &Question| tokenizer.encode(&format!("{prefix}{}", question.text));
        let prompts = questions.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let line = |_: &Question| Line {
            stream: Stream::new(tokenizer),
            stop: StopStrings::new(&stop),
            text: String::new(),
        };
        let (mut lines, mut failure): (Vec<_>, _) = (questions.iter().map(line).collect(), None);
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let generated = generate(model, &prompts, request, &mut |index, id| {
            lines[index].push(id).unwrap_or_else(|error| {
                failure = Some(error);
                ControlFlow::Break(())
            })
        })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        for ((line, generated), question) in lines.into_iter().zip(generated).zip(questions) {
            let text = line.finish(generated.stop == Stop::Caller)?;
            right.push(f64::from(text.trim() == question.answer.trim()));
        }
        progress.step(&phase, right.len() as u64, task.asked().len() as u64);
    }
    Ok(TaskResult::new(task, [("exact_match", right)]))
}

/// A line in the making.
struct Line<'a> {
    stream: Stream<'a>,
    stop: StopStrings<'a>,
    text: String,
}

impl Line<'_> {
    fn push(&mut self, id: u32) -> Result<ControlFlow<()>, TextError> {
        let (piece, ended) = self.stop.push(&self.stream.push(id)?);
        self.text += &piece;
        Ok(if ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// The text; one that a line break has ended holds nothing back.
    fn finish(mut self, ended: bool) -> Result<String, TextError> {
        if !ended {
            let (piece, ended) = self.stop.push(&self.stream.finish()?);
            self.text += &piece;
            if !ended {
                self.text += &self.stop.finish();
            }
        }
        Ok(self.text)
    }
}
