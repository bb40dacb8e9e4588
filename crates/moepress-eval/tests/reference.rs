//! The demo model against the figures of an independent implementation.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // all of this file is tests

use moepress_checkpoint::{Checkpoint, Files, OsFiles, Progress, Silent};
use moepress_eval::{EvalError, Subject, Text, Window, decode_speed, evaluate};
use moepress_runtime::{Blocks, Model};
use moepress_text::{Bos, Form, Protocol, Sampler, Sampling, Tokenizer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn checkpoint() -> Checkpoint {
    let files: Arc<dyn Files> = Arc::new(OsFiles);
    Checkpoint::open(&files, &fixtures().join("demo-qwen3-moe")).unwrap()
}

fn model() -> Blocks {
    Blocks::load(&checkpoint()).unwrap()
}

fn text(name: &str, count: usize) -> Text {
    let tokenizer = Tokenizer::open(&OsFiles, &fixtures().join("demo-qwen3-moe"), 4096).unwrap();
    let file = fixtures().join("eval-text").join(name).with_extension("txt");
    let sampling = Sampling { window: 256, seed: None, bos: Bos::None, protocol: Protocol::Paper };
    let sampler = Sampler::open(&OsFiles, &tokenizer, sampling).unwrap();
    Text { name: name.into(), windows: sampler.sample(&file, &Form::Plain, count).unwrap().windows }
}

#[test]
fn likelihoods_are_those_of_the_reference() {
    let path = fixtures().join("demo-qwen3-moe/reference.json");
    let reference: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let baseline = &reference["baseline"];
    let domains = baseline["domains"].as_object().unwrap();
    let texts: Vec<Text> = domains.keys().map(|name| text(name, 24)).collect();
    let evaluation = evaluate(&Subject::Loaded(&model()), None, &texts, &Silent).unwrap();
    println!("{}", serde_json::to_string_pretty(&evaluation).unwrap());
    let near = |found: f64, expected: &serde_json::Value| (found - expected.as_f64().unwrap()).abs() < 0.002;
    for score in &evaluation.texts {
        assert_eq!(score.likelihood.predictions, 24 * 255);
        assert!(near(score.likelihood.nll, &domains[&score.name]), "{score:?}");
    }
    assert!(near(evaluation.overall.likelihood.nll, &baseline["nll"]), "{:?}", evaluation.overall);
}

#[test]
fn results_do_not_depend_on_threads_and_the_original_has_no_distance() {
    let model = model();
    let model = Subject::Loaded(&model);
    let texts = [text("code", 5), text("novel", 2)];
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut evaluation = pool.install(|| evaluate(&model, Some(&model), &texts, &Silent)).unwrap();
        evaluation.tokens_per_second = 0.0;
        evaluation.original.as_mut().unwrap().tokens_per_second = 0.0;
        evaluation
    };
    let one = run(1);
    assert_eq!(one, run(3));
    let distance = one.overall.divergence.unwrap();
    assert_eq!((distance.max, distance.top1_agreement), (0.0, 1.0));
    assert_eq!((distance.delta_p_rms, distance.ppl_ratio, distance.ppl_ratio_stderr), (0.0, 1.0, 0.0));
    assert_eq!(one.overall.histogram.as_ref().unwrap().counts[0], 7 * 255);
    assert_eq!(one.overall.by_token.predictions, 7 * 255);
    assert_eq!(one.original.unwrap().overall.likelihood, one.overall.likelihood);
}

#[test]
fn decoding_has_a_speed() {
    let prompt = &text("novel", 1).windows[0].ids;
    let speed = decode_speed(&Model::load(&checkpoint()).unwrap(), prompt, 64).unwrap();
    println!("{speed:.0} tokens/s");
    assert!(speed > 0.0);
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
fn what_cannot_be_evaluated_is_refused() {
    let model = model();
    let model = Subject::Loaded(&model);
    let run = |windows: Vec<Vec<u32>>| {
        let windows = windows.into_iter().map(|ids| Window { ids, first: 1, bytes: 0 }).collect();
        evaluate(&model, None, &[Text { name: "a".into(), windows }], &Silent)
    };
    assert!(matches!(run(vec![vec![1]]), Err(EvalError::Empty(_))));
    assert!(matches!(run(vec![vec![0, 4096]]), Err(EvalError::Runtime(_))));
    assert!(matches!(run(vec![vec![0; 1025]]), Err(EvalError::Runtime(_))));
    assert!(matches!(evaluate(&model, None, &[], &Silent), Err(EvalError::NoTexts)));
    let stopped = evaluate(&model, None, &[text("code", 1)], &Stopped);
    assert!(matches!(stopped, Err(EvalError::Cancelled)));
    // Windows of different lengths do not mix.
    let mixed = run(vec![vec![1, 2], vec![3], vec![4, 5, 6], vec![7, 8]]).unwrap();
    assert_eq!(mixed.overall.by_token.predictions, 4);
}
