//! Rounding to nearest and packing, from bf16 in memory to packed codes and scales: GB of bf16 read a second.
//!
//! `cargo bench -p moepress-quant --bench nearest -- THREADS ROUNDS FORMAT...` prints the median of every format.

#![allow(clippy::print_stdout, missing_docs)]

use moepress_quant::formats::{GridRule, encode_stored};
use moepress_quant::{Dtype, Format, Plain, Stored};
use std::error::Error;
use std::time::Instant;

const ROWS: usize = 4096;
const COLS: usize = 4096;
const FORMATS: [&str; 9] = [
    "int4-g32",
    "int4-g128",
    "int4-row",
    "int8-row",
    "int3-g64",
    "int2-g64",
    "ternary-g32",
    "ternary-g128",
    "ternary-row",
];

/// Numbers of about normal distribution, by hashing (lowbias32).
fn weights() -> Vec<f32> {
    let hash = |x: u32| {
        let x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
        let x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
        x ^ x >> 16
    };
    let byte = |x: u32, at: u32| (x >> (8 * at) & 255) as f32 - 127.5;
    (0..(ROWS * COLS) as u32).map(hash).map(|x| (0..4).map(|at| byte(x, at)).sum::<f32>() / 4096.0).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let threads = words.next().map_or(Ok(2), |word| word.parse())?;
    let rounds = words.next().map_or(Ok(7), |word| word.parse::<usize>())?.max(1);
    let named: Vec<String> = words.collect();
    let names = if named.is_empty() { FORMATS.map(str::to_owned).to_vec() } else { named };
    let stored = Stored::Plain(Plain::from_f32(Dtype::Bf16, vec![ROWS, COLS], &weights()));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    for name in names {
        let Format::Grouped(format) = name.parse()? else { return Err("the format has no groups".into()) };
        let mut seconds = Vec::new();
        for _ in 0..=rounds {
            let start = Instant::now();
            let packed = pool.install(|| encode_stored(format, GridRule::usual(format), &stored, None))?;
            seconds.push(start.elapsed().as_secs_f64());
            std::hint::black_box(packed);
        }
        // The first round brings the pages in.
        seconds.remove(0);
        seconds.sort_by(f64::total_cmp);
        let speed = |seconds: f64| stored.stored_bytes() as f64 / seconds / 1e9;
        let (median, least, most) =
            (speed(seconds[rounds / 2]), speed(seconds[rounds - 1]), speed(seconds[0]));
        println!(
            "{name:14} {median:6.2} GB/s of bf16 (of {rounds}: {least:.2} to {most:.2}), {threads} threads"
        );
    }
    Ok(())
}
