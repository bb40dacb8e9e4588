//! Tasks from JSON lines: `{"question", "choices", "answer"}`, or `{"question", "answer"}`.

use crate::EvalError;
use moepress_checkpoint::{CheckpointError, Files, digest};
use moepress_text::json_lines;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What kind of questions a task has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Which of several continuations is the likeliest.
    Choice,
    /// What the model says by itself.
    Open,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub text: String,
    /// What may follow; empty for an open question.
    pub choices: Vec<String>,
    /// What should follow.
    pub answer: String,
    /// Index of the answer among the choices.
    pub right: usize,
}

/// Questions of one kind, and what is put before each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The stem of its file.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file.
    pub sha256: String,
    /// What kind of questions it has.
    pub kind: Kind,
    /// The first questions, which are shown with their answers before each of the others.
    pub shots: usize,
    questions: Vec<Question>,
}

impl Task {
    /// Reads a file of JSON lines whose first `shots` questions are examples.
    ///
    /// # Errors
    /// The file is missing or malformed (says in which line), mixes kinds of questions, or has none but examples.
    pub fn read(files: &dyn Files, path: &Path, shots: usize) -> Result<Self, EvalError> {
        let mut questions = Vec::new();
        let mut kind = None;
        for (line, object) in json_lines(files, path)? {
            let bad = |reason: String| CheckpointError::bad_input(path, &format!("line {line}"), reason);
            let question = question(object).map_err(bad)?;
            let this = if question.choices.is_empty() { Kind::Open } else { Kind::Choice };
            if *kind.get_or_insert(this) != this {
                return Err(
                    bad("has choices where other lines have none, or the other way round".to_owned()).into(),
                );
            }
            questions.push(question);
        }
        let found = questions.len();
        let (Some(kind), true) = (kind, found > shots) else {
            let reason = format!("has {found} questions, of which {shots} are examples: none is left to ask");
            return Err(CheckpointError::bad_input(path, "file", reason).into());
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let sha256 = digest(files, path)?;
        Ok(Self { name, path: path.to_owned(), sha256, kind, shots, questions })
    }

    /// The questions that are asked.
    pub fn asked(&self) -> &[Question] {
        &self.questions[self.shots..]
    }

    /// The examples, as they stand before every question.
    pub fn prefix(&self) -> String {
        let shots = &self.questions[..self.shots];
        shots.iter().map(|question| format!("{} {}\n\n", question.text, question.answer)).collect()
    }
}

fn question(mut object: Map<String, Value>) -> Result<Question, String> {
    let text = match object.remove("question") {
        Some(Value::String(text)) if !text.trim().is_empty() => text,
        Some(_) => return Err("field \"question\" is no text of at least one letter".to_owned()),
        None => return Err("has no field \"question\"".to_owned()),
    };
    let answer = object.remove("answer").ok_or("has no field \"answer\"")?;
    let Some(choices) = object.remove("choices") else {
        return match answer {
            Value::String(answer) => Ok(Question { text, choices: vec![], answer, right: 0 }),
            _ => Err("field \"answer\" of an open question is no text".to_owned()),
        };
    };
    let shape = "field \"choices\" is no list of two texts or more";
    let choices: Option<Vec<String>> = choices.as_array().and_then(|list| {
        list.iter().map(|choice| choice.as_str().filter(|text| !text.is_empty()).map(str::to_owned)).collect()
    });
    let choices = choices.filter(|choices| choices.len() > 1).ok_or(shape)?;
    let right = match &answer {
        Value::String(text) => choices.iter().position(|choice| choice == text),
        other => other.as_u64().map(|index| index as usize).filter(|&index| index < choices.len()),
    };
    let right = right.ok_or_else(|| {
        format!("field \"answer\" is neither one of the choices nor an index from 0 to {}", choices.len() - 1)
    })?;
    Ok(Question { text, answer: choices[right].clone(), choices, right })
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_checkpoint::OsFiles;

    fn read(text: &str, shots: usize) -> Result<Task, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quiz.jsonl");
        std::fs::write(&path, text).unwrap();
        Task::read(&OsFiles, &path, shots)
            .map_err(|error| error.to_string().rsplit("quiz.jsonl: ").next().unwrap().to_owned())
    }

    #[test]
    fn both_kinds_are_read() {
        let choices = "{\"question\":\"a\",\"choices\":[\"b\",\"c\"],\"answer\":1}\n\n{\"question\":\"d\",\"choices\":[\"e\",\"f\"],\"answer\":\"e\",\"id\":7}\n";
        let task = read(choices, 1).unwrap();
        assert_eq!(
            (task.name.as_str(), task.kind, task.prefix().as_str()),
            ("quiz", Kind::Choice, "a c\n\n")
        );
        assert_eq!((task.asked().len(), task.asked()[0].right, task.sha256.len()), (1, 0, 64));
        let open = read("{\"question\":\"a\",\"answer\":\"b\"}", 0).unwrap();
        assert_eq!(
            (open.kind, open.asked()[0].answer.as_str(), open.prefix()),
            (Kind::Open, "b", String::new())
        );
    }

    #[test]
    fn wrong_questions_are_found_in_their_line() {
        let one = "{\"question\":\"a\",\"answer\":\"b\"}\n";
        for (text, reason) in [
            ("", "file: has 0 questions, of which 0 are examples"),
            ("{\"answer\":\"b\"}", "line 1: has no field \"question\""),
            ("{\"question\":\" \",\"answer\":\"b\"}", "line 1: field \"question\" is no text"),
            ("{\"question\":\"a\"}", "line 1: has no field \"answer\""),
            ("{\"question\":\"a\",\"answer\":1}", "line 1: field \"answer\" of an open question"),
            (
                "{\"question\":\"a\",\"choices\":[\"b\"],\"answer\":0}",
                "line 1: field \"choices\" is no list of two",
            ),
            ("{\"question\":\"a\",\"choices\":[\"b\",\"\"],\"answer\":0}", "line 1: field \"choices\""),
            ("{\"question\":\"a\",\"choices\":[\"b\",\"c\"],\"answer\":2}", "nor an index from 0 to 1"),
            ("{\"question\":\"a\",\"choices\":[\"b\",\"c\"],\"answer\":\"d\"}", "neither one of the choices"),
            (
                &format!("{one}{{\"question\":\"a\",\"choices\":[\"b\",\"c\"],\"answer\":0}}"),
                "line 2: has choices where",
            ),
            ("[1]", "line 1: invalid type"),
        ] {
            let error = read(text, 0).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(read(one, 1).unwrap_err().contains("none is left to ask"));
    }
}
