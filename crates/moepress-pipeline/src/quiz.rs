//! Questions with known answers, asked of models that an evaluation has ready.

use crate::PipelineError;
use crate::evaluate::Tokens;
use moepress_checkpoint::{Checkpoint, Progress};
use moepress_eval::{Kind, Question, Subject, Task, TaskResult, answer, choose};
use moepress_runtime::Model;
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

    /// Asks the questions with choices: of the model, and of what it is compared with.
    pub(crate) fn choose(
        &self,
        subjects: &[Subject<'_>],
        progress: &dyn Progress,
    ) -> Result<Answers, PipelineError> {
        let mut answers = Answers::default();
        for task in self.of(Kind::Choice) {
            let choices = choose(&subjects[0], subjects.get(1), self.tokenizer, task, progress)?;
            if choices.cut > 0 {
                let (name, cut) = (&task.name, choices.cut);
                let note = "choices were scored after a question cut at its start to fit the context";
                answers.notes.push(format!("{name}: {cut} {note}"));
            }
            answers.add(task, choices.model, choices.original);
        }
        Ok(answers)
    }

    /// Asks the open questions, of one model after the other; each is loaded for that.
    pub(crate) fn write(
        &self,
        models: &[&Checkpoint],
        load: &dyn Fn(&Checkpoint) -> Result<Model, PipelineError>,
        answers: &mut Answers,
        progress: &dyn Progress,
    ) -> Result<(), PipelineError> {
        if self.of(Kind::Open).next().is_none() {
            return Ok(());
        }
        let mut of_models = vec![];
        for model in models {
            let loaded = load(model)?;
            let one = |task| answer(&loaded, self.tokenizer, task, self.most, progress);
            of_models.push(self.of(Kind::Open).map(one).collect::<Result<Vec<_>, _>>()?.into_iter());
        }
        for task in self.of(Kind::Open) {
            let mut results = of_models.iter_mut().filter_map(Iterator::next);
            if let Some(model) = results.next() {
                answers.add(task, model, results.next());
            }
        }
        Ok(())
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(move |task| task.kind == kind)
    }
}

impl Answers {
    fn add(&mut self, task: &Task, model: TaskResult, original: Option<TaskResult>) {
        self.results.insert(task.name.clone(), model);
        self.original.extend(original.map(|original| (task.name.clone(), original)));
    }
}
