//! The search for scales against rounding to nearest.

#![cfg(test)]

use moepress_quant::formats::{EncodeError, GridError, encode_nearest};
use moepress_quant::solve::search_scales;
use moepress_quant::{Format, Grouped, Stored};
use proptest::prelude::*;

fn grouped(name: &str) -> Grouped {
    match name.parse() {
        Ok(Format::Grouped(grouped)) => grouped,
        other => panic!("{name}: {other:?}"),
    }
}

const FORMATS: [&str; 9] = [
    "ternary-g32",
    "int2-g64",
    "int3-g32",
    "int4-g128",
    "int2-sym-g32",
    "int4-sym-g64",
    "ternary-asym-row",
    "int4-row-ue5m3",
    "mxfp4",
];

/// Numbers in −1..1 to the 5th power: heavy tails.
fn heavy(n: usize) -> Vec<f32> {
    let noise = |i: u32| (i.wrapping_mul(2_654_435_769) as i32 as f32) / 2f32.powi(31);
    (0..n as u32).map(|i| noise(i * i + 7).powi(5)).collect()
}

fn error(w: &[f32], q: &[f32]) -> f64 {
    w.iter().zip(q).map(|(w, q)| f64::from(w - q).abs().powf(0.7)).sum()
}

#[test]
fn heavy_tails_gain() {
    let (rows, cols) = (16, 256);
    let w = heavy(rows * cols);
    for (name, most) in FORMATS.into_iter().zip([0.98, 0.85, 0.9, 0.7, 0.98, 0.97, 0.99, 0.97, 1.0]) {
        let (packed, report) = search_scales(grouped(name), rows, cols, &w).unwrap();
        let nearest = encode_nearest(grouped(name), rows, cols, &w, None).unwrap().to_f32();
        assert!((report.error - error(&w, &packed.to_f32())).abs() <= 1e-9 * report.error);
        assert!((report.error_nearest - error(&w, &nearest)).abs() <= 1e-9 * report.error);
        assert!(report.error <= most * report.error_nearest, "{name}: {report:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn never_worse_and_repeatable(
        rows in 0usize..4, cols in 0usize..150, seed in proptest::collection::vec(-2f32..2.0, 600), shrink in 0i32..20,
    ) {
        let w: Vec<f32> = seed[..rows * cols].iter().map(|w| w.powi(3) * 0.5f32.powi(shrink)).collect();
        for name in FORMATS {
            let (packed, report) = search_scales(grouped(name), rows, cols, &w).unwrap();
            prop_assert_eq!(Stored::Packed(packed.clone()).validate(), Ok(()));
            prop_assert!(report.error <= report.error_nearest);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            let again = pool.install(|| search_scales(grouped(name), rows, cols, &w));
            prop_assert_eq!(again, Ok((packed, report)));
        }
    }
}

#[test]
fn hostile_weights() {
    let format = grouped("int4-g32");
    let mut w = heavy(2 * 40);
    w[40 + 33] = f32::NAN;
    let source = GridError::NotFinite { index: 1 };
    assert_eq!(search_scales(format, 2, 40, &w), Err(EncodeError::Grid { row: 1, col: 32, source }));
    assert!(matches!(search_scales(format, 2, 41, &w), Err(EncodeError::Length { .. })));
    for constant in [0.0, 0.5, -3.0] {
        let (packed, report) = search_scales(format, 1, 40, &[constant; 40]).unwrap();
        assert_eq!((packed.to_f32(), report.error), (vec![constant; 40], 0.0));
    }
}
