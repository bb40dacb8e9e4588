//! Atomic publishing: the output directory is absent, or complete and durable.
//!
//! Files are written to `.NAME.partial` beside the output, each made durable as it is closed; then the
//! directory is renamed into place. A lock on `.NAME.lock` keeps other runs away from both.

mod writer;

pub use writer::{FileRecord, Writer};

use crate::error::is_full;
use crate::{CheckpointError, Files, Kind, Lock};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// An output directory in the making. Dropping it unfinished leaves nothing behind.
pub struct Publisher {
    files: Arc<dyn Files>,
    out: PathBuf,
    parent: PathBuf,
    partial: PathBuf,
    has_partial: bool,
    open: Option<String>,
    written: BTreeMap<String, FileRecord>,
    // Declared last: released once everything else is gone.
    _lock: Box<dyn Lock>,
}

impl Publisher {
    /// Claims the output directory `out` and clears what a dead run may have left beside it. Makes no
    /// directory yet.
    ///
    /// # Errors
    /// `out` exists, has no name or no writable parent, or is being written by another run.
    pub fn new(files: &Arc<dyn Files>, out: &Path) -> Result<Self, CheckpointError> {
        let usage = |reason: &str| CheckpointError::Usage { path: out.to_owned(), reason: reason.to_owned() };
        let name = out.file_name().ok_or_else(|| usage("is not the name of a new directory"))?;
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let beside = |ending: &str| {
            let hidden: OsString = [OsStr::new("."), name, OsStr::new(ending)].into_iter().collect();
            parent.join(hidden)
        };
        let lock = files.lock(&beside(".lock")).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                usage("its parent directory does not exist (create it first)")
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                usage("its parent directory cannot be written (choose another output)")
            }
            _ => CheckpointError::io(out, "cannot lock", source),
        })?;
        let lock = lock.ok_or_else(|| CheckpointError::Owned { out: out.to_owned() })?;
        // Joined anew: with a trailing slash, a link would be followed.
        let place = parent.join(name);
        if files.kind(&place).map_err(|e| CheckpointError::io(out, "cannot look", e))?.is_some() {
            return Err(usage("output exists (choose another name or remove it)"));
        }
        let partial = beside(".partial");
        clear(files.as_ref(), &partial)?;
        Ok(Self {
            files: files.clone(),
            out: place,
            parent: parent.to_owned(),
            partial,
            has_partial: false,
            open: None,
            written: BTreeMap::new(),
            _lock: lock,
        })
    }

    /// Checks that `bytes` more, and a twentieth for the file system's own, would fit on the disk.
    ///
    /// # Errors
    /// They do not.
    pub fn reserve(&self, bytes: u64) -> Result<(), CheckpointError> {
        let free = self.files.free_space(&self.parent);
        let free = free.map_err(|e| CheckpointError::io(&self.parent, "cannot ask for free space", e))?;
        let needed = bytes.saturating_add(bytes / 20);
        match needed <= free {
            true => Ok(()),
            false => Err(CheckpointError::NoSpace { dir: self.parent.clone(), needed, free }),
        }
    }

    /// Writes a whole file.
    ///
    /// # Errors
    /// As [`Publisher::create`] and [`Writer::write`].
    pub fn write_file(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let mut writer = self.create(name)?;
        writer.write(bytes)?;
        writer.close()
    }

    /// Starts a file that is written in pieces.
    ///
    /// # Errors
    /// `name` is not a plain name or was written before; an earlier file was not closed; the disk is full
    /// or fails.
    pub fn create(&mut self, name: &str) -> Result<Writer<'_>, CheckpointError> {
        let path = self.partial.join(name);
        self.check_closed()?;
        if !is_plain(name) {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "not the plain name of a file");
            return Err(CheckpointError::io(&path, "cannot create", error));
        }
        self.make_partial()?;
        let file = self.files.create(&path).map_err(|e| self.failed(&path, "cannot create", 0, e))?;
        self.open = Some(name.to_owned());
        Ok(Writer::new(self, path, file))
    }

    /// What has been written so far, by file name: the body of a manifest.
    pub fn written(&self) -> &BTreeMap<String, FileRecord> {
        &self.written
    }

    /// Where the files are until they are published. It is made with the first file, or by
    /// [`Self::make_staging`].
    pub fn staging(&self) -> &Path {
        &self.partial
    }

    /// Makes that directory now, for what has to lie in it for a while.
    ///
    /// # Errors
    /// The disk fails.
    pub fn make_staging(&mut self) -> Result<(), CheckpointError> {
        self.make_partial()
    }

    /// Moves the directory into place and makes it durable.
    ///
    /// # Errors
    /// A file was not closed, something now exists in its place, or the disk fails. If only the last step
    /// failed, making the name durable, the directory is in place and complete.
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        self.check_closed()?;
        self.make_partial()?;
        self.files
            .sync_dir(&self.partial)
            .map_err(|e| self.failed(&self.partial, "cannot make durable", 0, e))?;
        self.files.rename(&self.partial, &self.out).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => CheckpointError::Usage {
                path: self.out.clone(),
                reason: "came into being while it was being written (choose another name)".to_owned(),
            },
            _ => self.failed(&self.out, "cannot move into place", 0, source),
        })?;
        self.has_partial = false;
        self.files.sync_dir(&self.parent).map_err(|e| self.failed(&self.parent, "cannot make durable", 0, e))
    }

    fn make_partial(&mut self) -> Result<(), CheckpointError> {
        if !self.has_partial {
            let result = self.files.create_dir(&self.partial);
            result.map_err(|e| self.failed(&self.partial, "cannot create", 0, e))?;
            self.has_partial = true;
        }
        Ok(())
    }

    fn check_closed(&self) -> Result<(), CheckpointError> {
        match &self.open {
            None => Ok(()),
            Some(name) => {
                let error = io::Error::other("an earlier file was not completed");
                Err(CheckpointError::io(&self.partial.join(name), "cannot go on", error))
            }
        }
    }

    /// The error of a failed write of `needed` bytes.
    fn failed(&self, path: &Path, action: &'static str, needed: u64, source: io::Error) -> CheckpointError {
        match self.files.free_space(&self.parent) {
            Ok(free) if is_full(&source) => {
                CheckpointError::NoSpace { dir: self.parent.clone(), needed, free }
            }
            _ => CheckpointError::io(path, action, source),
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if self.has_partial {
            // What cannot be removed now is removed by the next run.
            let _ = self.files.remove_dir_all(&self.partial);
        }
    }
}

/// Removes what a run that died left at `partial`.
fn clear(files: &dyn Files, partial: &Path) -> Result<(), CheckpointError> {
    match files.kind(partial).map_err(|e| CheckpointError::io(partial, "cannot look", e))? {
        None => Ok(()),
        Some(Kind::Directory) => {
            files.remove_dir_all(partial).map_err(|e| CheckpointError::io(partial, "cannot remove", e))
        }
        Some(_) => {
            let reason = "is in the way (remove it)".to_owned();
            Err(CheckpointError::Usage { path: partial.to_owned(), reason })
        }
    }
}

fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(only)) if only == name) && components.next().is_none()
}

#[cfg(test)]
mod tests;
