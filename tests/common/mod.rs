//! Running the built binary on the shipped model.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The six text domains.
pub const DOMAINS: [&str; 6] = ["novel", "drama", "scripture", "gazetteer", "dictionary", "code"];

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The shipped model.
pub fn demo() -> PathBuf {
    root().join("tests/fixtures/demo-qwen3-moe")
}

/// Runs `moepress` with these words.
pub fn moepress<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moepress")).args(args).output().unwrap()
}

/// Runs `moepress … --json` and returns its document; it must succeed.
pub fn json(args: &[&str]) -> Value {
    let output = moepress(&[args, &["--json"]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "moepress {args:?}: {error}");
    serde_json::from_slice(&output.stdout).unwrap()
}
