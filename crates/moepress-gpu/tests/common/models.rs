//! One model on the CPU and on a device: how far apart, and whether they write the same.

use moepress_checkpoint::{Checkpoint, Files, OsFiles, Source};
use moepress_nn::Backend;
use moepress_runtime::{Model, Precision, Request, Sampling, generate};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The checkpoint at a path below `tests/fixtures` of this workspace, or of the folder that `MOEPRESS_FIXTURES` names.
pub fn fixture(name: &str) -> Checkpoint {
    let files: Arc<dyn Files> = Arc::new(OsFiles);
    Checkpoint::open(&files, &fixtures().join(name)).unwrap()
}

pub fn fixtures() -> PathBuf {
    let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    std::env::var_os("MOEPRESS_FIXTURES").map_or_else(here, PathBuf::from)
}

/// Tokens that are anything.
pub fn ids(model: &Model, count: usize) -> Vec<u32> {
    let spec = model.spec();
    (0..count.min(spec.context) as u32).map(|i| (i * 37 + i * i % 11) % spec.vocab as u32).collect()
}

/// The largest difference of a logit on two texts at once.
pub fn gap(cpu: &Model, gpu: &Model, count: usize) -> f32 {
    let ids = [ids(cpu, count), ids(cpu, count)].concat();
    let logits = |model: &Model| {
        let hidden = model.hidden(&ids, 2).unwrap();
        model.logits(&hidden, Precision::Exact).unwrap()
    };
    let (a, b) = (logits(cpu), logits(gpu));
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(&b)
        .fold(0.0, |gap: f32, (a, b)| if (a - b).is_nan() { f32::INFINITY } else { gap.max((a - b).abs()) })
}

/// What a model writes after several prompts, all at a time.
pub fn greedy(model: &Model, most: usize) -> Vec<Vec<u32>> {
    let prompts = [ids(model, 5), ids(model, 1), ids(model, 12)];
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let request = Request { most, sampling: Sampling::default(), precision: Precision::Exact };
    let texts = generate(model, &prompts, request, &mut |_, _| ControlFlow::Continue(())).unwrap();
    texts.into_iter().map(|text| text.ids).collect()
}

/// A model on both.
pub fn both(source: &dyn Source, backend: Backend) -> (Model, Model) {
    (Model::load(source).unwrap(), moepress_gpu::load(source, backend).unwrap())
}
