use super::*;
use crate::{ErrorKind, OsFiles, ReadAt, WriteSync, digest};
use std::ffi::OsString;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

fn os() -> Arc<dyn Files> {
    Arc::new(OsFiles)
}

fn names(dir: &Path) -> Vec<OsString> {
    OsFiles.list(dir).unwrap()
}

#[test]
fn publishes_what_was_written_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut publisher = Publisher::new(&os(), &out).unwrap();
    assert_eq!(names(dir.path()), [".out.lock"]);
    publisher.write_file("a", b"abc").unwrap();
    let mut writer = publisher.create("b").unwrap();
    writer.write(b"a").unwrap();
    writer.write(b"bc").unwrap();
    writer.close().unwrap();
    assert_eq!(names(dir.path()), [".out.lock", ".out.partial"]);
    assert_eq!(publisher.written()["a"], publisher.written()["b"]);
    let record = publisher.written()["b"].clone();
    publisher.finish().unwrap();

    assert_eq!(names(dir.path()), ["out"]);
    assert_eq!(names(&out), ["a", "b"]);
    assert_eq!(fs::read(out.join("b")).unwrap(), b"abc");
    assert_eq!((record.bytes, record.sha256), (3, digest(&OsFiles, &out.join("b")).unwrap()));
}

#[test]
fn a_dropped_run_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    drop(Publisher::new(&os(), &out).unwrap());
    assert!(names(dir.path()).is_empty());
    let mut publisher = Publisher::new(&os(), &out).unwrap();
    publisher.write_file("a", b"abc").unwrap();
    drop(publisher.create("b").unwrap());
    drop(publisher);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn what_a_killed_run_left_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".out.lock"), b"").unwrap();
    fs::create_dir(dir.path().join(".out.partial")).unwrap();
    fs::write(dir.path().join(".out.partial/old"), b"").unwrap();
    let mut publisher = Publisher::new(&os(), &dir.path().join("out/")).unwrap();
    publisher.write_file("new", b"").unwrap();
    publisher.finish().unwrap();
    assert_eq!(names(&dir.path().join("out")), ["new"]);
    assert_eq!(names(dir.path()), ["out"]);
}

#[test]
fn one_run_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut first = Publisher::new(&os(), &out).unwrap();
    first.write_file("a", b"abc").unwrap();
    let second = Publisher::new(&os(), &out).err().unwrap();
    assert_eq!(second.kind(), ErrorKind::Owned);
    assert!(second.to_string().contains("another run"));
    first.finish().unwrap();
    assert_eq!(names(&out), ["a"]);
    assert_eq!(Publisher::new(&os(), &out).err().unwrap().kind(), ErrorKind::Usage);
}

#[test]
fn an_output_that_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"x").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
    let before = names(dir.path());
    for (out, reason) in [
        ("file", "output exists"),
        ("file/", "output exists"),
        ("dangling/", "output exists"),
        ("empty", "output exists"),
        ("dangling", "output exists"),
        ("missing/out", "parent directory does not exist"),
        ("file/out", "parent directory does not exist"),
        ("..", "not the name of a new directory"),
        ("/", "not the name of a new directory"),
    ] {
        let error = Publisher::new(&os(), &dir.path().join(out)).err().unwrap();
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
    assert_eq!(names(dir.path()), before);
}

#[test]
fn an_output_that_appears_meanwhile_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut publisher = Publisher::new(&os(), &out).unwrap();
    publisher.write_file("a", b"abc").unwrap();
    fs::create_dir(&out).unwrap();
    assert_eq!(publisher.finish().unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(names(dir.path()), ["out"]);
    assert!(names(&out).is_empty());
}

#[test]
fn file_names_are_plain_and_used_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::new(&os(), &dir.path().join("out")).unwrap();
    for name in ["", ".", "..", "a/b", "/a", "../a", "a/"] {
        assert!(publisher.write_file(name, b"").is_err(), "{name}");
    }
    publisher.write_file("a", b"").unwrap();
    assert!(publisher.write_file("a", b"").is_err());
    assert_eq!(publisher.written().len(), 1);
}

#[test]
fn a_file_that_was_not_closed_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::new(&os(), &dir.path().join("out")).unwrap();
    drop(publisher.create("a").unwrap());
    assert!(publisher.write_file("b", b"").is_err());
    assert!(publisher.finish().is_err());
    assert!(names(dir.path()).is_empty());
}

#[test]
fn space_is_checked_before_writing() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = Publisher::new(&os(), &dir.path().join("out")).unwrap();
    publisher.reserve(1).unwrap();
    let error = publisher.reserve(u64::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().contains("18446744073709551615 bytes needed"), "{error}");
}

/// What happens at the `at`-th call, and at that call only.
#[derive(Clone)]
struct Faulty {
    calls: Arc<AtomicUsize>,
    at: usize,
    fault: Fault,
}

#[derive(Clone, Copy)]
enum Fault {
    Error(io::ErrorKind),
    Kill,
}

impl Faulty {
    fn step(&self) -> io::Result<()> {
        match self.fault {
            _ if self.calls.fetch_add(1, Ordering::SeqCst) != self.at => Ok(()),
            Fault::Error(kind) => Err(kind.into()),
            Fault::Kill => std::process::abort(),
        }
    }
}

impl Files for Faulty {
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt>> {
        self.step().and_then(|()| OsFiles.open(path))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.step().and_then(|()| OsFiles.list(dir))
    }
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        self.step().and_then(|()| OsFiles.kind(path))
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteSync>> {
        self.step()?;
        let inner = OsFiles.create(path)?;
        let faults = self.clone();
        Ok(Box::new(FaultyFile { inner, faults }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| OsFiles.create_dir(path))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| OsFiles.sync_dir(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step().and_then(|()| OsFiles.rename(from, to))
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| OsFiles.remove_file(path))
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.step().and_then(|()| OsFiles.remove_dir_all(path))
    }
    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        OsFiles.free_space(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.step().and_then(|()| OsFiles.lock(path))
    }
}

struct FaultyFile {
    inner: Box<dyn WriteSync>,
    faults: Faulty,
}

impl WriteSync for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Torn: half of it reaches the disk.
        self.faults.step().inspect_err(|_| drop(self.inner.write(&bytes[..bytes.len() / 2])))?;
        self.inner.write(bytes)
    }
    fn sync(self: Box<Self>) -> io::Result<()> {
        self.faults.step().and_then(|()| self.inner.sync())
    }
}

fn run(files: &Arc<dyn Files>, out: &Path) -> Result<(), CheckpointError> {
    let mut publisher = Publisher::new(files, out)?;
    publisher.write_file("a", b"abc")?;
    publisher.write_file("b", b"defg")?;
    publisher.finish()
}

fn is_whole(out: &Path) -> bool {
    fs::read(out.join("a")).unwrap() == b"abc" && fs::read(out.join("b")).unwrap() == b"defg"
}

#[test]
fn at_every_fault_the_output_is_absent_or_complete_and_a_rerun_succeeds() {
    for error in [io::ErrorKind::StorageFull, io::ErrorKind::Other, io::ErrorKind::CrossesDevices] {
        let mut at = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("out");
            let calls = Arc::new(AtomicUsize::new(0));
            let faulty: Arc<dyn Files> =
                Arc::new(Faulty { calls: calls.clone(), at, fault: Fault::Error(error) });
            let result = run(&faulty, &out);
            if calls.load(Ordering::SeqCst) <= at {
                result.unwrap();
                break;
            }
            let failure = result.unwrap_err();
            let expected =
                if error == io::ErrorKind::StorageFull { ErrorKind::NoSpace } else { ErrorKind::Io };
            assert_eq!(failure.kind(), expected, "{failure}");
            if names(dir.path()) != ["out"] {
                assert!(names(dir.path()).is_empty(), "fault {at}: {:?}", names(dir.path()));
                run(&os(), &out).unwrap();
            }
            assert!(is_whole(&out) && names(dir.path()) == ["out"], "fault {at}");
            at += 1;
        }
        assert!(at >= 13, "{at}");
    }
}

/// Runs itself in a child process that aborts at a call.
#[test]
fn killed_at_every_call_the_output_is_absent_or_complete_and_a_rerun_succeeds() {
    const AT: &str = "MOEPRESS_TEST_KILL_AT";
    const OUT: &str = "MOEPRESS_TEST_KILL_OUT";
    if let (Ok(at), Some(out)) = (std::env::var(AT), std::env::var_os(OUT)) {
        let faulty = Faulty { calls: Arc::default(), at: at.parse().unwrap(), fault: Fault::Kill };
        return run(&(Arc::new(faulty) as Arc<dyn Files>), Path::new(&out)).unwrap();
    }
    let this = "publish::tests::killed_at_every_call_the_output_is_absent_or_complete_and_a_rerun_succeeds";
    let mut at = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", this]).env(AT, at.to_string()).env(OUT, &out);
        if child.output().unwrap().status.success() {
            break;
        }
        if !out.exists() {
            run(&os(), &out).unwrap();
            assert_eq!(names(dir.path()), ["out"], "killed at {at}");
        }
        assert!(is_whole(&out), "killed at {at}");
        at += 1;
    }
    assert!(at >= 13, "{at}");
}
