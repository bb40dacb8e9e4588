//! Products with matrices of one format.

use crate::{BenchError, Roofline, median};
use moepress_kernels::{Activations, Decode, Precision, five_trits, matmul};
use moepress_quant::codec::Codes;
use moepress_quant::{Code, Dtype, Format, Packed, Plain, Scale, Stored};
use serde::Serialize;
use std::hint::black_box;
use std::time::Instant;

/// Bytes of the matrices that are multiplied in turn: far more than caches hold.
const BYTES: u64 = 192 << 20;
/// f16 bits of the made-up scales, 0.0078.
const SCALE: u16 = 0x2000;

/// The shape of a product x · Wᵀ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Rows of x.
    pub inputs: usize,
    /// Rows of W.
    pub rows: usize,
    /// Columns of both.
    pub cols: usize,
}

/// How the codes of a matrix lie, and become numbers again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Coding {
    /// In fields of bits, or plain.
    #[default]
    Fields,
    /// In five-trit bytes, decoded by tables, on one thread.
    Trits,
    /// The same, decoded by multiplication.
    TritsMultiplied,
}

/// The codings of a format that can be measured, of which fields are the first.
pub fn codings(format: Format) -> &'static [Coding] {
    match format {
        Format::Grouped(format) if format.code == Code::Ternary => {
            &[Coding::Fields, Coding::Trits, Coding::TritsMultiplied]
        }
        _ => &[Coding::Fields],
    }
}

/// What products of one format and shape came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kernel {
    /// Format of the weights.
    pub format: Format,
    /// How they lie.
    pub coding: Coding,
    /// Shape of a product.
    pub shape: Shape,
    /// Whether activations stay f32.
    pub exact: bool,
    /// Median seconds of a product.
    pub seconds: f64,
    /// Bytes of weights per second.
    pub gb_per_s: f64,
    /// Per cent of what memory gives.
    pub of_read: f64,
    /// Billions of operations per second, two for each weight and input.
    pub gops: f64,
    /// Per cent of the fastest arithmetic.
    pub of_arithmetic: f64,
}

/// Measures products with matrices that come from memory, as often as `rounds` says, in the pool it is called in.
///
/// # Errors
/// No matrix of that format can be made up, or there is no kernel for it here.
pub fn kernel(
    (format, coding): (Format, Coding),
    shape: Shape,
    precision: Precision,
    rounds: usize,
    roofline: &Roofline,
) -> Result<Kernel, BenchError> {
    let Shape { inputs, rows, cols } = shape;
    let bytes =
        made_up(format, coding, rows, cols, 0).ok_or(BenchError::Format(format))?.stored_bytes().max(1);
    let count = (BYTES / bytes).clamp(1, 4096) as usize;
    let weights = (0..count)
        .map(|seed| made_up(format, coding, rows, cols, seed as u64).ok_or(BenchError::Format(format)))
        .collect::<Result<Vec<_>, _>>()?;
    let x: Vec<f32> = (0..inputs * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    // All of them a round for a single input, so that each comes from memory; fewer where arithmetic counts.
    let timed = count.div_ceil(inputs.max(1));
    let mut seconds = Vec::with_capacity(rounds);
    for weights in weights.chunks(timed).cycle().take(rounds + 1) {
        let started = Instant::now();
        for w in weights {
            let x = Activations::new(&x, inputs, precision);
            let decode = match coding {
                Coding::Fields => {
                    black_box(matmul(&x, w)?);
                    continue;
                }
                Coding::Trits => Decode::Tables,
                Coding::TritsMultiplied => Decode::Multiply,
            };
            black_box(five_trits(&x, w, decode).ok_or(BenchError::Format(format))?);
        }
        seconds.push(started.elapsed().as_secs_f64() / weights.len() as f64);
    }
    // The first round fills caches and starts threads.
    let seconds = median(seconds.split_off(1)).max(1e-9);
    let gb_per_s = bytes as f64 / seconds / 1e9;
    let gops = 2.0 * (inputs * rows * cols) as f64 / seconds / 1e9;
    Ok(Kernel {
        format,
        coding,
        shape,
        exact: precision == Precision::Exact,
        seconds,
        gb_per_s,
        of_read: roofline.of_read(gb_per_s),
        gops,
        of_arithmetic: roofline.of_arithmetic(gops),
    })
}

/// A matrix of arbitrary weights, made without rounding any.
fn made_up(format: Format, coding: Coding, rows: usize, cols: usize, seed: u64) -> Option<Stored> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut byte = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let stored = match format {
        Format::Plain(dtype) => {
            let count = rows * cols;
            let bytes = match dtype {
                // Numbers of ordinary size: exponents near that of one.
                Dtype::Bf16 => (0..count).flat_map(|_| [byte(), 0x3d]).collect(),
                Dtype::F16 => (0..count).flat_map(|_| [byte(), 0x2c]).collect(),
                Dtype::F32 => (0..count).flat_map(|_| [0, 0, byte(), 0x3d]).collect(),
            };
            Stored::Plain(Plain { dtype, shape: vec![rows, cols], bytes })
        }
        Format::Grouped(format) => {
            let groups = rows * format.row_groups(cols);
            let offsets = if format.has_offsets() { vec![SCALE | 0x8000; groups] } else { vec![] };
            let scale = match format.scale {
                Scale::F16 | Scale::Ue5m3 => SCALE,
                Scale::E8m0 => 117,
            };
            let scales = vec![scale; groups];
            if coding != Coding::Fields {
                // Each byte is five trits.
                let codes = Codes::Trits((0..rows * cols.div_ceil(5)).map(|_| byte() % 243).collect());
                let stored = Stored::Packed(Packed { format, rows, cols, codes, scales, offsets });
                return stored.validate().is_ok().then_some(stored);
            }
            let codes = (0..rows * format.row_bytes(cols)).map(|_| byte());
            let codes = match format.code {
                // No field is 11.
                Code::Ternary => codes.map(|byte| byte & !(byte >> 1 & 0x55)).collect(),
                // No code is NaN.
                Code::Fp8 => codes.map(|byte| byte & 0x7e).collect(),
                Code::Int(_) | Code::Fp4 => codes.collect(),
            };
            let codes = Codes::Fields(codes);
            Stored::Packed(Packed { format, rows, cols, codes, scales, offsets })
        }
        // A product of three others, which can be measured themselves.
        Format::LowRank(_) => return None,
    };
    stored.validate().is_ok().then_some(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_measured() {
        let roofline = Roofline {
            threads: 1,
            read_gb_per_s: 10.0,
            fma_gflops: None,
            bf16_gflops: None,
            int8_gops: Some(100.0),
        };
        for name in ["bf16", "f16", "f32", "ternary-g64", "int2-row", "int3-sym-g16", "int4-g128", "int8-g32"]
        {
            let shape = Shape { inputs: 3, rows: 2048, cols: 4100 };
            let found = kernel((name.parse().unwrap(), Coding::Fields), shape, Precision::Fast, 1, &roofline)
                .unwrap();
            assert!(found.seconds > 0.0 && found.gb_per_s.is_finite() && found.of_read > 0.0, "{name}");
            assert!((found.of_arithmetic - found.gops).abs() < 1e-9, "per cent of 100 are the figure itself");
        }
    }
}
