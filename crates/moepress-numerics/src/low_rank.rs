//! The part of a matrix that has low rank.

use crate::linalg::LinalgError;
use ndarray::{Array2, ArrayView2, Axis};
use ndarray_linalg::{JobSvd, QR, SVDDC};

/// Directions that are followed beyond those asked for.
const OVERSAMPLING: usize = 8;
/// Times that the matrix and its transpose are applied, which lets large singular values stand out.
const ITERATIONS: usize = 6;

/// W ≈ L R, where L is `[rows, rank]` and R `[rank, cols]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Factors {
    /// Left singular vectors times the roots of the singular values, the largest first.
    pub left: Vec<f32>,
    /// Right singular vectors, as rows, times the same.
    pub right: Vec<f32>,
}

/// L and R whose product comes nearest to W, `[rows, cols]`, in squared error: its singular value decomposition cut off after
/// `rank` values, which is at most the smaller side.
///
/// The singular vectors are looked for in the span of (W Wᵀ)⁶ W Ω with the fixed Ω of `rank` + 8 columns (Halko, Martinsson
/// and Tropp, arXiv 0909.4061, algorithm 4.4, with numbers that are always the same): squared errors are within one per cent
/// of the least, and exact where that span is everything.
///
/// # Errors
/// A length that does not fit, or numbers that are not finite.
pub fn factors(w: &[f32], rows: usize, cols: usize, rank: usize) -> Result<Factors, LinalgError> {
    let shape = LinalgError::Shape { rows, columns: cols, right: w.len() };
    let w = ArrayView2::from_shape((rows, cols), w).map_err(|_| shape)?.mapv(f64::from);
    if !w.iter().all(|x| x.is_finite()) {
        return Err(LinalgError::NotFinite);
    }
    let rank = rank.min(rows).min(cols);
    if rank == 0 {
        return Ok(Factors { left: vec![], right: vec![] });
    }
    let span = (rank + OVERSAMPLING).min(rows).min(cols);
    let failed = |_| LinalgError::Singular { rows, columns: cols };
    let basis = |y: Array2<f64>| y.qr().map(|(q, _)| q).map_err(failed);
    let mut q = basis(w.dot(&scattered(cols, span)))?;
    for _ in 0..ITERATIONS {
        q = basis(w.dot(&basis(w.t().dot(&q))?))?;
    }
    let (u, values, right) = q.t().dot(&w).svddc(JobSvd::Some).map_err(failed)?;
    let (Some(u), Some(mut right)) = (u, right) else {
        return Err(LinalgError::Singular { rows, columns: cols });
    };
    let mut left = q.dot(&u);
    for (k, value) in values.iter().enumerate().take(rank) {
        let root = value.max(0.0).sqrt();
        left.column_mut(k).mapv_inplace(|x| x * root);
        right.row_mut(k).mapv_inplace(|x| x * root);
    }
    let single = |x: &f64| *x as f32;
    let left = left.axis_iter(Axis(0)).flat_map(|row| row.iter().take(rank).map(single).collect::<Vec<_>>());
    Ok(Factors { left: left.collect(), right: right.iter().take(rank * cols).map(single).collect() })
}

/// A matrix of numbers that have nothing to do with each other, within ±1, always the same.
fn scattered(rows: usize, cols: usize) -> Array2<f64> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    Array2::from_shape_simple_fn((rows, cols), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as f64 / f64::from(1u32 << 31) - 1.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(w: &[f32], found: &Factors, [rows, cols, rank]: [usize; 3]) -> f64 {
        let product = |row: usize, col: usize| -> f64 {
            (0..rank)
                .map(|k| f64::from(found.left[row * rank + k]) * f64::from(found.right[k * cols + col]))
                .sum()
        };
        (0..rows * cols).map(|at| (f64::from(w[at]) - product(at / cols, at % cols)).powi(2)).sum()
    }

    /// Squared error of the best matrix of that rank, by the whole decomposition.
    fn least(w: &[f32], [rows, cols, rank]: [usize; 3]) -> f64 {
        let w = ArrayView2::from_shape((rows, cols), w).unwrap().mapv(f64::from);
        let (_, values, _) = w.svddc(JobSvd::None).unwrap();
        values.iter().skip(rank).map(|value| value * value).sum()
    }

    #[test]
    fn a_product_is_found_again() {
        // 2 (0.6, 0.8)ᵀ (1, 0, 0) + 1 (0.8, −0.6)ᵀ (0, 0.6, 0.8).
        let w = [1.2, 0.48, 0.64, 1.6, -0.36, -0.48];
        let both = factors(&w, 2, 3, 2).unwrap();
        assert!(error(&w, &both, [2, 3, 2]) < 1e-12);
        let one = factors(&w, 2, 3, 1).unwrap();
        assert!((error(&w, &one, [2, 3, 1]) - 1.0).abs() < 1e-6, "the second singular value is 1");
        assert!((one.left[0].powi(2) + one.left[1].powi(2) - 2.0).abs() < 1e-6, "the root of 2, twice");
        assert_eq!(factors(&w, 2, 3, 9).unwrap(), both);
        assert_eq!(factors(&[0.0; 6], 2, 3, 1).unwrap().left.len(), 2);
        assert!(factors(&w, 2, 4, 1).is_err() && factors(&[f32::NAN], 1, 1, 1).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn nothing_of_that_rank_is_nearer(
            rows in 1usize..90, cols in 1usize..90, rank in 1usize..20, decay in 0.0f64..0.2, seed in any::<u64>(),
        ) {
            let rank = rank.min(rows).min(cols);
            let mut state = seed | 1;
            let w: Vec<f32> = (0..rows * cols).map(|at| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let noise = (state >> 40) as f64 / f64::from(1 << 24) - 0.5;
                (noise * (-decay * (at % cols) as f64).exp()) as f32
            }).collect();
            let shape = [rows, cols, rank];
            let (found, least) = (factors(&w, rows, cols, rank).unwrap(), least(&w, shape));
            let all: f64 = w.iter().map(|&w| f64::from(w).powi(2)).sum();
            prop_assert!(error(&w, &found, shape) <= 1.01 * least + 1e-9 * all, "{} {least}", error(&w, &found, shape));
        }
    }
}
