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

/// A recipe with these stages in the protocol of the reference file: 16 windows of 256 tokens of each
/// calibration text, 24 of each evaluation text.
pub fn recipe(dir: &Path, name: &str, stages: &str) -> String {
    let list = |folder: &str| {
        let file = |domain| format!("\"{}\"", root().join(folder).join(format!("{domain}.txt")).display());
        DOMAINS.map(file).join(", ")
    };
    let text = format!(
        "version: 1\nmodel: \"{}\"\ncalibration: {{files: [{}], window: 256, windows: 16}}\nstages:\n{stages}\n\
         evaluate: {{files: [{}], window: 256, windows: 24}}\n",
        demo().display(),
        list("calibration"),
        list("tests/fixtures/eval-text"),
    );
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
