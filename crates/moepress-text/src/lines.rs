//! Files of JSON lines, a line in memory at a time.

use crate::TextError;
use moepress_checkpoint::{CheckpointError, Files, ReadAt, parse_json};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of a line at most.
const MAX_LINE: usize = 16 << 20;
const CHUNK: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The lines of a file that are not blank.
pub(crate) struct Lines<'a> {
    path: &'a Path,
    file: Box<dyn ReadAt>,
    offset: u64,
    /// What has been read of the file, and where in it the next line begins.
    chunk: Vec<u8>,
    next: usize,
    number: usize,
}

/// A line of JSON.
pub(crate) struct Line<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
    number: usize,
}

impl<'a> Lines<'a> {
    /// Opens a file.
    ///
    /// # Errors
    /// It is missing, or no regular file.
    pub(crate) fn open(files: &dyn Files, path: &'a Path) -> Result<Self, TextError> {
        let file = files.open(path).map_err(|error| CheckpointError::reading(path, error))?;
        Ok(Self { path, file, offset: 0, chunk: vec![], next: 0, number: 0 })
    }

    /// The next line that is not blank; `None` at the end.
    ///
    /// # Errors
    /// It is longer than 16 MiB, or the file shrinks while it is read.
    pub(crate) fn next(&mut self) -> Result<Option<Line<'a>>, TextError> {
        loop {
            let mut bytes = Vec::new();
            let ended = self.line(&mut bytes)?;
            if self.number == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
                bytes.drain(..BYTE_ORDER_MARK.len());
            }
            if !bytes.trim_ascii().is_empty() {
                return Ok(Some(Line { path: self.path, bytes, number: self.number }));
            }
            if ended {
                return Ok(None);
            }
        }
    }

    /// Appends the next line without its end; `true` when the file ends with it.
    fn line(&mut self, line: &mut Vec<u8>) -> Result<bool, TextError> {
        self.number += 1;
        loop {
            let rest = self.chunk.get(self.next..).unwrap_or_default();
            let end = rest.iter().position(|&byte| byte == b'\n');
            let here = &rest[..end.unwrap_or(rest.len())];
            if line.len() + here.len() > MAX_LINE {
                let reason = format!("is longer than {MAX_LINE} bytes (cut the document into several)");
                return Err(bad(self.path, self.number, reason));
            }
            line.extend_from_slice(here);
            self.next += here.len() + 1;
            if end.is_some() {
                return Ok(false);
            }
            let size = (self.file.len() - self.offset).min(CHUNK as u64);
            if size == 0 {
                return Ok(true);
            }
            self.chunk.resize(size as usize, 0);
            let read = self.file.read_at(self.offset, &mut self.chunk);
            read.map_err(|error| CheckpointError::reading(self.path, error))?;
            (self.offset, self.next) = (self.offset + size, 0);
        }
    }
}

impl Line<'_> {
    /// The text that is a field of the object that the line is.
    ///
    /// # Errors
    /// As [`Self::field`], and when the field is no text.
    pub(crate) fn text(&self, field: &str) -> Result<String, TextError> {
        match self.field(field)? {
            Value::String(text) => Ok(text),
            _ => Err(self.bad(format!("field {field:?} is no text"))),
        }
    }

    /// The value of a field of the object that the line is.
    ///
    /// # Errors
    /// The line is not UTF-8, not JSON, no object, or without such a field.
    pub(crate) fn field<V: DeserializeOwned>(&self, field: &str) -> Result<V, TextError> {
        let place = format!("line {}", self.number);
        let object = parse_json(self.path, &place, &self.bytes).map_err(|error| match error {
            // There is but one line as far as the parser knows.
            CheckpointError::BadInput { file, field, reason } => CheckpointError::BadInput {
                file,
                field,
                reason: reason.replace(" at line 1 column ", " at column "),
            },
            other => other,
        });
        let mut object: BTreeMap<String, V> = object?;
        object.remove(field).ok_or_else(|| {
            let there = object.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let there = if there.is_empty() { "nothing".to_owned() } else { there };
            self.bad(format!("has no field {field:?} (it has {there}; the recipe names it with `field`)"))
        })
    }

    /// An error of this line.
    pub(crate) fn bad(&self, reason: String) -> TextError {
        bad(self.path, self.number, reason)
    }
}

fn bad(path: &Path, number: usize, reason: String) -> TextError {
    CheckpointError::bad_input(path, &format!("line {number}"), reason).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_checkpoint::{ErrorKind, OsFiles};
    use proptest::prelude::*;

    fn fields(bytes: &[u8]) -> Result<Vec<(usize, Value)>, TextError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::write(&path, bytes).unwrap();
        let mut lines = Lines::open(&OsFiles, &path)?;
        let mut found = vec![];
        while let Some(line) = lines.next()? {
            found.push((line.number, line.field("t")?));
        }
        Ok(found)
    }

    #[test]
    fn lines_end_in_any_way_and_may_be_blank() {
        let found =
            fields(b"\xef\xbb\xbf{\"t\":1}\r\n\n \t\r\n{\"u\":0, \"t\":\"a\\nb\"}\n\n{\"t\":[]}").unwrap();
        assert_eq!(found, [(1, 1.into()), (4, "a\nb".into()), (6, Value::Array(vec![]))]);
        assert_eq!(fields(b"").unwrap(), []);
        assert_eq!(fields(b"\n\xef\xbb\xbf").unwrap_err().kind(), ErrorKind::BadInput);
    }

    #[test]
    fn lines_cross_chunks() {
        let long = "x".repeat(CHUNK * 3 / 2);
        let text = format!("{{\"t\":1}}\n{{\"t\":\"{long}\"}}\n{{\"t\":\"{}\"}}\n", &long[..CHUNK / 2 - 17]);
        assert_eq!(text.len(), 2 * CHUNK + 9);
        for end in [text.len(), text.len() - 1, text.len() - 9] {
            let found = fields(&text.as_bytes()[..end]);
            match end == text.len() - 9 {
                true => assert!(found.unwrap_err().to_string().contains("line 3: EOF")),
                false => assert_eq!(found.unwrap()[1], (2, long.as_str().into())),
            }
        }
    }

    #[test]
    fn wrong_lines_are_refused_with_their_number() {
        let long = [b"{\"t\":1}\n\n{\"t\":\"".as_slice(), &vec![b'x'; MAX_LINE]].concat();
        let cases: [(&[u8], &str); 8] = [
            (b"{\"t\":1}\n{\"u\":1,\"v\":2}", "line 2: has no field \"t\" (it has u, v; the recipe"),
            (b"{}", "line 1: has no field \"t\" (it has nothing; the recipe"),
            (b"[1]", "line 1: invalid type: sequence, expected a map"),
            (b"\n\n{\"t\":1} x", "line 3: trailing characters at column 9"),
            (b"{\"t\":\"\xff\"}", "line 1: not UTF-8: invalid utf-8 sequence of 1 bytes from index 6"),
            (b"{\"t\":1}\n{\"t\":\"\0\"}", "line 2: control character"),
            (b"{\"t\":1,\"t\":2}", "line 1: duplicate key \"t\" at column"),
            (&long, "line 3: is longer than 16777216 bytes"),
        ];
        for (bytes, reason) in cases {
            let error = fields(bytes).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert_eq!((error.kind(), error.to_string().lines().count()), (ErrorKind::BadInput, 1));
        }
        let nowhere = Lines::open(&OsFiles, Path::new("nowhere.jsonl")).err().unwrap();
        assert_eq!(nowhere.to_string(), "nowhere.jsonl: file: missing");
    }

    /// What the lines of a file are when it is cut at every `\n`; or the number of the first that is none.
    fn cut(bytes: &[u8]) -> Result<Vec<(usize, Value)>, usize> {
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        let lines = bytes.split(|&byte| byte == b'\n').zip(1..);
        let wanted = lines.filter(|(line, _)| !line.trim_ascii().is_empty());
        wanted
            .map(|(line, number)| match serde_json::from_slice::<Value>(line) {
                Ok(Value::Object(mut object)) => Ok((number, object.remove("t").ok_or(number)?)),
                _ => Err(number),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn any_bytes_are_lines_or_refused_with_the_number_of_the_first(
            pieces in proptest::collection::vec(proptest::sample::select(vec![
                &b"{\"t\":1}"[..], b"{\"t\":\"a\"}", b"{\"u\":[], \"t\":{}}", b"{\"u\":0}", b"\n", b"\n", b"\n", b"\r\n",
                b" ", b"{", b"}", b"\"", b"[1]", b"\xff", b"\xef\xbb\xbf", b"\0", b"\\u0041",
            ]), 0..12),
        ) {
            let bytes = pieces.concat();
            match (fields(&bytes), cut(&bytes)) {
                (Ok(found), wanted) => prop_assert_eq!(Ok(found), wanted),
                (Err(error), Err(number)) => {
                    prop_assert_eq!(error.kind(), ErrorKind::BadInput);
                    prop_assert!(error.to_string().contains(&format!("line {number}: ")), "{}", error);
                }
                (Err(error), Ok(_)) => prop_assert!(false, "{}", error),
            }
        }
    }

    #[test]
    fn row_35_one_line_of_a_gigabyte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        std::fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
        let error = Lines::open(&OsFiles, &path).unwrap().next().err().unwrap();
        assert!(error.to_string().contains("line 1: is longer than 16777216 bytes"), "{error}");
    }
}
