//! Questions with known answers, asked of models that an evaluation has ready.

use crate::PipelineError;
use crate::evaluate::Tokens;
use moepress_checkpoint::Progress;
use moepress_eval::{Kind, Question, Subject, Task, TaskResult, answer, choose};
use moepress_text::Tokenizer;
use std::collections::BTreeMap;

/// Questions to ask.
#[derive(Clone, Copy)]
pub struct Quiz<'a> {
    /// By task.
    pub tasks: &'a [Task],
    /// What the models read.
    pub tokenizer: &'a Tokenizer,
    /// Tokens of an answer to an open question at most.
    pub most: usize,
}

/// What questions came to, by task.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Of the model.
    pub results: BTreeMap<String, TaskResult>,
    /// Of what it is compared with.
    pub original: BTreeMap<String, TaskResult>,
    /// What was decided for the user.
    pub notes: Vec<String>,
}

impl Quiz<'_> {
    /// No fewer tokens than its questions have: a token stands for a byte at least.
    pub(crate) fn tokens(&self, context: usize) -> Tokens {
        let mut tokens = Tokens { all: 0, window: 0 };
        for task in self.tasks {
            let prefix = task.prefix().len();
            for Question { text, choices, .. } in task.asked() {
                for choice in choices.iter().map(String::len).chain(choices.is_empty().then_some(self.most)) {
                    let window = (prefix + text.len() + 1 + choice).min(context);
                    tokens = Tokens { all: tokens.all + window, window: tokens.window.max(window) };
                }
            }
        }
        tokens
    }

    /// Asks all of it: of the model, and of what it is compared with.
    pub(crate) fn ask(
        &self,
        subjects: &[Subject<'_>],
        progress: &dyn Progress,
    ) -> Result<Answers, PipelineError> {
        let mut answers = Answers::default();
        for task in self.tasks {
            let (result, original) = match task.kind {
                Kind::Choice => {
                    let choices = choose(&subjects[0], subjects.get(1), self.tokenizer, task, progress)?;
                    if choices.cut > 0 {
                        let (name, cut) = (&task.name, choices.cut);
                        let note = "choices were scored after a question cut at its start to fit the context";
                        answers.notes.push(format!("{name}: {cut} {note}"));
                    }
                    (choices.model, choices.original)
                }
                Kind::Open => {
                    let one = |subject: &Subject<'_>| match subject {
                        Subject::Loaded(model) => {
                            Ok(answer(model, self.tokenizer, task, self.most, progress)?)
                        }
                        Subject::Streamed(_) => Err(PipelineError::Usage(format!(
                            "{}: open questions need the model in memory, and it does not fit",
                            task.path.display()
                        ))),
                    };
                    (one(&subjects[0])?, subjects.get(1).map(one).transpose()?)
                }
            };
            answers.results.insert(task.name.clone(), result);
            answers.original.extend(original.map(|original| (task.name.clone(), original)));
        }
        Ok(answers)
    }
}
