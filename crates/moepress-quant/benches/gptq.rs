//! GPTQ of one layer: 32 experts, gate and up 512 × 1024 on one gram, down 1024 × 512, two threads over experts.
//!
//! `cargo bench -p moepress-quant --bench gptq -- FORMAT ROUNDS` prints JSON; `benches/gptq.py` compares it
//! with numpy on the same numbers.

#![allow(clippy::print_stdout, missing_docs)]

use moepress_quant::solve::{Factor, Options, SolveError};
use moepress_quant::{Format, Grouped};
use rayon::prelude::*;
use std::error::Error;
use std::time::Instant;

const EXPERTS: u32 = 32;
const HIDDEN: usize = 1024;
const INNER: usize = 512;
const RANK: usize = 16;

struct Expert {
    input: Vec<f32>,
    inner: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
}

/// Numbers in −1..1 by hashing (lowbias32).
fn noise(seed: u32, n: usize) -> Vec<f32> {
    let hash = |i: u32| {
        let x = i.wrapping_add(seed.wrapping_mul(0x9e37_79b9));
        let x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
        let x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
        ((x ^ x >> 16) >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n as u32).map(hash).collect()
}

/// A gram of `RANK` shared directions and independent columns.
fn gram(seed: u32, n: usize) -> Vec<f32> {
    let (shared, own) = (noise(seed, n * RANK), noise(seed + 1, n));
    let row = |i: usize| &shared[i * RANK..(i + 1) * RANK];
    let dot = |i: usize, j: usize| row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum::<f32>();
    (0..n * n)
        .map(|at| dot(at / n, at % n) + if at / n == at % n { 1.5 + own[at / n] } else { 0.0 })
        .collect()
}

fn expert(index: u32) -> Expert {
    let weights = |seed: u32| noise(seed, HIDDEN * INNER).iter().map(|w| w * w * w * 0.1).collect();
    let seed = index * 8;
    Expert {
        input: gram(seed, HIDDEN),
        inner: gram(seed + 2, INNER),
        gate: weights(seed + 4),
        up: weights(seed + 5),
        down: weights(seed + 6),
    }
}

/// Objectives of the result and of rounding to nearest.
fn solve(expert: &Expert, format: Grouped) -> Result<[f64; 2], SolveError> {
    let input = Factor::new(&expert.input, HIDDEN, Options::default())?;
    let gate = input.solve(format, INNER, &expert.gate)?.1;
    let up = input.solve(format, INNER, &expert.up)?.1;
    let inner = Factor::new(&expert.inner, INNER, Options::default())?;
    let down = inner.solve(format, HIDDEN, &expert.down)?.1;
    let all = [gate, up, down];
    Ok([all.iter().map(|r| r.objective).sum(), all.iter().map(|r| r.objective_nearest).sum()])
}

/// Seconds of processor time so far, all threads, in ticks of 1/100 s: on a shared machine the fairer measure.
fn cpu() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
    Ok(fields.map(|ticks| ticks.parse::<f64>()).sum::<Result<f64, _>>()? / 100.0)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let name = words.next().unwrap_or_else(|| "int4-g128".to_owned());
    let rounds: usize = words.next().map_or(Ok(5), |word| word.parse())?;
    let Format::Grouped(format) = name.parse()? else { return Err("the format has no groups".into()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    let experts: Vec<Expert> = pool.install(|| (0..EXPERTS).into_par_iter().map(expert).collect());
    let (mut seconds, mut objectives, cpu_start) = (Vec::new(), [0.0; 2], cpu()?);
    for _ in 0..rounds {
        let start = Instant::now();
        let all: Result<Vec<[f64; 2]>, SolveError> =
            pool.install(|| experts.par_iter().map(|expert| solve(expert, format)).collect());
        seconds.push(start.elapsed().as_secs_f64());
        objectives = all?.iter().fold([0.0; 2], |sum, o| [sum[0] + o[0], sum[1] + o[1]]);
    }
    let cpu = (cpu()? - cpu_start) / rounds as f64;
    seconds.sort_by(f64::total_cmp);
    let [objective, nearest] = objectives;
    println!(
        "{{\"format\": \"{name}\", \"cpu\": {cpu}, \"median\": {}, \"seconds\": {seconds:?}, \"objective\": {objective}, \
         \"objective_nearest\": {nearest}}}",
        seconds[rounds / 2]
    );
    Ok(())
}
