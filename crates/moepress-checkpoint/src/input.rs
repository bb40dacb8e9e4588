//! Whole input files: into memory under a cap, or through a digest.

use crate::{CheckpointError, Files};
use sha2::{Digest, Sha256};
use std::io;
use std::path::Path;

const CHUNK: usize = 1 << 20;

/// All bytes of a file of at most `max` bytes.
///
/// # Errors
/// The file is missing, not a regular file, larger than `max`, or shrinks while it is read.
pub fn read_file(files: &dyn Files, path: &Path, max: u64) -> Result<Vec<u8>, CheckpointError> {
    let file = files.open(path).map_err(|e| CheckpointError::reading(path, e))?;
    if file.len() > max {
        let reason = format!("{} bytes, more than the {max} that such a file may have", file.len());
        return Err(CheckpointError::bad_input(path, "file", reason));
    }
    let mut bytes = buffer(path, file.len())?;
    file.read_at(0, &mut bytes).map_err(|e| CheckpointError::reading(path, e))?;
    Ok(bytes)
}

/// SHA-256 of a file in hexadecimal, as `sha256sum` prints it.
///
/// # Errors
/// The file is missing, not a regular file, or shrinks while it is read.
pub fn digest(files: &dyn Files, path: &Path) -> Result<String, CheckpointError> {
    let file = files.open(path).map_err(|e| CheckpointError::reading(path, e))?;
    let (mut hasher, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    let mut offset = 0;
    while offset < file.len() {
        let here = CHUNK.min((file.len() - offset) as usize);
        file.read_at(offset, &mut chunk[..here]).map_err(|e| CheckpointError::reading(path, e))?;
        hasher.update(&chunk[..here]);
        offset += here as u64;
    }
    Ok(hex(hasher))
}

/// SHA-256 of bytes in hexadecimal.
pub fn digest_of(bytes: &[u8]) -> String {
    hex(Sha256::new_with_prefix(bytes))
}

/// A SHA-256 that grows.
#[derive(Clone, Default)]
pub struct Digester(Sha256);

impl Digester {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes so far.
    pub fn bytes(&self) -> [u8; 32] {
        self.0.clone().finalize().into()
    }

    /// The same in hexadecimal.
    pub fn hex(&self) -> String {
        hex(self.0.clone())
    }
}

/// The finished digest in hexadecimal.
pub(crate) fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Zeroed memory for `len` bytes of `path`; too little memory is an error, not an abort.
pub(crate) fn buffer(path: &Path, len: u64) -> Result<Vec<u8>, CheckpointError> {
    let no_memory = || CheckpointError::io(path, "cannot read", io::ErrorKind::OutOfMemory.into());
    let len = usize::try_from(len).map_err(|_| no_memory())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| no_memory())?;
    bytes.resize(len, 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, OsFiles};

    #[test]
    fn digests_match_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(&OsFiles, &path).unwrap(), abc);
        assert_eq!(digest_of(b"abc"), abc);
        let mut grown = Digester::default();
        [&b"a"[..], b"bc"].iter().for_each(|part| grown.update(part));
        assert_eq!((grown.hex().as_str(), grown.bytes()[0]), (abc, 0xba));
        std::fs::write(&path, vec![b'a'; 2 * CHUNK + 1]).unwrap();
        let whole = hex(Sha256::new_with_prefix(vec![b'a'; 2 * CHUNK + 1]));
        assert_eq!(digest(&OsFiles, &path).unwrap(), whole);
    }

    #[test]
    fn a_file_has_a_cap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(read_file(&OsFiles, &path, 3).unwrap(), b"abc");
        assert_eq!(read_file(&OsFiles, &path, 2).unwrap_err().kind(), ErrorKind::BadInput);
        let missing = read_file(&OsFiles, &dir.path().join("b"), 2).unwrap_err();
        assert!(missing.kind() == ErrorKind::BadInput && missing.to_string().ends_with("b: file: missing"));
    }
}
