//! Files of plain text.

use crate::TextError;
use moepress_checkpoint::{CheckpointError, Files, read_file};
use std::path::Path;

/// A larger text belongs into documents, whose tokens take memory one by one.
const MAX_BYTES: u64 = 256 << 20;

/// A text file, without its byte order mark.
///
/// # Errors
/// It is missing, larger than 256 MiB, not UTF-8 (says where), or nothing but white space.
pub fn read_text(files: &dyn Files, path: &Path) -> Result<String, TextError> {
    let bad = |reason: String| CheckpointError::bad_input(path, "text", reason);
    let text = String::from_utf8(read_file(files, path, MAX_BYTES)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        bad(format!("not UTF-8 at byte {at}, in line {line}"))
    })?;
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    };
    if text.trim().is_empty() {
        return Err(bad(format!("no text, only {} bytes of white space", text.len())).into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_checkpoint::{ErrorKind, OsFiles};

    fn read(bytes: &[u8]) -> Result<String, TextError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, bytes).unwrap();
        read_text(&OsFiles, &path)
    }

    #[test]
    fn texts_are_taken_as_they_are_or_refused() {
        assert_eq!(read("a\r\nb\n".as_bytes()).unwrap(), "a\r\nb\n");
        assert_eq!(read("\u{feff}a".as_bytes()).unwrap(), "a");
        let cases: [(&[u8], &str); 4] = [
            (b"", "text: no text, only 0 bytes"),
            (b"\xef\xbb\xbf", "text: no text, only 0 bytes"),
            (b" \r\n\t", "text: no text, only 4 bytes of white space"),
            (b"a\nb\xffc", "text: not UTF-8 at byte 3, in line 2"),
        ];
        for (bytes, reason) in cases {
            let error = read(bytes).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert_eq!(error.kind(), ErrorKind::BadInput);
        }
    }
    #[test]
    fn row_35_one_line_of_a_gigabyte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
        let error = read_text(&OsFiles, &path).unwrap_err();
        assert!(error.to_string().contains("1073741824 bytes, more than the 268435456"), "{error}");
        assert_eq!(error.kind(), ErrorKind::BadInput);
    }
}
