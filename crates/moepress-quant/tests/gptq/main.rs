//! GPTQ against its definition: a dense reference, brute force, rounding to nearest, and grams that are none.

#![cfg(test)]

mod common;
mod hostile;
mod reference;
mod runs;

use common::{FORMATS, diagonal, gram, grouped, identity, noise, objective, solve};
use moepress_quant::Stored;
use moepress_quant::formats::encode_nearest;
use moepress_quant::solve::{Curvature, Factor, Options};
use proptest::prelude::*;
use rayon::prelude::*;
use reference::reference;

#[test]
fn agrees_with_the_published_loop() {
    // Several blocks, ragged groups, odd rows.
    let (mut rows_equal, mut rows_all) = (0, 0);
    for (seed, (rows, cols)) in [(3, 5), (19, 40), (2, 130), (67, 300)].into_iter().enumerate() {
        let (gram, w) = (gram(seed as u64 * 7, cols, 2 * cols), noise(seed as u64, rows * cols));
        for name in FORMATS {
            for (act_order, weighted) in [(false, false), (true, false), (false, true), (true, true)] {
                let (format, options) =
                    (grouped(name), Options { act_order, weighted, ..Options::default() });
                let (packed, report) = solve(&gram, options, format, rows, &w);
                let (ours, theirs) = (packed.to_f32(), reference(&gram, options, format, &w));
                rows_equal += ours.chunks(cols).zip(theirs.chunks(cols)).filter(|(a, b)| a == b).count();
                rows_all += rows - report.rows_nearest;
                let (ours, theirs) = (objective(&gram, &w, &ours), objective(&gram, &w, &theirs));
                assert!(ours <= theirs * 1.01, "{name} {rows}×{cols} {options:?}: {ours} {theirs}");
                assert!((report.objective - ours).abs() <= 1e-4 * ours, "{report:?} {ours}");
                let nearest = encode_nearest(format, rows, cols, &w, weighted.then_some(&diagonal(&gram)));
                let nearest = objective(&gram, &w, &nearest.unwrap().to_f32());
                assert!((report.objective_nearest - nearest).abs() <= 1e-5 * nearest, "{report:?} {nearest}");
            }
        }
    }
    // In f32 a weight next to a tie may go the other way, which changes the rest of its row.
    assert!(rows_equal * 100 >= rows_all * 95, "{rows_equal} of {rows_all} rows are the same");
}

#[test]
fn identity_is_rounding_to_nearest() {
    let (rows, cols) = (21, 150);
    let w = noise(5, rows * cols);
    let zeros = vec![0.0; cols * cols];
    // Eigenvalue 1 − 0.9 · 149: no damping helps.
    let indefinite: Vec<f64> = identity(cols).iter().map(|&i| if i == 1.0 { 1.0 } else { -0.9 }).collect();
    let scaled: Vec<f64> = identity(cols).iter().map(|i| i * 3e9).collect();
    for name in FORMATS {
        let format = grouped(name);
        let nearest = encode_nearest(format, rows, cols, &w, None).unwrap();
        let plain = objective(&identity(cols), &w, &nearest.to_f32());
        for (act_order, weighted) in [(false, false), (true, false), (false, true), (true, true)] {
            let options = Options { act_order, weighted, ..Options::default() };
            for (gram, curvature) in [
                (&identity(cols), Curvature::Gram { damp: 0.01, tries: 1 }),
                (&scaled, Curvature::Gram { damp: 3e7, tries: 1 }),
                (&zeros, Curvature::Empty),
                (&indefinite, Curvature::Indefinite),
            ] {
                let (packed, report) = solve(gram, options, format, rows, &w);
                assert_eq!(packed, nearest, "{name} {options:?} {curvature:?}");
                assert!(report.is_nearest(rows));
                assert_eq!(report.objective, report.objective_nearest);
                if curvature == Curvature::Empty || curvature == Curvature::Indefinite {
                    assert!((report.objective - plain).abs() <= 1e-9 * plain);
                }
                match (report.curvature, curvature) {
                    (Curvature::Gram { damp, tries }, Curvature::Gram { damp: expected, tries: 1 }) => {
                        assert!(tries == 1 && (damp / expected - 1.0).abs() < 1e-12);
                    }
                    (found, expected) => assert_eq!(found, expected),
                }
            }
        }
    }
}

#[test]
fn three_weights_are_never_below_the_optimum() {
    let format = grouped("ternary-g32");
    let (mut optimal, mut better, total) = (0, 0, 300u64);
    for seed in 0..total {
        let (gram, w) = (gram(seed * 31, 3, 4), noise(seed * 17 + 5, 3));
        for act_order in [false, true] {
            let options = Options { act_order, ..Options::default() };
            let (packed, report) = solve(&gram, options, format, 1, &w);
            let grid = format.grid(packed.scales[0], 0);
            let value = |code: usize| (code as f32 - 1.0) * grid.scale;
            let candidates = (0..27).map(|c| objective(&gram, &w, &[c / 9, c / 3 % 3, c % 3].map(value)));
            let optimum = candidates.fold(f64::INFINITY, f64::min);
            let found = objective(&gram, &w, &packed.to_f32());
            assert!(found >= optimum && (report.objective - found).abs() <= 1e-5 * (found + optimum));
            optimal += u64::from(found <= optimum * (1.0 + 1e-9));
            better += u64::from(report.rows_nearest == 0);
        }
    }
    assert!(optimal >= 2 * total * 9 / 10 && better > 50, "{optimal} optimal, {better} better than nearest");
}

#[test]
fn one_column() {
    for name in FORMATS {
        let w = noise(8, 5);
        let (packed, report) = solve(&[4.0], Options::default(), grouped(name), 5, &w);
        assert_eq!(packed, encode_nearest(grouped(name), 5, 1, &w, None).unwrap());
        assert!(report.is_nearest(5), "{report:?}");
    }
}

#[test]
fn threads_and_company_change_nothing() {
    let (rows, cols) = (70, 200);
    let experts: Vec<(Vec<f64>, Vec<f32>)> =
        (0..6).map(|e| (gram(e, cols, 2 * cols), noise(e + 50, rows * cols))).collect();
    let one = |name: &str, (gram, w): &(Vec<f64>, Vec<f32>), act_order| {
        let (packed, report) =
            solve(gram, Options { act_order, ..Options::default() }, grouped(name), rows, w);
        (packed, report.objective.to_bits(), report.objective_nearest.to_bits())
    };
    for (name, act_order) in FORMATS.into_iter().flat_map(|name| [(name, false), (name, true)]) {
        let run = |threads| -> Vec<_> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| experts.par_iter().map(|expert| one(name, expert, act_order)).collect())
        };
        let alone: Vec<_> = experts.iter().map(|expert| one(name, expert, act_order)).collect();
        assert!(run(1) == alone && run(4) == alone, "{name}");
        // A row does not depend on its neighbours.
        let (gram, w) = &experts[0];
        let options = Options { act_order, ..Options::default() };
        let last = solve(gram, options, grouped(name), 1, &w[(rows - 1) * cols..]).0.to_f32();
        assert_eq!(alone[0].0.to_f32()[(rows - 1) * cols..], last, "{name}");
    }
}

#[test]
fn the_large_majority_of_rows_gains() {
    let (rows, cols) = (48, 160);
    for name in FORMATS {
        let solved = |seed: u64| {
            let (gram, w) = (gram(seed, cols, 300), noise(seed + 9, rows * cols));
            let report = solve(&gram, Options::default(), grouped(name), rows, &w).1;
            (report.rows_nearest, report.objective / report.objective_nearest)
        };
        for (nearest, ratio) in (0..4).map(solved) {
            assert!(nearest * 10 <= rows && ratio < 0.9, "{name}: {nearest} of {rows} rows, {ratio}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn never_worse_than_nearest(
        rows in 1usize..20, cols in 1usize..140, tokens in 1usize..200, seed in 0u64..1 << 40,
        act_order: bool, weighted: bool, ternary_damp: bool, name in 0..FORMATS.len(),
    ) {
        let (gram, w) = (gram(seed, cols, tokens), noise(seed + 9, rows * cols));
        let options = Options { damp: if ternary_damp { 0.1 } else { 0.01 }, act_order, weighted, grid: None };
        let format = grouped(FORMATS[name]);
        let (packed, report) = solve(&gram, options, format, rows, &w);
        prop_assert_eq!(Stored::Packed(packed.clone()).validate(), Ok(()));
        let nearest = encode_nearest(format, rows, cols, &w, weighted.then_some(&diagonal(&gram))).unwrap();
        let [ours, theirs] = [packed, nearest].map(|packed| objective(&gram, &w, &packed.to_f32()));
        prop_assert!(ours <= theirs * (1.0 + 1e-5), "{} {}", ours, theirs);
        prop_assert!(report.objective <= report.objective_nearest);
        // The gram in f32 is as good.
        let rounded: Vec<f32> = gram.iter().map(|&g| g as f32).collect();
        let factor = Factor::new(&rounded, cols, options).unwrap();
        prop_assert!(factor.solve(format, rows, &w).unwrap().1.objective <= report.objective_nearest * 1.0001);
    }
}
