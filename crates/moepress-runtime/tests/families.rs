//! For every golden checkpoint: a sequence that grows computes what a whole one does, over sliding windows, latent
//! attention, sinks and changes of LongRoPE.

#![allow(clippy::unwrap_used, clippy::panic)]

use moepress_checkpoint::{Checkpoint, Files, OsFiles, Source};
use moepress_runtime::{Model, Precision, Session};
use std::path::PathBuf;
use std::sync::Arc;

/// Longer than every window and every original context of the folders.
const TOKENS: usize = 40;

fn golden() -> Vec<(String, Model)> {
    let files: Arc<dyn Files> = Arc::new(OsFiles);
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden");
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut models: Vec<(String, Model)> = folders
        .filter(|folder| folder.is_dir())
        .map(|folder| {
            let checkpoint = Checkpoint::open(&files, &folder).unwrap();
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            (format!("{name} ({})", checkpoint.spec().family), Model::load(&checkpoint).unwrap())
        })
        .collect();
    models.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(models.len() >= 41, "only {} golden checkpoints", models.len());
    models
}

/// Tokens in no order.
fn ids(model: &Model) -> Vec<u32> {
    (0..TOKENS).map(|i| ((i * i * 31 + i * 17 + 5) % model.spec().vocab) as u32).collect()
}

/// The logits after the last of these tokens, computed at once and without a cache.
fn whole(model: &Model, ids: &[u32]) -> Vec<f32> {
    let hidden = model.hidden(ids, 1).unwrap();
    model.logits(&hidden[hidden.len() - model.spec().hidden..], Precision::Exact).unwrap()
}

fn close(found: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let largest = wanted.iter().fold(0.0f32, |largest, logit| largest.max(logit.abs()));
    for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let apart = (found - wanted).abs();
        assert!(apart <= 1e-4 * largest, "{what}: logit {at} is {found} instead of {wanted}");
    }
}

#[test]
fn token_by_token_is_the_whole_sequence() {
    for (name, model) in golden() {
        let ids = ids(&model);
        let mut session = Session::new(&model, Precision::Exact);
        for (i, &id) in ids.iter().enumerate() {
            let what = format!("{name}, {} tokens", i + 1);
            close(&session.step(id).unwrap(), &whole(&model, &ids[..=i]), &what);
        }
    }
}

#[test]
fn piece_by_piece_is_the_whole_sequence() {
    for (name, model) in golden() {
        let ids = ids(&model);
        for cuts in [[0, 3, 20, TOKENS], [0, 16, 17, TOKENS], [0, 1, TOKENS - 1, TOKENS]] {
            let mut session = Session::new(&model, Precision::Exact);
            for run in cuts.windows(2) {
                let logits = session.prefill(&ids[run[0]..run[1]]).unwrap();
                close(&logits, &whole(&model, &ids[..run[1]]), &format!("{name}, {run:?}"));
            }
        }
    }
}
