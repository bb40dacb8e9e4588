//! Grams of little rank or with dead columns, and what is no gram or no weight.

use crate::common::{FORMATS, gram, grouped, identity, noise, objective, solve};
use moepress_quant::formats::{EncodeError, GridError, encode_nearest, implementation};
use moepress_quant::solve::{Curvature, Factor, Options, SolveError};
use moepress_quant::{Code, Grouped};

#[test]
fn damping_grows_until_it_holds() {
    // Eigenvalues 1 + 0.5, 1 + 0.5 and 1 − 2 · 0.5 − … below zero: −0.2 with 0.6 off the diagonal.
    let gram = [1.0, -0.6, -0.6, -0.6, 1.0, -0.6, -0.6, -0.6, 1.0];
    let curvature = |damp| Factor::new(&gram, 3, Options { damp, ..Options::default() }).unwrap().curvature();
    assert_eq!(curvature(0.25), Curvature::Gram { damp: 0.25, tries: 1 });
    assert!(matches!(curvature(0.01), Curvature::Gram { damp, tries: 3 } if (damp - 1.0).abs() < 1e-12));
    assert!(matches!(curvature(0.001), Curvature::Gram { damp, tries: 4 } if (damp - 1.0).abs() < 1e-12));
    assert_eq!(curvature(1e-4), Curvature::Indefinite);
}

#[test]
fn dead_columns_are_rounded_not_zeroed() {
    let (rows, cols) = (17, 70);
    let dead = [0, 3, 33, 69];
    let (mut gram, w) = (gram(3, cols, 200), noise(4, rows * cols));
    for (at, g) in gram.iter_mut().enumerate() {
        if dead.contains(&(at / cols)) || dead.contains(&(at % cols)) {
            *g = 0.0;
        }
    }
    for name in FORMATS {
        for act_order in [false, true] {
            let format = grouped(name);
            let options = Options { act_order, ..Options::default() };
            let (packed, report) = solve(&gram, options, format, rows, &w);
            assert!(report.objective < report.objective_nearest && report.rows_nearest < rows);
            let q = packed.to_f32();
            let (rounding, groups) = (implementation(format).unwrap(), format.row_groups(cols));
            for (row, q) in q.chunks(cols).enumerate() {
                for col in dead {
                    let at = row * groups + col / format.group;
                    let grid = format.grid(packed.scales[at], packed.offsets.get(at).copied().unwrap_or(0));
                    let nearest = rounding.value(rounding.round(w[row * cols + col], grid), grid);
                    assert_eq!(q[col], nearest, "{name} row {row} column {col}");
                }
            }
            // What never mattered does not change the damping or the other columns' objective.
            let live = objective(&gram, &w, &q);
            assert!((report.objective - live).abs() <= 1e-4 * live, "{report:?} {live}");
        }
    }
}

#[test]
fn fewer_tokens_than_columns() {
    // Rank 4 of 96: the objective is nearly free to vanish.
    let (rows, cols) = (16, 96);
    let (gram, w) = (gram(9, cols, 4), noise(10, rows * cols));
    for name in FORMATS {
        for act_order in [false, true] {
            let options = Options { act_order, ..Options::default() };
            let (packed, report) = solve(&gram, options, grouped(name), rows, &w);
            let found = objective(&gram, &w, &packed.to_f32());
            let nearest = encode_nearest(grouped(name), rows, cols, &w, None).unwrap().to_f32();
            assert!(found <= 0.5 * objective(&gram, &w, &nearest), "{name} {report:?}");
            let Curvature::Gram { damp, .. } = report.curvature else { panic!("{report:?}") };
            let squares = objective(&identity(cols), &w, &packed.to_f32());
            assert!(
                (report.objective - found).abs() <= 1e-4 * (found + damp * squares),
                "{report:?} {found}"
            );
        }
    }
}

#[test]
fn grams_that_are_none() {
    let new = |gram: &[f64], cols| Factor::new(gram, cols, Options::default()).map(|f| f.curvature());
    let fault = |gram: &[f64]| match new(gram, 2) {
        Err(SolveError::Gram { row, col, fault }) => (row, col, fault),
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(&[1.0, f64::NAN, 0.0, 1.0]), (0, 1, "is not finite"));
    assert_eq!(fault(&[1.0, 0.0, 0.0, f64::INFINITY]), (1, 1, "is not finite"));
    assert_eq!(fault(&[1.0, 0.0, 0.0, -1.0]), (1, 1, "is negative"));
    assert_eq!(fault(&[1.0, 0.5, 0.4, 1.0]).0, 1);
    assert_eq!(fault(&[1.0, 0.5, 0.5, 0.0]).0, 1);
    assert_eq!(new(&[1.0; 3], 2), Err(SolveError::GramLength { cols: 2, found: 3 }));
    assert_eq!(new(&[], usize::MAX), Err(SolveError::GramLength { cols: usize::MAX, found: 0 }));
    assert_eq!(new(&[], 0), Ok(Curvature::Empty));
    for damp in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let result = Factor::new(&[1.0f32], 1, Options { damp, ..Options::default() });
        assert!(matches!(result.err(), Some(SolveError::Damp(_))));
    }
}

#[test]
fn weights_that_are_none() {
    let factor = Factor::new(&gram(1, 40, 80), 40, Options::default()).unwrap();
    let format = grouped("int4-g32");
    let mut w = noise(2, 3 * 40);
    assert_eq!(factor.cols(), 40);
    let length = EncodeError::Length { part: "w", expected: 80, found: 120 };
    assert_eq!(factor.solve(format, 2, &w).err(), Some(length.into()));
    let unknown = Grouped { code: Code::Int(5), ..format };
    assert!(matches!(factor.solve(unknown, 3, &w), Err(SolveError::Encode(EncodeError::Format(_)))));
    assert_eq!(factor.solve(format, 0, &[]).unwrap().0, encode_nearest(format, 0, 40, &[], None).unwrap());
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        w[80 + 33] = bad;
        let source = GridError::NotFinite { index: 1 };
        assert_eq!(
            factor.solve(format, 3, &w).err(),
            Some(EncodeError::Grid { row: 2, col: 32, source }.into())
        );
    }
    w[80 + 33] = 1e9;
    assert!(matches!(factor.solve(format, 3, &w), Err(SolveError::Encode(EncodeError::Grid { .. }))));
    // At the end of f16's range, compensated weights may have no grid: rounding to nearest always has.
    let w: Vec<f32> = noise(2, 3 * 40).iter().map(|w| w.signum() * 65_504.0).collect();
    for name in FORMATS.into_iter().filter(|name| !name.starts_with("int") || name.starts_with("int8")) {
        let (packed, report) = factor.solve(grouped(name), 3, &w).unwrap();
        assert!(report.objective.is_finite() && report.objective <= report.objective_nearest, "{name}");
        assert!(packed.to_f32().iter().all(|q| q.is_finite()));
    }
}
