//! Tokens per second of a calibration sweep on random tokens, beside the peak of the machine's matrix product.
//!
//! `cargo bench -p moepress-calibrate --bench sweep -- MODEL [backward] [--windows N] [--tokens N] [--threads N] [--repeat N]`
//!
//! Prints one JSON object. With `--turns` it measures once for every line of input; that is how `benches/sweep.py` runs it
//! in turns with the baselines in Python.

#![allow(clippy::print_stdout)]

use moepress_calibrate::{Means, sweep};
use moepress_checkpoint::{Checkpoint, Files, OsFiles, Silent, Source};
use moepress_model::{Mlp, ModelSpec, Projection, Tensor};
use moepress_nn::{Device, from_rows};
use moepress_stats::{Need, Needs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let number = |name: &str, default: usize| -> Result<usize, Error> {
        match words.iter().position(|word| word == name).map(|at| words.get(at + 1)) {
            None => Ok(default),
            Some(value) => Ok(value.ok_or_else(|| format!("{name} needs a number"))?.parse()?),
        }
    };
    let Some(model) = words.first().map(PathBuf::from) else {
        // Where all benches run, there is nothing to measure without a model.
        println!("{{\"skipped\": \"no model was named\"}}");
        return Ok(());
    };
    let backward = words.iter().any(|word| word == "backward");
    let (count, window) = (number("--windows", 16)?, number("--tokens", 128)?);
    let (threads, repeat) = (number("--threads", 2)?, number("--repeat", 3)?);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let files: Arc<dyn Files> = Arc::new(OsFiles);
    let model = Checkpoint::open(&files, &model)?;
    let vocab = model.spec().vocab as u64;
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab) as u32
    };
    let windows: Vec<Vec<u32>> = (0..count).map(|_| (0..window).map(|_| next()).collect()).collect();
    let needs = match backward {
        true => Needs::of([Need::Routing, Need::Atoms]),
        false => Needs::of([Need::Routing]),
    };
    let means = Means::unlimited(&Device::flex());
    let measure = || -> Result<f64, Error> {
        let started = Instant::now();
        sweep(&model, &windows, &needs, &means, &Silent)?;
        Ok(started.elapsed().as_secs_f64())
    };
    measure()?;
    let tokens = (count * window) as f64;
    // Back: the layer again, and twice the work of a product for the gradients, of which those of weights are not
    // formed: once again.
    let passes = if backward { 3.0 } else { 1.0 };
    let rate =
        |seconds: f64| passes * tokens * flops_per_token(model.spec(), window, backward) / seconds / 1e9;
    if words.iter().any(|word| word == "--turns") {
        println!("{{\"ready\": true}}");
        for line in std::io::stdin().lines() {
            line?;
            let (seconds, peak) = (measure()?, peak(threads));
            let gflops = rate(seconds);
            println!("{{\"seconds\": {seconds}, \"gflops\": {gflops:.1}, \"peak_gflops\": {peak:.1}}}");
        }
        return Ok(());
    }
    let mut seconds = (0..repeat).map(|_| measure()).collect::<Result<Vec<_>, _>>()?;
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let rate = rate(median);
    println!(
        "{{\"tokens_per_second\": {:.1}, \"seconds\": {seconds:?}, \"gflops\": {rate:.1}, \"peak_gflops\": {:.1}}}",
        tokens / median,
        peak(threads)
    );
    Ok(())
}

/// Floating-point operations of the matrix products that a token takes part in, forward.
fn flops_per_token(spec: &ModelSpec, window: usize, head: bool) -> f64 {
    let elements = |tensor| spec.shape(tensor).map_or(0, |shape| shape.iter().product::<usize>()) as f64;
    let layer = |layer: usize| {
        let parts = spec.parts(layer).into_iter().filter(|part| part.expert().is_none());
        let core: f64 = parts.map(|part| elements(Tensor::Layer(layer, part))).sum();
        let routed = match &spec.layers[layer].mlp {
            Mlp::Dense { .. } => 0.0,
            Mlp::Moe(moe) => {
                let width =
                    moe.experts.iter().map(|expert| expert.width()).sum::<usize>() / moe.experts.len();
                let expert: usize =
                    Projection::ALL.map(|p| p.shape(spec.hidden, width).iter().product()).iter().sum();
                (moe.routing.top_k * expert) as f64
            }
        };
        let attention = &spec.attention;
        core + routed + (window * attention.heads * (attention.head_dim + attention.value_dim)) as f64
    };
    let head = if head { (spec.vocab * spec.hidden) as f64 } else { 0.0 };
    2.0 * ((0..spec.layers.len()).map(layer).sum::<f64>() + head)
}

/// GFLOP/s of products of 1024 × 1024 matrices, one per thread at a time.
fn peak(threads: usize) -> f64 {
    use rayon::prelude::*;
    const N: usize = 1024;
    let matrix = || from_rows((0..N * N).map(|i| (i % 7) as f32).collect(), [N, N], &Device::flex());
    let (a, b) = (matrix(), matrix());
    let mut best = 0.0f64;
    for _ in 0..3 {
        let started = Instant::now();
        (0..2 * threads)
            .into_par_iter()
            .for_each(|_| drop(std::hint::black_box(a.clone().matmul(b.clone()))));
        let flops = (2 * threads) as f64 * 2.0 * (N as f64).powi(3);
        best = best.max(flops / started.elapsed().as_secs_f64() / 1e9);
    }
    best
}
