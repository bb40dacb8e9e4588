//! Runs of columns with given steps.

use crate::common::{gram, grouped, noise, objective};
use moepress_quant::Stored;
use moepress_quant::formats::{Grid, pack_codes};
use moepress_quant::solve::{Curvature, Factor, Options, Run, SolveError};

fn run(name: &str, cols: usize, step: f32) -> Run {
    Run { format: grouped(name), cols, step }
}

/// The columns of the runs side by side.
fn beside(rows: usize, packed: &[moepress_quant::Packed]) -> Vec<f32> {
    let values: Vec<Vec<f32>> = packed.iter().map(|packed| packed.to_f32()).collect();
    let row = |row: usize| {
        values
            .iter()
            .zip(packed)
            .flat_map(move |(values, packed)| values[row * packed.cols..(row + 1) * packed.cols].to_vec())
    };
    (0..rows).flat_map(row).collect()
}

#[test]
fn one_run_is_a_matrix_and_two_make_up_for_each_other() {
    let (rows, cols) = (19, 150);
    let (gram, w) = (gram(3, cols, 2 * cols), noise(4, rows * cols));
    let factor = Factor::new(&gram, cols, Options::default()).unwrap();
    let runs = [run("int4-sym-row", 40, 0.125), run("ternary-row", 0, 1.0), run("ternary-row", 110, 0.5)];
    let (packed, report) = factor.solve_runs(&runs, rows, &w).unwrap();
    assert_eq!(packed.iter().map(|packed| packed.cols).collect::<Vec<_>>(), [40, 0, 110]);
    let ours = objective(&gram, &w, &beside(rows, &packed));
    assert!((report.objective - ours).abs() <= 1e-4 * ours && report.objective < report.objective_nearest);
    // Each run for itself, by the gram of its own columns.
    let mut apart = vec![];
    for (run, first) in [(runs[0], 0), (runs[2], 40)] {
        let columns = first..first + run.cols;
        let part: Vec<f64> =
            columns.clone().flat_map(|i| gram[i * cols + first..i * cols + columns.end].to_vec()).collect();
        let w: Vec<f32> = w.chunks(cols).flat_map(|row| row[columns.clone()].to_vec()).collect();
        let factor = Factor::new(&part, run.cols, Options::default()).unwrap();
        apart.extend(factor.solve_runs(&[run], rows, &w).unwrap().0);
    }
    let apart = objective(&gram, &w, &beside(rows, &apart));
    assert!(ours < apart, "{ours} {apart}");
}

#[test]
fn without_inputs_every_weight_goes_to_its_nearest_level() {
    let w = [0.9, -0.5, 0.1, 0.05, -0.02, 7.0];
    let factor = Factor::new(&[0.0; 9], 3, Options::default()).unwrap();
    let (packed, report) =
        factor.solve_runs(&[run("int2-sym-row", 2, 0.5), run("int8-sym-row", 1, 0.0625)], 2, &w).unwrap();
    assert_eq!(report.curvature, Curvature::Empty);
    assert_eq!(beside(2, &packed), [0.5, -0.5, 0.125, 0.0, 0.0, 7.0]);
    let codes =
        pack_codes(grouped("int8-sym-row"), 2, 1, &[130, 240], &[Grid { scale: 0.0625, offset: 0.0 }; 2]);
    assert_eq!(Stored::Packed(packed[1].clone()), Stored::Packed(codes.unwrap()));
}

#[test]
fn grids_that_no_run_can_have_are_refused() {
    let factor = Factor::new(&[1.0], 1, Options::default()).unwrap();
    let solve = |run: Run| factor.solve_runs(&[run], 1, &[0.5]);
    for wrong in [
        run("int4-row", 1, 0.5),
        run("int4-sym-g32", 1, 0.5),
        run("ternary-row", 1, 0.1),
        run("ternary-row", 1, -0.5),
        run("ternary-row", 1, f32::NAN),
        run("ternary-row", 1, f32::INFINITY),
    ] {
        assert!(matches!(solve(wrong), Err(SolveError::Step { .. })), "{wrong:?}");
    }
    assert!(solve(run("ternary-row", 2, 0.5)).is_err());
    assert!(factor.solve_runs(&[run("ternary-row", 1, 0.5)], 1, &[f32::NAN]).is_err());
}
