//! The one small file layer: all input and output of the project goes through [`Files`], where tests
//! can inject faults. Reads are positioned, not mapped: a file that shrinks while it is read is a short
//! read, never a signal.

mod os;

pub use os::OsFiles;

use std::ffi::OsString;
use std::io;
use std::path::Path;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else, a symbolic link included.
    Other,
}

/// A file system. Every method reports the error of the first system call that failed.
pub trait Files: Send + Sync {
    /// Opens a regular file for reading, following symbolic links (download caches are made of them).
    ///
    /// # Errors
    /// Anything but a regular file is [`io::ErrorKind::InvalidInput`]; opening a FIFO does not block.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// As the system reports them.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// What `path` itself is, links not followed; `None` when there is nothing.
    ///
    /// # Errors
    /// As the system reports them.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>>;

    /// Creates a file for writing, mode 0644.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when there is anything of that name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteSync>>;

    /// Creates one directory; its parent must exist.
    ///
    /// # Errors
    /// As the system reports them.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the system reports them.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Renames within one file system and never replaces.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when `to` exists, [`io::ErrorKind::CrossesDevices`] between
    /// file systems.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the system reports them.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with all it holds; links inside are removed, not followed.
    ///
    /// # Errors
    /// As the system reports them.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Bytes an unprivileged process may still write in the file system of `dir`.
    ///
    /// # Errors
    /// As the system reports them.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;

    /// Takes the lock at `path`, creating the file; `None` when another run owns it. The lock of a
    /// process that died is free.
    ///
    /// # Errors
    /// As the system reports them.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
}

/// An open file that is read at positions.
pub trait ReadAt: Send + Sync {
    /// Bytes in the file when it was opened.
    fn len(&self) -> u64;

    /// Whether the file was empty when it was opened.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing is worth reading but what is asked for: systems read on, and where memory is short, that is what they evict for it.
    fn scattered(&self) {}

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends before `buf` is full.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// A new file that is written from its start.
pub trait WriteSync: Send + Sync {
    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// As the system reports them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the contents durable and closes the file.
    ///
    /// # Errors
    /// As the system reports them; the file is then not to be trusted.
    fn sync(self: Box<Self>) -> io::Result<()>;
}

/// A held lock: dropping it removes the lock file and releases it.
pub trait Lock: Send + Sync {}
