//! Single new files: absent, or complete and durable; never replacing anything.

use crate::failure::Failure;
use moepress_checkpoint::{CheckpointError, Files, Lock, WriteSync};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A claimed name for a file.
pub struct NewFile {
    files: Arc<dyn Files>,
    path: PathBuf,
    parent: PathBuf,
    name: OsString,
    /// Holds the file while it is written.
    partial: PathBuf,
    _lock: Box<dyn Lock>,
}

impl NewFile {
    /// Claims the name, which must be free, in a directory that exists. Writes nothing yet.
    pub fn claim(files: &Arc<dyn Files>, path: &Path) -> Result<Self, Failure> {
        let usage =
            |reason: &str| CheckpointError::Usage { path: path.to_owned(), reason: reason.to_owned() };
        let name = path.file_name().ok_or_else(|| usage("is not the name of a new file"))?.to_owned();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let beside = |ending: &str| {
            parent.join([OsStr::new("."), &name, OsStr::new(ending)].into_iter().collect::<OsString>())
        };
        let lock = files.lock(&beside(".lock")).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                usage("its parent directory does not exist (create it first)")
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                usage("its parent directory cannot be written (choose another place)")
            }
            _ => failed(path, "cannot lock", source),
        })?;
        let lock = lock.ok_or_else(|| CheckpointError::Owned { out: path.to_owned() })?;
        let path = parent.join(&name);
        if files.kind(&path).map_err(|e| failed(&path, "cannot look", e))?.is_some() {
            return Err(usage("exists (choose another name or remove it)").into());
        }
        let partial = beside(".partial");
        if files.kind(&partial).map_err(|e| failed(&partial, "cannot look", e))?.is_some() {
            files.remove_dir_all(&partial).map_err(|e| failed(&partial, "cannot remove", e))?;
        }
        Ok(Self { files: files.clone(), path, parent, name, partial, _lock: lock })
    }

    /// Writes the file.
    pub fn write(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut writer = self.start()?;
        writer.write(bytes).map_err(|e| failed(&self.path, "cannot write", e))?;
        writer.sync().map_err(|e| failed(&self.path, "cannot write", e))?;
        self.publish()
    }

    /// Starts the file for whoever writes it in parts and makes it durable.
    pub fn start(&self) -> Result<Box<dyn WriteSync>, CheckpointError> {
        let file = self.partial.join(&self.name);
        self.files.create_dir(&self.partial).map_err(|e| failed(&self.partial, "cannot create", e))?;
        self.files.create(&file).map_err(|e| failed(&file, "cannot create", e))
    }

    /// Moves the file that was started into its place.
    pub fn publish(self) -> Result<(), Failure> {
        let file = self.partial.join(&self.name);
        self.files.rename(&file, &self.path).map_err(|e| failed(&self.path, "cannot move into place", e))?;
        self.files.sync_dir(&self.parent).map_err(|e| failed(&self.parent, "cannot make durable", e))?;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next claim.
        let _ = self.files.remove_dir_all(&self.partial);
    }
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> CheckpointError {
    CheckpointError::Io { path: path.to_owned(), action, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_checkpoint::OsFiles;

    #[test]
    fn a_file_appears_whole_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(OsFiles);
        let path = dir.path().join("a");
        let claimed = NewFile::claim(&files, &path).unwrap();
        let second = NewFile::claim(&files, &path).err().unwrap();
        assert_eq!(second.code(), 5);
        claimed.write(b"x").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
        assert_eq!(OsFiles.list(dir.path()).unwrap(), ["a"]);

        let exists = NewFile::claim(&files, &path).err().unwrap();
        assert_eq!(
            (exists.code(), exists.message.ends_with("a: exists (choose another name or remove it)")),
            (2, true)
        );
        assert_eq!(NewFile::claim(&files, &path.join("b")).err().unwrap().code(), 2);
        assert_eq!(NewFile::claim(&files, &dir.path().join("c/b")).err().unwrap().code(), 2);
        assert_eq!(OsFiles.list(dir.path()).unwrap(), ["a"]);
    }
}
