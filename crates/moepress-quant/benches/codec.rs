//! What the codecs cost: bits of a code, and nanoseconds of one core to pack, to unpack and to know the size of one.
//!
//! `cargo bench -p moepress-quant --bench codec -- ROUNDS` prints medians.

#![allow(clippy::print_stdout, missing_docs)]

use moepress_quant::codec::{Packing, stored_bytes};
use moepress_quant::formats::{GridRule, encode_on};
use moepress_quant::{Format, Grouped, Stored};
use std::error::Error;
use std::time::Instant;

const ROWS: usize = 1024;
const COLS: usize = 1024;
/// Formats, and how their grids are chosen.
const FORMATS: [(&str, GridRule); 6] = [
    ("ternary-row", GridRule::Optimal),
    ("ternary-row", GridRule::MinMax),
    ("int2-row", GridRule::MinMax),
    ("int3-row", GridRule::MinMax),
    ("int4-row", GridRule::MinMax),
    ("int8-row", GridRule::MinMax),
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

/// The median of nanoseconds a code.
fn time<T>(rounds: usize, mut work: impl FnMut() -> T) -> f64 {
    let mut seconds: Vec<f64> = (0..=rounds)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(work());
            start.elapsed().as_secs_f64()
        })
        .skip(1)
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[rounds / 2] * 1e9 / (ROWS * COLS) as f64
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let rounds = words.next().map_or(Ok(7), |word| word.parse::<usize>())?.max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    pool.install(|| bench(rounds))
}

fn bench(rounds: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
    println!("{:22} {:8} {:>6} {:>8} {:>8} {:>8}", "format", "codec", "bits", "pack", "to f32", "size");
    let w = weights();
    for (name, rule) in FORMATS {
        let Format::Grouped(format) = name.parse()? else { return Err("the format has no groups".into()) };
        let fields = encode_on(format, rule, ROWS, COLS, &w, None)?;
        let mut codes = vec![0; ROWS * COLS];
        fields.read_codes(0, &mut codes);
        for packing in [Packing::Fields, Packing::Best] {
            let packed = fields.clone().repacked(packing);
            let bits = packed.codes.bytes().len() as f64 * 8.0 / codes.len() as f64;
            let codec = format!("{:?}", packed.codes.codec()).to_lowercase();
            let stored = Stored::Packed(packed.clone());
            let mut out = vec![0.0; 64 * COLS];
            // As a product reads it.
            let unpack =
                time(rounds, || (0..ROWS).step_by(64).for_each(|row| stored.rows_to_f32(row, &mut out)));
            let pack = time(rounds, || fields.clone().repacked(packing));
            let size = time(rounds, || stored_bytes(format, ROWS, COLS, &codes, packing));
            let name = format!("{} {}", Grouped { ..format }, rule.name());
            println!("{name:22} {codec:8} {bits:6.3} {pack:8.2} {unpack:8.2} {size:8.2}");
        }
    }
    println!("nanoseconds of one core for a code; pack includes unpacking fields");
    Ok(())
}
