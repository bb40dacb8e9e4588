//! Text files, and token ids cut into windows.

use crate::TextError;
use moepress_checkpoint::{CheckpointError, Files, read_file};
use std::path::Path;

/// More text than any calibration or evaluation here uses; tokens take several times its memory.
const MAX_BYTES: u64 = 1 << 30;

/// Windows of equal length from the start of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Token ids of every window.
    pub windows: Vec<Vec<u32>>,
    /// Windows asked for; the text may have had fewer.
    pub asked: usize,
}

/// A text file, without its byte order mark.
///
/// # Errors
/// It is missing, larger than 1 GiB, not UTF-8 (says at which byte), or nothing but white space.
pub fn read_text(files: &dyn Files, path: &Path) -> Result<String, TextError> {
    let bad = |reason: String| CheckpointError::bad_input(path, "text", reason);
    let text = String::from_utf8(read_file(files, path, MAX_BYTES)?)
        .map_err(|error| bad(format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to())))?;
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    };
    if text.trim().is_empty() {
        return Err(bad(format!("no text, only {} bytes of white space", text.len())).into());
    }
    Ok(text)
}

/// The first `count` windows of `window` tokens, one after the other without overlap; fewer when the text
/// ends before. `file` only names the text in errors.
///
/// # Errors
/// There are not enough tokens for one window, or a window is too short to predict anything.
pub fn windows(file: &Path, ids: &[u32], window: usize, count: usize) -> Result<Windows, TextError> {
    if window < 2 {
        return Err(TextError::Window(window));
    }
    if ids.len() < window {
        return Err(TextError::TooShort { file: file.to_owned(), found: ids.len(), needed: window });
    }
    let windows = ids.chunks_exact(window).take(count).map(<[u32]>::to_vec).collect();
    Ok(Windows { windows, asked: count })
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
            (b"ab\xffc", "text: not UTF-8 at byte 2"),
        ];
        for (bytes, reason) in cases {
            let error = read(bytes).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert_eq!(error.kind(), ErrorKind::BadInput);
        }
    }

    #[test]
    fn windows_do_not_overlap_and_drop_the_tail() {
        let ids: Vec<u32> = (0..8).collect();
        let cut = |window, count| windows(Path::new("a.txt"), &ids, window, count);
        assert_eq!(cut(3, 1).unwrap().windows, [[0, 1, 2]]);
        assert_eq!(cut(3, 9).unwrap(), Windows { windows: vec![vec![0, 1, 2], vec![3, 4, 5]], asked: 9 });
        let error = cut(9, 1).unwrap_err();
        assert!(error.to_string().starts_with("a.txt: 8 tokens, but one window needs 9"), "{error}");
        assert_eq!(error.kind(), ErrorKind::BadInput);
        assert_eq!(cut(1, 1).unwrap_err().kind(), ErrorKind::Usage);
    }
}
