//! What can go wrong with a checkpoint, in one line each.

use std::io;
use std::path::{Path, PathBuf};

/// What an error means to whoever started the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The input is malformed or incomplete.
    BadInput,
    /// No disk space, no quota or no memory left.
    NoSpace,
    /// Another run owns the output.
    Owned,
    /// The request cannot be met as it stands, such as an output that exists.
    Usage,
    /// The system failed.
    Io,
}

/// An error of reading or publishing a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Malformed input. `field` and `reason` hold no control characters and are cut to a readable length.
    #[error("{}: {field}: {reason}", file.display())]
    BadInput {
        /// The file at fault.
        file: PathBuf,
        /// The part of it.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A full disk, found before or while writing.
    #[error("{}: not enough disk space: {needed} bytes needed, {free} free (free some, or choose another output)", dir.display())]
    NoSpace {
        /// Where the bytes were to go.
        dir: PathBuf,
        /// Bytes to be written.
        needed: u64,
        /// Bytes the file system has left.
        free: u64,
    },
    /// The output is being written by another run.
    #[error("{}: another run is writing this output (wait for it, or choose another output)", out.display())]
    Owned {
        /// The output directory.
        out: PathBuf,
    },
    /// An output that cannot be made where it was asked for.
    #[error("{}: {reason}", path.display())]
    Usage {
        /// The path as asked for.
        path: PathBuf,
        /// What is in the way, and what to do.
        reason: String,
    },
    /// A failed system call.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A tensor that safetensors cannot hold.
    #[error("cannot encode a shard: {reason}")]
    Encode {
        /// The container's reason.
        reason: String,
    },
}

impl CheckpointError {
    /// What the error means to whoever started the run.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadInput { .. } => ErrorKind::BadInput,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Owned { .. } => ErrorKind::Owned,
            Self::Usage { .. } => ErrorKind::Usage,
            Self::Io { source, .. } if is_full(source) => ErrorKind::NoSpace,
            Self::Io { source, .. }
                if matches!(source.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::FileTooLarge) =>
            {
                ErrorKind::NoSpace
            }
            // A path too long for the file system.
            Self::Io { source, .. } if source.kind() == io::ErrorKind::InvalidFilename => ErrorKind::Usage,
            Self::Io { .. } | Self::Encode { .. } => ErrorKind::Io,
        }
    }

    /// Malformed input: `field` of `file` is wrong for `reason`. Text taken from the file may be passed
    /// as it is.
    pub fn bad_input(file: &Path, field: &str, reason: impl ToString) -> Self {
        Self::BadInput { file: file.to_owned(), field: clean(field), reason: clean(&reason.to_string()) }
    }

    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }

    /// An error of reading an input: what is missing, cut short or no file is the input's fault.
    pub fn reading(file: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::bad_input(file, "file", "missing"),
            io::ErrorKind::UnexpectedEof => {
                Self::bad_input(file, "file", "ended early: it was truncated while being read")
            }
            io::ErrorKind::InvalidInput
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::PermissionDenied => Self::bad_input(file, "file", source),
            // The standard library has no stable kind for a loop of links.
            _ if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                Self::bad_input(file, "file", source)
            }
            _ => Self::io(file, "cannot read", source),
        }
    }
}

/// Whether a write failed for want of space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// `text` on one line fit for a terminal; of a long one the start and the end.
fn clean(text: &str) -> String {
    const HEAD: usize = 200;
    const TAIL: usize = 100;
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let middle = text.chars().count().saturating_sub(HEAD + TAIL);
    if middle == 0 {
        return text.chars().map(shown).collect();
    }
    let head: String = text.chars().take(HEAD).map(shown).collect();
    let tail: String = text.chars().skip(HEAD + middle).map(shown).collect();
    format!("{head}…{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_short_line() {
        let error = CheckpointError::bad_input(
            Path::new("a"),
            "tensor \"x\n\u{1b}[2J\"",
            format!("{}end", "z".repeat(1_000_000)),
        );
        let text = error.to_string();
        assert!(
            text.starts_with("a: tensor \"x\\n\\u{1b}[2J\": zzz")
                && text.ends_with("zend")
                && text.len() < 400
        );
    }

    #[test]
    fn a_full_disk_is_no_space() {
        use io::ErrorKind::{FileTooLarge, OutOfMemory, QuotaExceeded, StorageFull};
        for kind in [StorageFull, QuotaExceeded, FileTooLarge, OutOfMemory] {
            let error = CheckpointError::io(Path::new("a"), "cannot write", kind.into());
            assert_eq!(error.kind(), ErrorKind::NoSpace);
        }
    }

    #[test]
    fn an_input_that_cannot_be_opened_is_bad_input() {
        let looped = io::Error::from_raw_os_error(rustix::io::Errno::LOOP.raw_os_error());
        let denied = io::ErrorKind::PermissionDenied.into();
        for source in [looped, denied, io::ErrorKind::InvalidFilename.into()] {
            assert_eq!(CheckpointError::reading(Path::new("a"), source).kind(), ErrorKind::BadInput);
        }
    }
}
