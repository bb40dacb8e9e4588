//! [`Files`] on the operating system.

use super::{Files, Kind, Lock, ReadAt, WriteSync};
use rustix::fs::{Advice, CWD, OFlags, RenameFlags};
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The files of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFiles;

impl Files for OsFiles {
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        regular(&fs::metadata(path)?)?;
        // The path may have become a FIFO since: do not wait for its writer, and look again.
        let file = OpenOptions::new().read(true).custom_flags(flags(OFlags::NONBLOCK)).open(path)?;
        let metadata = file.metadata()?;
        regular(&metadata)?;
        Ok(Box::new(OsRead { file, len: metadata.len() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let mut names =
            fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(Kind::File)),
            Ok(metadata) if metadata.is_dir() => Ok(Some(Kind::Directory)),
            Ok(_) => Ok(Some(Kind::Other)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteSync>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
        Ok(Box::new(OsWrite { file }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some network file systems do not know the flag. What is renamed here are directories, and a
            // plain rename replaces no file and no directory that holds anything.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match self.kind(to)? {
                Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
                None => fs::rename(from, to),
            },
            result => Ok(result?),
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
                .open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Its last owner may have removed the file between our open and our lock: then the lock is on
            // a file nobody else will see.
            let held = file.metadata()?;
            match fs::symlink_metadata(path) {
                Ok(seen) if (seen.dev(), seen.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Some(Box::new(OsLock { path: path.to_owned(), _file: file })));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    match metadata.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

struct OsRead {
    file: File,
    len: u64,
}

impl ReadAt for OsRead {
    fn len(&self) -> u64 {
        self.len
    }

    fn scattered(&self) {
        // Advice: where there is none, files are read all the same.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::Random);
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

struct OsWrite {
    file: File,
}

impl WriteSync for OsWrite {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(self: Box<Self>) -> io::Result<()> {
        self.file.sync_all()
    }
}

struct OsLock {
    path: PathBuf,
    _file: File,
}

impl Lock for OsLock {}

impl Drop for OsLock {
    fn drop(&mut self) {
        // Removed while still held, so that nobody can own a file of this name that is about to go.
        // What cannot be removed is free all the same once the file closes.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_open_and_a_fifo_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        fs::write(at("file"), b"abc").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("fifo"), at("link-to-fifo")).unwrap();
        std::os::unix::fs::symlink(at("nothing"), at("dangling")).unwrap();

        for path in
            [at("fifo"), at("socket"), at("link-to-fifo"), dir.path().to_owned(), PathBuf::from("/dev/null")]
        {
            assert_eq!(OsFiles.open(&path).err().unwrap().kind(), io::ErrorKind::InvalidInput, "{path:?}");
        }
        assert_eq!(OsFiles.open(&at("dangling")).err().unwrap().kind(), io::ErrorKind::NotFound);
        let file = OsFiles.open(&at("link")).unwrap();
        let mut tail = [0; 2];
        file.read_at(1, &mut tail).unwrap();
        assert_eq!((&tail, file.len()), (b"bc", 3));
        assert_eq!(file.read_at(2, &mut tail).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn rename_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["from", "empty"] {
            OsFiles.create_dir(&at(name)).unwrap();
        }
        fs::write(at("file"), b"").unwrap();
        for to in ["empty", "file"] {
            let error = OsFiles.rename(&at("from"), &at(to)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{to}");
        }
        OsFiles.rename(&at("from"), &at("to")).unwrap();
        assert_eq!(OsFiles.list(dir.path()).unwrap(), ["empty", "file", "to"]);
    }

    #[test]
    fn a_lock_has_one_owner_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        fs::write(&path, b"left by a process that died").unwrap();
        let first = OsFiles.lock(&path).unwrap();
        assert!(first.is_some());
        assert!(OsFiles.lock(&path).unwrap().is_none());
        drop(first);
        assert_eq!(OsFiles.kind(&path).unwrap(), None);
        assert!(OsFiles.lock(&path).unwrap().is_some());
    }

    #[test]
    fn a_lock_is_exclusive_while_its_file_comes_and_goes() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (inside, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5000 {
                        if let Some(lock) = OsFiles.lock(&path).unwrap() {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            taken.fetch_add(1, Ordering::SeqCst);
                            std::thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(lock);
                        }
                    }
                });
            }
        });
        assert!(taken.into_inner() > 0);
    }
}
