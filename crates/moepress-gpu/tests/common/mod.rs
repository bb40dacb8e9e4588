//! Matrices in every form there is, their products by definition, and how far a device may be from those.

#![allow(dead_code)] // every test uses another part

pub mod compact;
pub mod models;

use moepress_gpu::{Bank, Gpu, GpuError, Shape, matmul};
use moepress_kernels::{Activations, Precision, matmul_reference};
use moepress_nn::Backend;
use moepress_quant::codec::{Codes, Packing};
use moepress_quant::formats::encode_nearest;
use moepress_quant::{Dtype, Format, Packed, Plain, Scale, Stored};

/// Every form of code, group, scale and offset; `:trits` and `:best` name a packing.
pub const FORMS: [&str; 30] = [
    "bf16",
    "f16",
    "f32",
    "ternary-g16",
    "ternary-g32",
    "ternary-g128",
    "ternary-row",
    "ternary-asym-g32",
    "ternary-asym-row",
    "ternary-row:trits",
    "ternary-g16:trits",
    "ternary-g64:trits",
    "ternary-asym-g32:trits",
    "ternary-row:best",
    "int2-g16",
    "int2-sym-g64",
    "int2-row",
    "int3-g16",
    "int3-sym-g32",
    "int3-sym-row",
    "int3-g128",
    "int4-g64",
    "int4-sym-row",
    "int4-sym-g128",
    "int4-g32-ue5m3",
    "int8-g128",
    "int8-sym-g32",
    "int8-row:best",
    "fp8-g64",
    "mxfp4",
];

/// Numbers in −1..1 that `seed` sets.
pub fn noise(seed: u32, n: usize) -> Vec<f32> {
    let hash = |i: u32| (i ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b);
    (0..n as u32).map(|i| hash(i ^ hash(seed)) as i32 as f32 / 2f32.powi(31)).collect()
}

/// Values rounded to a form.
pub fn store(form: &str, rows: usize, cols: usize, values: &[f32]) -> Stored {
    let (format, packing) = form.split_once(':').unwrap_or((form, "fields"));
    let format = match format.parse().unwrap() {
        Format::Plain(dtype) => return Stored::Plain(Plain::from_f32(dtype, vec![rows, cols], values)),
        Format::Grouped(format) => format,
        Format::LowRank(_) => unreachable!("devices have no kernels for {form}"),
    };
    let mut packed = encode_nearest(format, rows, cols, values, None).unwrap();
    match packing {
        "trits" => packed.codes = trits(&packed),
        "best" => packed = packed.repacked(Packing::Best),
        _ => {}
    }
    let stored = Stored::Packed(packed);
    stored.validate().unwrap();
    stored
}

fn trits(packed: &Packed) -> Codes {
    let mut codes = vec![0; packed.rows * packed.cols];
    packed.read_codes(0, &mut codes);
    let byte = |codes: &[u8]| codes.iter().rev().fold(0, |byte, code| 3 * byte + code);
    Codes::Trits(codes.chunks(packed.cols.max(1)).flat_map(|row| row.chunks(5).map(byte)).collect())
}

/// What the error bound multiplies |x| with: |w|, and with offsets scale · code + |offset|.
fn magnitudes(w: &Stored) -> Vec<f32> {
    let mut values = w.to_f32();
    if let Stored::Packed(packed) = w
        && !packed.offsets.is_empty()
    {
        let groups = packed.format.row_groups(packed.cols);
        for (at, value) in values.iter_mut().enumerate() {
            let group = at % packed.cols / packed.format.group;
            let offset = Scale::F16.value(packed.offsets[at / packed.cols * groups + group]);
            *value = (*value - offset).abs() + offset.abs();
        }
    }
    values.iter().map(|value| value.abs()).collect()
}

fn reference(x: &[f32], n: usize, w: &Stored) -> Vec<f64> {
    matmul_reference(&Activations::new(x, n, Precision::Exact), w).unwrap()
}

/// The largest share of its error bound that an element of the product on the device is off by.
pub fn worst(gpu: &Gpu, w: &Stored, x: &[f32], n: usize, shape: Option<Shape>) -> Result<f64, GpuError> {
    let (rows, cols) = w.matrix_shape();
    let y = matmul(gpu, &Bank::one(gpu, w)?, x, n, shape)?;
    let wanted = reference(x, n, w);
    assert_eq!(y.len(), if cols == 0 && n * rows == 0 { 0 } else { n * rows });
    let m = magnitudes(w);
    let most = |values: &[f32]| f64::from(values.iter().fold(0f32, |most, v| most.max(v.abs())));
    let small = cols as f64 * 2f64.powi(-124) * (1.0 + most(x) + most(&m));
    let plain = Stored::Plain(Plain::from_f32(Dtype::F32, vec![rows, cols], &m));
    let absolute: Vec<f32> = x.iter().map(|x| x.abs()).collect();
    let sums = reference(&absolute, n, &plain);
    let shares = y.iter().zip(&wanted).zip(&sums).map(|((y, wanted), sum)| {
        let bound = (cols as f64 + 4.0) * f64::from(f32::EPSILON) * sum + small;
        let error = (f64::from(*y) - wanted).abs();
        if error.is_nan() { f64::INFINITY } else { error / bound.max(f64::MIN_POSITIVE) }
    });
    Ok(shares.fold(0.0, f64::max))
}

/// The backend that `MOEPRESS_GPU` names, or else wgpu; none, with the reason printed, where it has no device.
pub fn backend() -> Option<Backend> {
    let backend = match std::env::var("MOEPRESS_GPU").as_deref() {
        Ok("cuda") => Backend::Cuda,
        _ => Backend::Wgpu,
    };
    backend.device().map(|_| backend).map_err(|reason| eprintln!("skipped: {reason}")).ok()
}

/// The device of [`backend`].
pub fn gpu() -> Option<Gpu> {
    backend().map(|backend| Gpu::new(&backend.device().unwrap()).unwrap())
}
