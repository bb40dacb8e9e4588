//! Every kernel against the f64 reference, within the error bound of the crate's documentation.

#![cfg(feature = "device")]
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use common::{FORMS, gpu, noise, store, worst};
use moepress_gpu::{FewShape, Gpu, ManyShape, Shape};
use proptest::prelude::*;

fn check(gpu: &Gpu, form: &str, [n, rows, cols]: [usize; 3], size: f32, seed: u32, shape: Option<Shape>) {
    let w = store(form, rows, cols, &noise(!seed, rows * cols));
    let x: Vec<f32> = noise(seed, n * cols).iter().map(|x| x * size).collect();
    let share = worst(gpu, &w, &x, n, shape).unwrap();
    assert!(share <= 1.0, "{form}, {n} × {cols} times {rows} rows, {shape:?}: {share} of the bound");
}

/// One input, few and many, of every remainder: rows and columns that fill nothing, and one row.
#[test]
fn ordinary_and_ragged_shapes() {
    let Some(gpu) = gpu() else { return };
    for form in FORMS {
        for n in [1, 2, 3, 7, 70] {
            for (rows, cols) in [(1, 1), (1, 129), (65, 40), (96, 256)] {
                check(&gpu, form, [n, rows, cols], 1.0, 7, None);
            }
        }
    }
}

#[test]
fn empty_shapes() {
    let Some(gpu) = gpu() else { return };
    for form in ["bf16", "ternary-row", "int4-g64", "ternary-g16:trits"] {
        for shape in [[0, 4, 4], [3, 0, 5], [3, 5, 0], [20, 5, 0], [0, 0, 0]] {
            check(&gpu, form, shape, 1.0, 1, None);
        }
    }
}

#[test]
fn large_shapes() {
    let Some(gpu) = gpu() else { return };
    for form in ["bf16", "ternary-g128", "ternary-row:trits", "int3-sym-g32", "int4-g64", "int8-sym-g32"] {
        check(&gpu, form, [1, 777, 4099], 1.0, 3, None);
        check(&gpu, form, [33, 300, 2050], 1.0, 3, None);
    }
}

/// Sizes of tiles are a matter of speed.
#[test]
fn every_shape_of_cube() {
    let Some(gpu) = gpu() else { return };
    for form in ["ternary-row", "ternary-g32:trits", "int3-g16", "int4-g64", "bf16"] {
        for (inputs, rows, planes) in [(1, 1, 1), (1, 8, 8), (2, 2, 4), (4, 4, 2)] {
            let shape = Shape::Few(FewShape { inputs, rows, planes, plane_sums: false });
            check(&gpu, form, [5, 71, 300], 1.0, 5, Some(shape));
        }
        for (entries, rows) in [(1, 1), (2, 4), (8, 4)] {
            check(&gpu, form, [70, 71, 300], 1.0, 5, Some(Shape::Many(ManyShape { entries, rows })));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_shape(n in 0usize..20, rows in 0usize..100, cols in 0usize..200, seed: u32, exponent in -100i32..60, at: usize) {
        if let Some(gpu) = gpu() {
            check(&gpu, FORMS[at % FORMS.len()], [n, rows, cols], 2f32.powi(exponent), seed, None);
        }
    }
}
