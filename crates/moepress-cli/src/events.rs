//! `--events FILE`: progress as lines of JSON, written as it happens.

use crate::failure::Failure;
use moepress_checkpoint::{CheckpointError, Files, WriteSync};
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A file that grows while a command works.
pub struct Events {
    started: Instant,
    file: Mutex<Box<dyn WriteSync>>,
}

impl Events {
    /// Starts a file, which must not exist.
    pub fn create(files: &dyn Files, path: &Path, command: &str) -> Result<Self, Failure> {
        let usage = |reason: &str| Failure::usage(format!("{}: {reason}", path.display()));
        let file = files.create(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => usage("exists (choose another name or remove it)"),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => usage("its directory does not exist"),
            _ => CheckpointError::Io { path: path.to_owned(), action: "cannot create", source }.into(),
        })?;
        let events = Self { started: Instant::now(), file: Mutex::new(file) };
        events.write(json!({"event": "start", "moepress": env!("CARGO_PKG_VERSION"), "command": command}));
        Ok(events)
    }

    /// Adds a line.
    pub fn write(&self, mut event: Value) {
        event["seconds"] = ((self.started.elapsed().as_secs_f64() * 1e3).round() / 1e3).into();
        let line = format!("{event}\n");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk is told where results are written; events are for watching.
        let _ = file.write(line.as_bytes());
    }

    /// The last line: how the command ended.
    pub fn end(&self, exit_code: u8, error: Option<&Failure>) {
        let mut event = json!({"event": "end", "exit_code": exit_code});
        if let Some(error) = error {
            event["error"] = error.message.as_str().into();
        }
        self.write(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Reason;
    use moepress_checkpoint::OsFiles;

    #[test]
    fn every_line_is_a_document() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let events = Events::create(&OsFiles, &path, "run").unwrap();
        events.write(json!({"event": "note", "text": "two\nlines"}));
        events.end(3, Some(&Failure::new(Reason::BadInput, "x")));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["start", "note", "end"]);
        assert_eq!((&lines[2]["exit_code"], &lines[2]["error"]), (&3.into(), &"x".into()));
        assert_eq!(Events::create(&OsFiles, &path, "run").err().unwrap().code(), 2);
        let nowhere = Events::create(&OsFiles, &dir.path().join("a/b"), "run").err().unwrap();
        assert_eq!(nowhere.code(), 2, "{}", nowhere.message);
    }
}
