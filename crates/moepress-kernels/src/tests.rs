//! Every kernel against the reference, under the bounds of the crate's documentation.

use crate::activations::Order;
use crate::isa::{self, Room};
use crate::part::Part;
use crate::rows::FEW;
use crate::{Activations, Decode, MatmulError, Precision, five_trits, matmul, matmul_reference, matmuls};
use moepress_quant::codec::{Codes, Packing};
use moepress_quant::formats::encode_nearest;
use moepress_quant::{Dtype, Format, Plain, Stored};
use proptest::prelude::*;

const PLAIN: [&str; 3] = ["bf16", "f16", "f32"];
const PACKED: [&str; 24] = [
    "ternary-asym-g64",
    "ternary-g32-ue5m3",
    "int4-g64-ue5m3",
    "int8-sym-g32-ue5m3",
    "fp8-g128",
    "mxfp4",
    "ternary-g16",
    "ternary-row",
    "int4-row",
    "int3-sym-g16",
    "ternary-g32",
    "ternary-g64",
    "ternary-g128",
    "int2-g32",
    "int2-sym-g64",
    "int3-g64",
    "int3-g128",
    "int3-sym-g32",
    "int4-g32",
    "int4-g64",
    "int4-sym-g128",
    "int8-g64",
    "int8-g128",
    "int8-sym-g32",
];

fn store(format: &str, rows: usize, cols: usize, w: &[f32]) -> Stored {
    match format.parse().unwrap() {
        Format::Plain(dtype) => Stored::Plain(Plain::from_f32(dtype, vec![rows, cols], w)),
        Format::Grouped(format) => Stored::Packed(encode_nearest(format, rows, cols, w, None).unwrap()),
        Format::LowRank(_) => unreachable!("tested in factored.rs"),
    }
}

/// Numbers in −1..1 that `seed` sets.
fn noise(seed: u32, n: usize) -> Vec<f32> {
    let hash = |i: u32| (i ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b);
    (0..n as u32).map(|i| hash(i) as i32 as f32 / 2f32.powi(31)).collect()
}

/// Inputs, weights and what the product should be.
struct Case {
    n: usize,
    rows: usize,
    cols: usize,
    x: Vec<f32>,
    w: Stored,
    reference: Vec<f64>,
}

impl Case {
    fn new(format: &str, n: usize, rows: usize, cols: usize, seed: u32, size: f32) -> Self {
        let mut x: Vec<f32> = noise(seed, n * cols).iter().map(|x| x * size).collect();
        // An outlier, as activations have them.
        x.iter_mut().skip(3).step_by(97).for_each(|x| *x *= 20.0);
        let w = store(format, rows, cols, &noise(!seed, rows * cols));
        let reference = matmul_reference(&Activations::new(&x, n, Precision::Exact), &w).unwrap();
        Self { n, rows, cols, x, w, reference }
    }

    fn inputs(&self, precision: Precision) -> Activations<'_> {
        Activations::new(&self.x, self.n, precision)
    }

    /// Sums of `term(x, w, column)` in f64 over the columns, per element of the product.
    fn sums(&self, term: impl Fn(f64, f64, (usize, usize, usize)) -> f64) -> Vec<f64> {
        let w = self.w.to_f32();
        let element = |i: usize| {
            let (input, row) = (i / self.rows, i % self.rows);
            let (x, w) = (&self.x[input * self.cols..], &w[row * self.cols..]);
            (0..self.cols).map(|j| term(f64::from(x[j]), f64::from(w[j]), (input, row, j))).sum()
        };
        (0..self.n * self.rows).map(element).collect()
    }

    fn exact_bound(&self) -> Vec<f64> {
        let sums = self.sums(|x, w, _| (x * w).abs());
        let underflow = f64::from(f32::MIN_POSITIVE);
        sums.iter().map(|sum| self.cols as f64 * (f64::from(f32::EPSILON) * sum + underflow)).collect()
    }

    fn bf16_bound(&self) -> Vec<f64> {
        let relative = 2f64.powi(-8) + self.cols as f64 * f64::from(f32::EPSILON);
        let underflow = 2f64.powi(-125);
        self.sums(|x, w, _| relative * (x * w).abs() + underflow * (x.abs() + w.abs() + 1.0))
    }

    fn int8_bound(&self, together: usize) -> Vec<f64> {
        let Stored::Packed(packed) = &self.w else { panic!("plain weights have no codes") };
        let step = |input: usize, j: usize| {
            let row = &self.x[input * self.cols..(input + 1) * self.cols];
            let block = &row[j / 128 * 128..self.cols.min(j / 128 * 128 + 128)];
            block.iter().fold(0f64, |most, x| most.max(f64::from(x.abs()))) / 127.0
        };
        let steps: Vec<f64> = (0..self.n * self.cols).map(|i| step(i / self.cols, i % self.cols)).collect();
        let rounding = (self.cols as f64 / together as f64 + 16.0) * f64::from(f32::EPSILON);
        let groups = packed.format.row_groups(self.cols);
        let offset = |row: usize, j: usize| {
            let at = row * groups + j / packed.format.group;
            let bits = packed.offsets.get(at).copied().unwrap_or(0);
            f64::from(packed.format.grid(0, bits).offset).abs()
        };
        let largest = self.w.to_f32().iter().fold(0f64, |most, w| most.max(f64::from(w.abs())));
        self.sums(|x, w, (input, row, j)| {
            let step = steps[input * self.cols + j];
            // scale · code + |offset| is at most |w| + 2 |offset|.
            let magnitude = w.abs() + 2.0 * offset(row, j);
            0.5 * step * w.abs() * (1.0 + 2f64.powi(-16))
                + rounding * magnitude * (x.abs() + step)
                + 2f64.powi(-118) * largest
        })
    }

    fn hold(&self, y: &[f32], bound: &[f64], kernel: &str) {
        assert_eq!((y.len(), bound.len()), (self.reference.len(), self.reference.len()));
        for (i, ((y, reference), bound)) in y.iter().zip(&self.reference).zip(bound).enumerate() {
            let error = (f64::from(*y) - reference).abs();
            let (format, n, rows, cols) = (self.w.format(), self.n, self.rows, self.cols);
            assert!(
                error <= *bound,
                "{kernel}, {format} {n}x{rows}x{cols}, element {i}: {y} for {reference}, bound {bound}"
            );
        }
    }

    fn check_exact(&self) {
        let y = matmul(&self.inputs(Precision::Exact), &self.w).unwrap();
        self.hold(&y, &self.exact_bound(), "exact");
        assert_eq!(matmul(&self.inputs(Precision::Exact), &self.w).unwrap(), y, "not repeatable");
    }

    /// Packed weights: every kernel there is, and the one that is chosen.
    fn check_fast(&self) {
        let Stored::Packed(packed) = &self.w else { panic!("plain weights have no codes") };
        let x = self.inputs(Precision::Fast);
        let order = Order::of(packed.format);
        let together = if self.n < FEW { 256 } else { packed.format.group.min(128) };
        let bound = if order.is_some() { self.int8_bound(256) } else { self.exact_bound() };
        if let Some(order) = order
            && !self.x.is_empty()
            && self.rows > 0
        {
            for (name, kernel) in isa::kernels() {
                let y = self.by(|out| kernel(x.quantized(order), packed, 0, out));
                self.hold(&y, &bound, name);
            }
            if let Some(kernel) = isa::panels() {
                let y = self.by(|out| kernel(x.quantized(order), packed, 0, out, &mut Room::default()));
                self.hold(&y, &self.int8_bound(packed.format.group.min(128)), "panels");
            }
        }
        let y = matmul(&x, &self.w).unwrap();
        let bound = if order.is_some() { self.int8_bound(together) } else { bound };
        self.hold(&y, &bound, "chosen");
        for (i, y) in y.chunks(self.rows.max(1)).enumerate().filter(|_| order.is_some()) {
            let alone = Activations::new(&self.x[i * self.cols..(i + 1) * self.cols], 1, Precision::Fast);
            if self.n < FEW {
                assert_eq!(matmul(&alone, &self.w).unwrap(), y, "alone and in a batch");
            }
            let row = [i];
            let picked = Activations::some(&x, &row);
            assert_eq!(matmul(&picked, &self.w), matmul(&alone, &self.w), "one of many rows");
        }
    }

    /// What a kernel makes of all rows.
    fn by(&self, kernel: impl Fn(&mut Part<'_>)) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.n * self.rows];
        Part::split(&mut y, self.rows, self.rows).for_each(|mut part| kernel(&mut part));
        y
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn exact_products_stay_within_their_bound(
        n in 0usize..12, rows in 0usize..150, cols in 0usize..300, seed: u32, exponent in -140i32..100,
    ) {
        for format in PLAIN.into_iter().chain(PACKED) {
            Case::new(format, n, rows, cols, seed, 2f32.powi(exponent)).check_exact();
        }
    }

    #[test]
    fn eight_bit_products_stay_within_their_bound(
        n in 0usize..40, rows in 0usize..80, cols in 0usize..700, seed: u32, exponent in -140i32..100,
    ) {
        for format in PACKED {
            Case::new(format, n, rows, cols, seed, 2f32.powi(exponent)).check_fast();
        }
    }

    #[test]
    fn bf16_products_stay_within_their_bound(
        n in 0usize..40, rows in 0usize..20, cols in 0usize..300, seed: u32, exponent in -140i32..100,
    ) {
        let case = Case::new("bf16", n, rows, cols, seed, 2f32.powi(exponent));
        case.hold(&matmul(&case.inputs(Precision::Fast), &case.w).unwrap(), &case.bf16_bound(), "bf16");
    }
}

#[test]
fn edge_and_large_shapes() {
    for n in [0, 1, 4, 5] {
        for (rows, cols) in [(0, 0), (0, 7), (7, 0), (1, 1), (2, 13), (1, 129), (64, 32), (65, 33), (3, 256)]
        {
            PLAIN.iter().for_each(|format| Case::new(format, n, rows, cols, 1, 1.0).check_exact());
            for format in PACKED {
                let case = Case::new(format, n, rows, cols, 1, 1.0);
                case.check_exact();
                case.check_fast();
            }
        }
    }
    for format in PACKED {
        for (n, rows, cols) in [(1, 70, 2050), (33, 70, 2050), (17, 18, 4400)] {
            let case = Case::new(format, n, rows, cols, 2, 1.0);
            case.check_exact();
            case.check_fast();
        }
    }
}

#[test]
fn every_codec_computes_the_same() {
    for format in ["ternary-g32", "ternary-row", "int3-sym-row", "int4-g64"] {
        // Few different codes, so that an entropy code is shorter than fields.
        let w: Vec<f32> = noise(4, 70 * 300).iter().map(|w| w.powi(7)).collect();
        let Stored::Packed(fields) = store(format, 70, 300, &w) else { panic!() };
        let best = Stored::Packed(fields.clone().repacked(Packing::Best));
        let fields = Stored::Packed(fields);
        assert!(best.stored_bytes() < fields.stored_bytes(), "{format}");
        for (n, precision) in
            [(1, Precision::Fast), (5, Precision::Fast), (20, Precision::Fast), (3, Precision::Exact)]
        {
            let x = noise(5, n * 300);
            let product = |w: &Stored| matmul(&Activations::new(&x, n, precision), w).unwrap();
            assert_eq!(product(&best), product(&fields), "{format}, {n}");
        }
    }
}

/// A ternary matrix in five-trit bytes.
fn in_trits(case: &mut Case) {
    let Stored::Packed(packed) = &mut case.w else { panic!("plain weights have no codes") };
    let mut codes = vec![0; case.rows * case.cols];
    packed.read_codes(0, &mut codes);
    packed.codes = Codes::trits(case.cols, &codes);
}

fn check_trits(format: &str, n: usize, rows: usize, cols: usize, seed: u32, size: f32) {
    let mut case = Case::new(format, n, rows, cols, seed, size);
    in_trits(&mut case);
    assert_eq!(case.w.validate(), Ok(()));
    let (x, bound) = (case.inputs(Precision::Fast), case.int8_bound(if n < FEW { 160 } else { 32 }));
    case.hold(&matmul(&x, &case.w).unwrap(), &bound, "trits");
    let found = [Decode::Tables, Decode::Multiply].map(|decode| five_trits(&x, &case.w, decode));
    assert_eq!(found[0], found[1], "both ways are exact up to sums in the same order");
    assert_eq!(found[0].is_some(), n < FEW && isa::trits().is_some() && !format.contains("g16"));
    found.iter().flatten().for_each(|y| case.hold(y, &bound, "trits decoded"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn five_trit_products_stay_within_their_bound(
        n in 0usize..18, rows in 0usize..20, cols in 0usize..1400, seed: u32, exponent in -140i32..100,
    ) {
        for format in ["ternary-g16", "ternary-g32", "ternary-g64", "ternary-g128", "ternary-row"] {
            check_trits(format, n, rows, cols, seed, 2f32.powi(exponent));
        }
    }
}

#[test]
fn plain_tensors_fold_leading_dimensions() {
    let w = noise(5, 24);
    let tensor = |shape: Vec<usize>| Stored::Plain(Plain::from_f32(Dtype::F32, shape, &w));
    let product = |x: &[f32], n, w: &Stored| matmul(&Activations::new(x, n, Precision::Exact), w);
    let x = noise(6, 8);
    assert_eq!(product(&x, 2, &tensor(vec![2, 3, 4])), product(&x, 2, &tensor(vec![6, 4])));
    assert_eq!(product(&w, 1, &tensor(vec![24])).map(|y| y.len()), Ok(1));
    assert_eq!(product(&x, 3, &tensor(vec![6, 4])), Err(MatmulError::Input { n: 3, cols: 4, found: 8 }));
}

#[test]
fn damaged_activations_do_not_pass_for_numbers() {
    for format in PACKED {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(1, 300);
            x[290] = bad;
            let w = store(format, 2, 300, &noise(2, 600));
            let y = matmul(&Activations::new(&x, 1, Precision::Fast), &w).unwrap();
            assert!(!y.iter().any(|y| y.is_finite()), "{format}: {y:?}");
        }
    }
}

#[test]
fn threads_change_nothing() {
    let cases: Vec<Case> = ["ternary-g32", "int4-g64", "bf16"]
        .into_iter()
        .flat_map(|format| [(1, 700), (19, 130)].map(|(n, rows)| Case::new(format, n, rows, 520, 3, 1.0)))
        .collect();
    for precision in [Precision::Exact, Precision::Fast] {
        let together = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let inputs: Vec<_> = cases.iter().map(|case| case.inputs(precision)).collect();
            let products: Vec<_> = inputs.iter().zip(&cases).map(|(x, case)| (x, &case.w)).collect();
            pool.install(|| matmuls(&products).unwrap())
        };
        let alone: Vec<_> =
            cases.iter().map(|case| matmul(&case.inputs(precision), &case.w).unwrap()).collect();
        assert_eq!(together(1), alone);
        assert_eq!(together(3), alone);
    }
}
