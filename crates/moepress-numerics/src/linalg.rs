//! Symmetric positive-definite systems, similarities and distances from gram matrices.

use ndarray::Array2;
use ndarray_linalg::{CholeskyInto, UPLO};
use rayon::prelude::*;

/// Attempts of [`cholesky_solve`]; each damps ten times more than the one before.
const ATTEMPTS: usize = 4;

/// Rows factored by LAPACK at once; OpenBLAS stays on one thread below 64.
const BLOCK: usize = 32;

/// The solution of a damped system.
#[derive(Debug, Clone)]
pub struct Damped {
    /// `[n, m]`.
    pub solution: Array2<f64>,
    /// The damp that was needed, as a fraction of the mean diagonal; more than asked for is worth a report.
    pub damp: f64,
}

/// Why a system has no solution.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LinalgError {
    /// The two sides do not fit together.
    #[error("cannot solve a {rows}×{columns} system for {right} right-hand rows: all three must be equal")]
    Shape {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
        /// Rows of the right-hand side.
        right: usize,
    },
    /// A damp that cannot grow.
    #[error("damp must be a finite number above 0, is {0}")]
    Damp(f64),
    /// NaN or infinity among the numbers.
    #[error("the system holds a number that is not finite: check the statistics it was made from")]
    NotFinite,
    /// No decomposition was found.
    #[error("the singular values of a {rows}×{columns} matrix cannot be computed")]
    Singular {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
    /// Every attempt failed.
    #[error(
        "the {n}×{n} matrix is not positive definite, even with damp {damp}: use more calibration text or a larger damp"
    )]
    NotPositiveDefinite {
        /// Size of the matrix.
        n: usize,
        /// The largest damp tried.
        damp: f64,
    },
}

/// Solves `(a + damp · mean(diag a) · I) x = b` by Cholesky factorisation.
///
/// `a` is `[n, n]`, symmetric (only the lower triangle is read); `b` and `x` are `[n, m]`. When the matrix is not
/// positive definite, the damp grows tenfold, at most three times; the damp that did it is part of the answer.
pub fn cholesky_solve(a: &Array2<f64>, b: &Array2<f64>, damp: f64) -> Result<Damped, LinalgError> {
    let (rows, columns) = a.dim();
    if rows != columns || rows != b.nrows() {
        return Err(LinalgError::Shape { rows, columns, right: b.nrows() });
    }
    if !(damp.is_finite() && damp > 0.0) {
        return Err(LinalgError::Damp(damp));
    }
    if !a.iter().chain(b).all(|x| x.is_finite()) {
        return Err(LinalgError::NotFinite);
    }
    if b.is_empty() {
        return Ok(Damped { solution: b.clone(), damp });
    }
    let mean = a.diag().sum() / rows as f64;
    let mut damp = damp;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            damp *= 10.0;
        }
        if let Some(solution) = solve_damped(a, b, damp * mean) {
            return Ok(Damped { solution, damp });
        }
    }
    Err(LinalgError::NotPositiveDefinite { n: rows, damp })
}

/// `None` when the factorisation breaks down or the solution overflows.
fn solve_damped(a: &Array2<f64>, b: &Array2<f64>, ridge: f64) -> Option<Array2<f64>> {
    let n = a.nrows();
    let mut factor: Vec<f64> = a.iter().copied().collect();
    factor.iter_mut().step_by(n + 1).for_each(|d| *d += ridge);
    factorize(&mut factor, n)?;
    let columns: Vec<Vec<f64>> = (0..b.ncols())
        .into_par_iter()
        .map(|c| {
            let mut x = b.column(c).to_vec();
            substitute(&factor, &mut x);
            x
        })
        .collect();
    let x = Array2::from_shape_fn(b.dim(), |(r, c)| columns[c][r]);
    x.iter().all(|x| x.is_finite()).then_some(x)
}

/// Overwrites the lower triangle of `a`, `[n, n]` row-major, with L of `a = L Lᵀ`.
///
/// LAPACK factors the diagonal blocks only: on larger matrices OpenBLAS starts threads, and their number changes
/// the last bits. The rest runs over rows, where it cannot.
fn factorize(a: &mut [f64], n: usize) -> Option<()> {
    for k in (0..n).step_by(BLOCK) {
        let end = n.min(k + BLOCK);
        let block = Array2::from_shape_fn((end - k, end - k), |(i, j)| a[(k + i) * n + k + j]);
        let block = block.cholesky_into(UPLO::Lower).ok()?;
        for (i, row) in block.rows().into_iter().enumerate() {
            row.iter().zip(&mut a[(k + i) * n + k..]).for_each(|(l, x)| *x = *l);
        }
        let (above, below) = a.split_at_mut(end * n);
        if below.is_empty() {
            break;
        }
        let diagonal = |j: usize| &above[j * n + k..=j * n + j];
        below.par_chunks_mut(n).for_each(|row| {
            for j in k..end {
                let done: f64 = dot(&row[k..j], diagonal(j));
                row[j] = (row[j] - done) / above[j * n + j];
            }
        });
        // [block, rows below]: one column of L after the other, contiguous.
        let panel: Vec<f64> = (k..end).flat_map(|j| below[j..].iter().step_by(n).copied()).collect();
        let rows = n - end;
        below.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            let (left, right) = row.split_at_mut(end);
            for (&x, column) in left[k..].iter().zip(panel.chunks_exact(rows)) {
                right[..=i].iter_mut().zip(column).for_each(|(r, l)| *r -= x * l);
            }
        });
    }
    Some(())
}

/// Solves `L Lᵀ x = b` in place.
fn substitute(factor: &[f64], x: &mut [f64]) {
    let n = x.len();
    for i in 0..n {
        let row = &factor[i * n..][..=i];
        x[i] = (x[i] - dot(&x[..i], row)) / row[i];
    }
    for i in (0..n).rev() {
        let row = &factor[i * n..][..=i];
        let (before, at) = x.split_at_mut(i);
        at[0] /= row[i];
        before.iter_mut().zip(row).for_each(|(b, l)| *b -= at[0] * l);
    }
}

/// Over the shorter of the two.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Cosine similarities `[n, n]` of n vectors, from their gram `[n, n]` (entry `i, j` is the dot product of
/// vectors `i` and `j`).
///
/// The diagonal is 1; a vector of zero norm has similarity 0 to every other.
///
/// # Panics
/// When `gram` does not hold n² numbers.
pub fn cosine_similarity_from_gram(gram: &[f64], n: usize) -> Vec<f64> {
    assert_eq!(gram.len(), n * n, "a gram of {n} vectors is {n}×{n}");
    let norms: Vec<f64> = (0..n).map(|i| gram[i * n + i].max(0.0).sqrt()).collect();
    let mut similarity = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            similarity[i * n + j] = if i == j {
                1.0
            } else if norms[i] == 0.0 || norms[j] == 0.0 {
                0.0
            } else {
                (gram[i * n + j] / norms[i] / norms[j]).clamp(-1.0, 1.0)
            };
        }
    }
    similarity
}

/// Euclidean distances `[n, n]` of n vectors, from their gram `[n, n]`.
///
/// # Panics
/// When `gram` does not hold n² numbers.
pub fn distances_from_gram(gram: &[f64], n: usize) -> Vec<f64> {
    assert_eq!(gram.len(), n * n, "a gram of {n} vectors is {n}×{n}");
    let square = |i: usize| gram[i * n + i];
    let distance = |i, j| (square(i) + square(j) - 2.0 * gram[i * n + j]).max(0.0).sqrt();
    (0..n).flat_map(|i| (0..n).map(move |j| distance(i, j))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// A positive-definite matrix and its right-hand side, from a fixed stream.
    fn system(n: usize, m: usize) -> (Array2<f64>, Array2<f64>) {
        let mut state = 1u64;
        let mut next = |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
        };
        let x = Array2::from_shape_simple_fn((2 * n, n), || next(()));
        let b = Array2::from_shape_simple_fn((n, m), || next(()));
        (x.t().dot(&x), b)
    }

    #[test]
    fn solves_an_exact_system() {
        let (a, b) = (array![[4.0, 2.0], [2.0, 3.0]], array![[8.0, 2.0], [7.0, 3.0]]);
        let Damped { solution, damp } = cholesky_solve(&a, &b, 1e-14).unwrap();
        assert_eq!(damp, 1e-14);
        for (got, want) in solution.iter().zip([1.25, 0.0, 1.5, 1.0]) {
            assert!((got - want).abs() < 1e-12, "{solution}");
        }
    }

    #[test]
    fn leaves_a_small_residual() {
        let (a, b) = system(120, 7);
        let x = cholesky_solve(&a, &b, 1e-14).unwrap().solution;
        assert!((a.dot(&x) - b).iter().all(|r| r.abs() < 1e-9));
    }

    #[test]
    fn grows_the_damp_and_says_so() {
        // Eigenvalues 2.02 and −0.02 around the mean diagonal of 1: only a damp above 0.02 helps.
        let a = array![[1.0, 1.02], [1.02, 1.0]];
        let b = array![[1.0], [1.0]];
        let found = cholesky_solve(&a, &b, 0.001).unwrap();
        assert!((found.damp - 0.1).abs() < 1e-12);
        assert!((found.solution[[0, 0]] - 1.0 / 2.12).abs() < 1e-12);
        let failed = cholesky_solve(&a, &b, 1e-6).unwrap_err();
        assert!(
            matches!(failed, LinalgError::NotPositiveDefinite { n: 2, damp } if (damp - 1e-3).abs() < 1e-12)
        );
        assert!(cholesky_solve(&Array2::zeros((2, 2)), &b, 0.1).is_err());
    }

    #[test]
    fn refuses_what_it_cannot_solve() {
        let b = array![[1.0], [1.0]];
        assert!(matches!(cholesky_solve(&Array2::eye(3), &b, 0.1), Err(LinalgError::Shape { .. })));
        assert_eq!(cholesky_solve(&Array2::eye(2), &b, 0.0).unwrap_err(), LinalgError::Damp(0.0));
        let nan = array![[1.0, f64::NAN], [0.0, 1.0]];
        assert_eq!(cholesky_solve(&nan, &b, 0.1).unwrap_err(), LinalgError::NotFinite);
        assert_eq!(
            cholesky_solve(&Array2::zeros((0, 0)), &Array2::zeros((0, 3)), 0.1).unwrap().solution.len(),
            0
        );
    }

    #[test]
    fn similarity_of_known_vectors() {
        // (3, 4), (−6, −8), (0, 0), (4, −3)
        #[rustfmt::skip]
        let gram = [
            25.0, -50.0, 0.0, 0.0,
            -50.0, 100.0, 0.0, 0.0,
            0.0, 0.0, 0.0, 0.0,
            0.0, 0.0, 0.0, 25.0,
        ];
        #[rustfmt::skip]
        let want = [
            1.0, -1.0, 0.0, 0.0,
            -1.0, 1.0, 0.0, 0.0,
            0.0, 0.0, 1.0, 0.0,
            0.0, 0.0, 0.0, 1.0,
        ];
        assert_eq!(cosine_similarity_from_gram(&gram, 4), want);
    }

    #[test]
    fn distances_of_known_vectors() {
        // (3, 4), (3, 4), (0, 0)
        let gram = [25.0, 25.0, 0.0, 25.0, 25.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(distances_from_gram(&gram, 3), [0.0, 0.0, 5.0, 0.0, 0.0, 5.0, 5.0, 5.0, 0.0]);
    }

    #[test]
    fn is_the_same_on_any_number_of_threads() {
        let (a, b) = system(150, 9);
        let solve = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| cholesky_solve(&a, &b, 0.01)).unwrap().solution
        };
        let one = solve(1);
        assert!([2, 3, 7].into_iter().all(|threads| solve(threads) == one));
    }
}
