//! Block LDLᵀ from the last column to the first, in f64: H = M D Mᵀ with M unit upper triangular by blocks.
//!
//! GPTQ needs U, the upper factor of H⁻¹ = UᵀU. With H = R Rᵀ, R upper, U is R⁻¹, so its diagonal blocks are
//! inverses of diagonal blocks of R, and what the blocks before B add to the columns of B is
//! (W − Q) · R₍<B,B₎ R_BB⁻¹ = (W − Q) · M_B. No inverse of H, nor a whole triangular one, is formed.

use super::tile::{HEIGHT, panels, tile};
use crate::formats::MAX_GROUP;
use pulp::{Arch, NullaryFnOnce};

/// Columns of a block; every group but that of a whole row lies in one block.
pub(super) const BLOCK: usize = MAX_GROUP;

/// The matrix is padded to a multiple of this many columns.
pub(super) const WIDTH: usize = 8;

/// The least pivot of a matrix whose mean diagonal is 1 that is told from rounding.
const LEAST_PIVOT: f64 = 1e-13;

/// What the columns of one block need, as f32.
#[derive(Debug, PartialEq)]
pub(super) struct Block {
    /// First column.
    pub(super) start: usize,
    /// Columns.
    pub(super) width: usize,
    /// M_B, `start` × `width`, in panels of `HEIGHT` columns.
    pub(super) coupling: Vec<[f32; HEIGHT]>,
    /// Rows of U_BB over their diagonal element, `width` × `width`.
    pub(super) compensation: Vec<f32>,
    /// R_BB, `width` × `width`, in panels of `HEIGHT` columns.
    pub(super) root: Vec<[f32; HEIGHT]>,
    /// Squares of the diagonal of R_BB.
    pub(super) pivots: Vec<f64>,
}

/// The matrix whose lower triangle, `[n, n]`, is in `a`; `n` is a multiple of [`WIDTH`].
pub(super) struct Matrix {
    pub(super) a: Vec<f64>,
    pub(super) n: usize,
}

impl Matrix {
    /// The blocks in the order of columns, or `None` where a pivot is not positive.
    pub(super) fn factor(self) -> Option<Vec<Block>> {
        Arch::new().dispatch(self)
    }
}

impl NullaryFnOnce for Matrix {
    type Output = Option<Vec<Block>>;

    #[inline(always)]
    fn call(self) -> Self::Output {
        factor(self.a, self.n)
    }
}

#[inline(always)]
fn factor(mut a: Vec<f64>, n: usize) -> Option<Vec<Block>> {
    let mut blocks = Vec::new();
    for start in (0..n).step_by(BLOCK).rev() {
        let width = BLOCK.min(n - start);
        let mut root = vec![0.0; width * width];
        for (to, from) in root.chunks_mut(width).zip(a[start * n..].chunks(n)) {
            to.copy_from_slice(&from[start..start + width]);
        }
        reverse_cholesky(&mut root, width)?;
        let inverse = transposed(&lower_inverse(&root, width), width);
        let compensation = inverse.chunks(width).enumerate();
        let block = Block {
            start,
            width,
            coupling: eliminate(&mut a[..(start + width) * n], n, &inverse, width),
            compensation: compensation.flat_map(|(i, u)| u.iter().map(move |v| (v / u[i]) as f32)).collect(),
            root: panels::<HEIGHT>(&transposed(&root, width), width, width, width)
                .into_iter()
                .map(|p| p.map(|v| v as f32))
                .collect(),
            pivots: (0..width).map(|i| root[i * width + i].powi(2)).collect(),
        };
        blocks.push(block);
    }
    blocks.reverse();
    Some(blocks)
}

/// Takes the last `width` columns out of the lower triangle `a`, `[start + width, n]`, and returns M_B as f32;
/// `inverse` is U_BB.
#[inline(always)]
fn eliminate(a: &mut [f64], n: usize, inverse: &[f64], width: usize) -> Vec<[f32; HEIGHT]> {
    let start = a.len() / n - width;
    let (a, rows) = a.split_at_mut(start * n);
    let rows = panels::<WIDTH>(rows, n, width, start);
    let square = square(inverse, width);
    let mut coupling = vec![[0f32; HEIGHT]; start * width / HEIGHT];
    let mut transposed = vec![[0f64; HEIGHT]; start * width / HEIGHT];
    for (p, (square, coupling)) in square.chunks(width).zip(coupling.chunks_mut(start.max(1))).enumerate() {
        let coupling = coupling.as_chunks_mut::<WIDTH>().0;
        let transposed = transposed.chunks_mut(2 * width);
        for ((rows, coupling), transposed) in rows.chunks(width).zip(coupling).zip(transposed) {
            let sums = tile(square, rows);
            for (lane, coupling) in coupling.iter_mut().enumerate() {
                *coupling = [0, 1, 2, 3].map(|i| sums[i][lane] as f32);
            }
            let (left, right) = transposed.split_at_mut(width);
            for (i, sums) in sums.iter().enumerate() {
                let at = p * HEIGHT + i;
                left[at].copy_from_slice(&sums[..HEIGHT]);
                right[at].copy_from_slice(&sums[HEIGHT..]);
            }
        }
    }
    for (p, (transposed, a)) in transposed.chunks(width).zip(a.chunks_mut(HEIGHT * n)).enumerate() {
        for (q, rows) in rows.chunks(width).enumerate().take(p / 2 + 1) {
            for (sums, a) in tile(transposed, rows).iter().zip(a.chunks_mut(n)) {
                let a = &mut a[q * WIDTH..(q + 1) * WIDTH];
                a.iter_mut().zip(sums).for_each(|(a, sum)| *a -= sum);
            }
        }
    }
    coupling
}

/// UᵀU in panels of `HEIGHT` columns.
#[inline(always)]
fn square(u: &[f64], width: usize) -> Vec<[f64; HEIGHT]> {
    let (fours, eights) = (panels::<HEIGHT>(u, width, width, width), panels::<WIDTH>(u, width, width, width));
    let mut out = vec![0.0; width * width];
    for (fours, out) in fours.chunks(width).zip(out.chunks_mut(HEIGHT * width)) {
        for (q, eights) in eights.chunks(width).enumerate() {
            for (sums, out) in tile(fours, eights).iter().zip(out.chunks_mut(width)) {
                out[q * WIDTH..(q + 1) * WIDTH].copy_from_slice(sums);
            }
        }
    }
    panels::<HEIGHT>(&out, width, width, width)
}

/// Turns a lower triangle A into Rᵀ with A = R Rᵀ, R upper; zero above the diagonal.
#[inline(always)]
fn reverse_cholesky(a: &mut [f64], n: usize) -> Option<()> {
    for j in (0..n).rev() {
        let (above, row) = a[..(j + 1) * n].split_at_mut(j * n);
        let pivot = row[j];
        if !(pivot.is_finite() && pivot > LEAST_PIVOT) {
            return None;
        }
        let root = pivot.sqrt();
        row[j] = root;
        row[j + 1..].fill(0.0);
        row[..j].iter_mut().for_each(|v| *v /= root);
        for (i, above) in above.chunks_mut(n).enumerate() {
            subtract(&mut above[..=i], row[i], &row[..=i]);
        }
    }
    Some(())
}

/// The inverse of a lower triangle.
#[inline(always)]
fn lower_inverse(a: &[f64], n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    for (i, a) in a.chunks(n).enumerate() {
        let (above, row) = out[..(i + 1) * n].split_at_mut(i * n);
        row[i] = 1.0;
        for (k, above) in above.chunks(n).enumerate() {
            subtract(&mut row[..=k], a[k], &above[..=k]);
        }
        row[..=i].iter_mut().for_each(|v| *v /= a[i]);
    }
    out
}

#[inline(always)]
fn subtract(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to -= factor * from);
}

fn transposed(a: &[f64], n: usize) -> Vec<f64> {
    (0..n * n).map(|at| a[at % n * n + at / n]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A positive definite matrix.
    fn matrix(n: usize) -> Vec<f64> {
        let noise = |at: usize| ((at * at * 7919 + at * 31) % 1009) as f64 / 1009.0 - 0.5;
        let rows: Vec<f64> = (0..n * 3).map(noise).collect();
        let dot = |i: usize, j: usize| (0..3).map(|k| rows[i * 3 + k] * rows[j * 3 + k]).sum::<f64>();
        (0..n * n).map(|at| dot(at / n, at % n) + if at / n == at % n { 0.4 } else { 0.0 }).collect()
    }

    /// M as a dense matrix, and R_BB of every block.
    fn dense(blocks: &[Block], n: usize) -> (Vec<f64>, Vec<f64>) {
        let (mut m, mut r) = (vec![0.0; n * n], vec![0.0; n * n]);
        for block in blocks {
            for col in 0..block.width {
                let (panel, lane) = (col / HEIGHT, col % HEIGHT);
                let at = block.start + col;
                m[at * n + at] = 1.0;
                for row in 0..block.start {
                    m[row * n + at] = f64::from(block.coupling[panel * block.start + row][lane]);
                }
                for row in 0..block.width {
                    r[(block.start + row) * n + at] = f64::from(block.root[panel * block.width + row][lane]);
                }
            }
        }
        (m, r)
    }

    #[test]
    fn factors_multiply_to_the_matrix() {
        for n in [8, 128, 136, 304] {
            let a = matrix(n);
            let blocks = Matrix { a: a.clone(), n }.factor().unwrap();
            let (m, r) = dense(&blocks, n);
            let product = |a: &[f64], b: &[f64]| -> Vec<f64> {
                let at = |at: usize| (0..n).map(|k| a[at / n * n + k] * b[k * n + at % n]).sum();
                (0..n * n).map(at).collect()
            };
            let root = product(&m, &r);
            let back = product(&root, &transposed(&root, n));
            assert!(a.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-5), "{n}");
            for block in &blocks {
                for i in 0..block.width {
                    let r = r[(block.start + i) * n + block.start + i];
                    assert!((block.pivots[i] - r * r).abs() < 1e-6);
                    assert_eq!(block.compensation[i * block.width + i], 1.0);
                }
            }
        }
    }

    #[test]
    fn vectors_of_any_width_give_the_same_bits() {
        let (a, n) = (matrix(264), 264);
        assert_eq!(Matrix { a: a.clone(), n }.factor(), factor(a, n));
    }

    #[test]
    fn indefinite_matrices_have_no_factor() {
        let mut a = matrix(136);
        a[5 * 136 + 5] = -0.1;
        assert!(Matrix { a: a.clone(), n: 136 }.factor().is_none());
        a[5 * 136 + 5] = f64::NAN;
        assert!(Matrix { a, n: 136 }.factor().is_none());
    }
}
