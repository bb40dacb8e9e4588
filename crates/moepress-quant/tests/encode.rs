//! Encoding whole matrices: every format, ragged shapes, threads, and tensors that lie.

#![cfg(test)]

use moepress_quant::codec::Codes;
use moepress_quant::formats::{
    EncodeError, Grid, GridError, GridRule, encode_nearest, encode_on, implementation, implementation_of,
    pack_codes, rounding_cost,
};
use moepress_quant::{Code, Dtype, Format, Grouped, Packed, Plain, Scale, Stored, StoredError};
use proptest::prelude::*;

fn all_formats() -> Vec<Grouped> {
    Grouped::all().collect()
}

fn grouped(name: &str) -> Grouped {
    match name.parse() {
        Ok(Format::Grouped(grouped)) => grouped,
        other => panic!("{name}: {other:?}"),
    }
}

/// Numbers in −1..1 without a random number generator.
fn noise(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_769) as i32 as f32) / 2f32.powi(31)).collect()
}

fn matrix() -> impl Strategy<Value = (usize, usize, Vec<f32>, Vec<f64>)> {
    (0usize..5, prop_oneof![Just(0), Just(1), 1usize..300]).prop_flat_map(|(rows, cols)| {
        let weights = proptest::collection::vec(0.0..2.0, cols);
        (Just(rows), Just(cols), proptest::collection::vec(-3f32..3.0, rows * cols), weights)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn encodings_are_valid_nearest_and_repeatable((rows, cols, w, h) in matrix(), at in any::<usize>()) {
        for format in all_formats() {
            let packed = encode_nearest(format, rows, cols, &w, Some(&h)).unwrap();
            let stored = Stored::Packed(packed.clone());
            prop_assert_eq!(stored.validate(), Ok(()));
            // One scale may stand for all.
            let spared = if packed.one_scale() { packed.scales.len() - 1 } else { 0 } * format.scale.bytes();
            prop_assert_eq!(stored.stored_bytes() + spared as u64, format.stored_bytes(rows, cols));

            // The same bytes come out of the steps a solver takes.
            let (mut codes, mut grids, mut values) = (Vec::new(), Vec::new(), Vec::new());
            let implementation = implementation(format).unwrap();
            for row in w.chunks(cols.max(1)) {
                for (w, h) in row.chunks(format.group).zip(h.chunks(format.group)) {
                    let grid = implementation.fit(w, Some(h)).unwrap();
                    grids.push(grid);
                    codes.extend(w.iter().map(|&w| implementation.round(w, grid)));
                    values.extend(w.iter().map(|&w| implementation.value(implementation.round(w, grid), grid)));
                }
            }
            prop_assert_eq!(pack_codes(format, rows, cols, &codes, &grids), Ok(packed.clone()));
            prop_assert_eq!(&stored.to_f32(), &values);

            let row_weight: Vec<f64> = (0..rows).map(|row| row as f64).collect();
            let cost = rounding_cost(format, rows, cols, &w, &row_weight, &h).unwrap();
            // The cost is that of grids fitted without weights, as plain rounding to nearest uses them.
            let nearest = Stored::Packed(encode_nearest(format, rows, cols, &w, None).unwrap()).to_f32();
            let square = |i: usize| row_weight[i / cols] * h[i % cols] * f64::from(w[i] - nearest[i]).powi(2);
            let expected: f64 = (0..w.len()).map(square).sum();
            prop_assert!((cost - expected).abs() <= 1e-9 * expected);

            // What is cut short, or holds what no encoder writes, is refused.
            let refuse = |change: &dyn Fn(&mut Packed)| {
                let mut packed = packed.clone();
                change(&mut packed);
                Stored::Packed(packed).validate().is_err()
            };
            if !w.is_empty() {
                prop_assert!(refuse(&|p| p.codes = Codes::Fields(p.codes.bytes()[1..].to_vec())));
                prop_assert!(refuse(&|p| p.scales.push(0)));
                prop_assert!(refuse(&|p| p.offsets.push(0)));
                let spoil_scale = |p: &mut Packed| {
                    let group = at % p.scales.len();
                    p.scales[group] = if format.scale == Scale::E8m0 { 255 } else { 0x7e00 };
                };
                prop_assert!(refuse(&spoil_scale));
                if format.code == Code::Ternary {
                    let (row, col) = (at % w.len() / cols, at % cols);
                    let byte = row * format.row_bytes(cols) + col / 4;
                    let mut bytes = packed.codes.bytes().to_vec();
                    bytes[byte] |= 3 << (col % 4 * 2);
                    prop_assert!(refuse(&|p| p.codes = Codes::Fields(bytes.clone())));
                }
            }
        }
    }
}

#[test]
fn threads_change_nothing() {
    let (rows, cols) = (37, 200);
    let (w, h) = (noise(rows * cols), vec![0.5; cols]);
    for format in all_formats() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let cost = rounding_cost(format, rows, cols, &w, &vec![1.0; rows], &h).unwrap();
                (encode_nearest(format, rows, cols, &w, Some(&h)).unwrap(), cost.to_bits())
            })
        };
        assert_eq!(run(1), run(4), "{}", Format::Grouped(format));
    }
}

#[test]
fn more_bits_cost_less() {
    let (rows, cols) = (8, 256);
    let w = noise(rows * cols);
    let cost = |name| rounding_cost(grouped(name), rows, cols, &w, &[1.0; 8], &[1.0; 256]).unwrap();
    for ladder in [
        ["ternary-g32", "int2-g32", "int3-g32", "int4-g32", "int8-g32"],
        ["ternary-g64", "int2-sym-g64", "int3-sym-g64", "int4-sym-g64", "int8-sym-g64"],
        ["int3-row", "int3-g128", "int3-g64", "int3-g32", "int3-g16"],
        ["int3-sym-row", "int3-sym-g16", "int4-row", "int4-g16", "int8-row"],
        ["ternary-row", "ternary-asym-row", "int3-row-ue5m3", "mxfp4", "fp8-row"],
    ] {
        assert!(ladder.windows(2).all(|pair| cost(pair[0]) > cost(pair[1])), "{ladder:?}");
    }
}

#[test]
fn grids_are_a_choice() {
    let (rows, cols) = (3, 70);
    let w: Vec<f32> = noise(rows * cols).iter().map(|w| w.powi(3)).collect();
    let encode = |name, rule| encode_on(grouped(name), rule, rows, cols, &w, None).unwrap();
    let error =
        |packed: Packed| packed.to_f32().iter().zip(&w).map(|(q, w)| f64::from(w - q).powi(2)).sum::<f64>();
    for format in all_formats() {
        let usual = encode_nearest(format, rows, cols, &w, None).unwrap();
        assert_eq!(encode_on(format, GridRule::usual(format), rows, cols, &w, None), Ok(usual.clone()));
        if implementation_of(format, GridRule::Optimal).is_some() {
            let best = encode_on(format, GridRule::Optimal, rows, cols, &w, None).unwrap();
            // The better of two scales of one byte may be that of the other grid.
            assert!(
                error(best) <= error(usual) * if format.scale == Scale::F16 { 1.0 } else { 1.05 },
                "{format}"
            );
        }
    }
    for rule in [GridRule::MinMax, GridRule::AbsMean] {
        assert!(error(encode("ternary-g32", GridRule::Optimal)) < error(encode("ternary-g32", rule)));
    }
    assert!(
        error(encode("ternary-asym-g32", GridRule::Optimal))
            < error(encode("ternary-g32", GridRule::Optimal))
    );
    assert!(error(encode("int3-row", GridRule::Optimal)) < 0.7 * error(encode("int3-row", GridRule::MinMax)));
    let zeros = |rule| encode("ternary-g32", rule).to_f32().iter().filter(|&&q| q == 0.0).count();
    assert!([GridRule::AbsMean, GridRule::Optimal, GridRule::MinMax].map(zeros).is_sorted_by(|a, b| a < b));
    for (name, rule) in [
        ("int4-row", GridRule::AbsMean),
        ("mxfp4", GridRule::Optimal),
        ("ternary-asym-row", GridRule::AbsMean),
    ] {
        assert!(matches!(encode_on(grouped(name), rule, 0, 0, &[], None), Err(EncodeError::Format(_))));
    }
}

#[test]
fn zero_groups_are_exact() {
    for format in all_formats() {
        let packed = encode_nearest(format, 2, 33, &[0.0; 66], None).unwrap();
        assert_eq!(packed.to_f32(), [0.0; 66]);
        assert!(packed.scales.iter().all(|&scale| scale == 0), "{format}");
    }
}

#[test]
fn errors_name_the_first_place() {
    let format = grouped("int4-g32");
    let mut w = noise(3 * 70);
    w[70 + 65] = f32::NAN;
    w[140] = f32::INFINITY;
    let source = GridError::NotFinite { index: 1 };
    let expected = EncodeError::Grid { row: 1, col: 64, source };
    assert_eq!(encode_nearest(format, 3, 70, &w, None), Err(expected));
    assert_eq!(rounding_cost(format, 3, 70, &w, &[1.0; 3], &[1.0; 70]), Err(expected));

    let length = |part, expected, found| Err(EncodeError::Length { part, expected, found });
    assert_eq!(encode_nearest(format, 2, 2, &[0.0; 3], None), length("w", 4, 3));
    assert_eq!(encode_nearest(format, usize::MAX, 2, &[], None), length("w", usize::MAX, 0));
    assert_eq!(encode_nearest(format, 1, 2, &[0.0; 2], Some(&[1.0])), length("column weights", 2, 1));
    let weight = EncodeError::Weight { part: "column weights", index: 1 };
    assert_eq!(encode_nearest(format, 1, 2, &[0.0; 2], Some(&[1.0, -1.0])), Err(weight));
    for format in [Grouped { group: 33, ..format }, Grouped { code: Code::Int(5), ..format }] {
        assert_eq!(
            encode_nearest(format, 0, 0, &[], None),
            Err(EncodeError::Format(Format::Grouped(format)))
        );
    }

    let unit = Grid { scale: 1.0, offset: 0.0 };
    assert_eq!(pack_codes(format, 1, 2, &[1, 16], &[unit]), Err(EncodeError::Code { index: 1, code: 16 }));
    for value in [0.1, 1e6, f32::INFINITY] {
        let grid = Grid { scale: value, offset: 0.0 };
        let source = GridError::Overflow { value };
        assert_eq!(
            pack_codes(format, 1, 1, &[0], &[grid]),
            Err(EncodeError::Grid { row: 0, col: 0, source })
        );
    }
}

#[test]
fn lying_shapes_are_refused() {
    let plain = |shape: &[usize], bytes: usize| {
        Stored::Plain(Plain { dtype: Dtype::F32, shape: shape.to_vec(), bytes: vec![0; bytes] }).validate()
    };
    assert_eq!(plain(&[2, 3], 24), Ok(()));
    assert_eq!(plain(&[], 4), Ok(()));
    assert_eq!(plain(&[5, 0], 0), Ok(()));
    assert!(matches!(plain(&[usize::MAX, 2, 0], 0), Err(StoredError::Length { .. })));
    assert!(matches!(plain(&[usize::MAX, 2], 0), Err(StoredError::Length { .. })));
    let huge = |rows, cols| {
        let format = grouped("int8-g32");
        Packed { format, rows, cols, codes: Codes::Fields(vec![]), scales: vec![], offsets: vec![] }
    };
    for (rows, cols) in [(usize::MAX, usize::MAX), (1, usize::MAX), (usize::MAX, 1)] {
        assert!(matches!(Stored::Packed(huge(rows, cols)).validate(), Err(StoredError::Length { .. })));
    }
    let unknown = Packed { format: Grouped { group: 0, ..grouped("int8-g32") }, ..huge(0, 0) };
    assert!(matches!(Stored::Packed(unknown).validate(), Err(StoredError::Format(_))));
}
