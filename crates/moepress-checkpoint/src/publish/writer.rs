//! One file of the output, hashed as it is written.

use super::Publisher;
use crate::input::hex;
use crate::{CheckpointError, WriteSync};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// What was written to a file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FileRecord {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its contents in hexadecimal.
    pub sha256: String,
}

/// A file of the output being written. It counts only once closed.
pub struct Writer<'a> {
    publisher: &'a mut Publisher,
    path: PathBuf,
    file: Box<dyn WriteSync>,
    bytes: u64,
    hasher: Sha256,
}

impl<'a> Writer<'a> {
    pub(super) fn new(publisher: &'a mut Publisher, path: PathBuf, file: Box<dyn WriteSync>) -> Self {
        Self { publisher, path, file, bytes: 0, hasher: Sha256::new() }
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let len = bytes.len() as u64;
        self.file.write(bytes).map_err(|e| self.publisher.failed(&self.path, "cannot write", len, e))?;
        self.hasher.update(bytes);
        self.bytes += len;
        Ok(())
    }

    /// Makes the file durable and records it.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn close(self) -> Result<(), CheckpointError> {
        let Self { publisher, path, file, bytes, hasher } = self;
        file.sync().map_err(|e| publisher.failed(&path, "cannot make durable", bytes, e))?;
        if let Some(name) = publisher.open.take() {
            publisher.written.insert(name, FileRecord { bytes, sha256: hex(hasher) });
        }
        Ok(())
    }
}
