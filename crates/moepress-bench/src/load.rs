//! From a directory to the first token.

use crate::{BenchError, median};
use moepress_checkpoint::{Checkpoint, Files, Source};
use moepress_runtime::{Model, Precision, Session};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What loading came to, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Load {
    /// Bytes of the model's weights.
    pub bytes: u64,
    /// From opening to the logits after one token, of each round. The system may keep the files in memory.
    pub rounds: Vec<f64>,
    /// Their median.
    pub first_token_seconds: f64,
    /// Median until headers were checked.
    pub open_seconds: f64,
    /// Median until digests were, of a compact checkpoint.
    pub verify_seconds: f64,
    /// Median until all weights were in memory.
    pub load_seconds: f64,
}

/// Opens, verifies and loads a directory and runs one token, as often as `rounds` says.
///
/// # Errors
/// The model cannot be loaded or run.
pub fn load(files: &Arc<dyn Files>, dir: &Path, rounds: usize) -> Result<Load, BenchError> {
    let (mut bytes, mut times) = (0, [const { Vec::new() }; 4]);
    for _ in 0..rounds {
        let started = Instant::now();
        let checkpoint = Checkpoint::open(files, dir)?;
        times[0].push(started.elapsed().as_secs_f64());
        checkpoint.verify()?;
        times[1].push(started.elapsed().as_secs_f64());
        let model = Model::load(&checkpoint)?;
        times[2].push(started.elapsed().as_secs_f64());
        Session::new(&model, Precision::Fast).prefill(&[0])?;
        times[3].push(started.elapsed().as_secs_f64());
        bytes = checkpoint.spec().total_bytes();
    }
    let rounds = times[3].clone();
    let [open, verify, loaded, first]: [f64; 4] =
        std::array::from_fn(|at| median(std::mem::take(&mut times[at])));
    Ok(Load {
        bytes,
        rounds,
        first_token_seconds: first,
        open_seconds: open,
        verify_seconds: verify,
        load_seconds: loaded,
    })
}
