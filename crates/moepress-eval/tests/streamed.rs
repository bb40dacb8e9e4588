//! Models that are read layer by layer come to the figures of models in memory.

#![allow(clippy::unwrap_used)] // all of this file is tests

use moepress_calibrate::{CalibrateError, Layout, Spool, Work};
use moepress_checkpoint::{Checkpoint, Files, OsFiles, Progress, Silent, Source};
use moepress_eval::{EvalError, Evaluation, Streamed, Subject, Text, Window, evaluate};
use moepress_runtime::{Blocks, RuntimeError};
use moepress_stats::Needs;
use std::path::Path;
use std::sync::Arc;

fn files() -> Arc<dyn Files> {
    Arc::new(OsFiles)
}

fn model(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden").join(name);
    Checkpoint::open(&files(), &folder).unwrap()
}

/// Two texts, with windows of several lengths and one that predicts nothing.
fn texts() -> Vec<Text> {
    let window = |length: u32, seed: u32| Window {
        ids: (0..length).map(|i| (i * i * 7 + seed * 31) % 128).collect(),
        first: 1 + seed as usize % 3 * length as usize / 4,
        bytes: u64::from(length),
    };
    let windows = |lengths: &[u32]| lengths.iter().zip(1..).map(|(&n, seed)| window(n, seed)).collect();
    vec![
        Text { name: "long".to_owned(), windows: windows(&[30; 80]) },
        Text { name: "mixed".to_owned(), windows: windows(&[9, 9, 1, 20, 9]) },
    ]
}

fn streamed<'a>(source: &'a Checkpoint, experts: usize, dir: &Path) -> Subject<'a> {
    let needs = Needs::default();
    let work = Work { tokens: 2400, window: 30, threads: 2, needs: &needs, packed: true };
    let layout = Layout { experts, ..Layout::least(source.spec(), &work) };
    Subject::Streamed(Streamed { source, layout, spool: Spool { files: files(), dir: dir.to_owned() } })
}

/// Without what differs from run to run.
fn figures(mut evaluation: Evaluation) -> Evaluation {
    evaluation.tokens_per_second = 0.0;
    evaluation.original = evaluation.original.map(|original| Box::new(figures(*original)));
    evaluation
}

#[test]
fn the_figures_are_those_of_models_in_memory() {
    let pairs = [
        ("qwen3_moe-raw_topk", "phimoe-longrope_short"),
        ("deepseek_v3", "deepseek_v2"),
        ("gpt_oss-plain_rope", "gpt_oss-sliding"),
        ("granitemoe", "minimax_m2"),
    ];
    for (name, other) in pairs {
        let (name, other) = (model(name), model(other));
        let loaded = [&name, &other].map(|model| Blocks::load(model).unwrap());
        let [a, b] = loaded.each_ref().map(Subject::Loaded);
        let wanted = figures(evaluate(&a, Some(&b), &texts(), &Silent).unwrap());
        assert!(wanted.overall.divergence.unwrap().mean > 0.0);
        for experts in [1, 3, 1 << 20] {
            let dir = tempfile::tempdir().unwrap();
            let [a, b] = [(&name, "a"), (&other, "b")]
                .map(|(model, place)| streamed(model, experts, &dir.path().join(place)));
            let found = evaluate(&a, Some(&b), &texts(), &Silent).unwrap();
            assert!(found.tokens_per_second > 0.0);
            assert_eq!(figures(found), wanted, "{} experts at a time", experts);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "hidden states are left behind");
        }
    }
}

struct Stopped;

impl Progress for Stopped {
    fn step(&self, _: &str, _: u64, _: u64) {}

    fn note(&self, _: &str) {}

    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn what_cannot_run_is_refused_and_nothing_stays() {
    let (model, dir) = (model("mixtral"), tempfile::tempdir().unwrap());
    let subject = streamed(&model, 1, &dir.path().join("spool"));
    let run = |windows: Vec<Vec<u32>>, progress: &dyn Progress| {
        let windows = windows.into_iter().map(|ids| Window { ids, first: 1, bytes: 0 }).collect();
        let text = Text { name: "a".to_owned(), windows };
        evaluate(&subject, None, &[text], progress)
    };
    let unknown = run(vec![vec![0, 256]], &Silent);
    assert!(matches!(unknown, Err(EvalError::Runtime(RuntimeError::Token { id: 256, .. }))));
    let long = run(vec![vec![0; 1 << 17]], &Silent);
    assert!(matches!(long, Err(EvalError::Runtime(RuntimeError::Context { .. }))));
    let stopped = run(vec![vec![0, 1, 2]], &Stopped);
    assert!(matches!(stopped, Err(EvalError::Walk(CalibrateError::Cancelled))));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
