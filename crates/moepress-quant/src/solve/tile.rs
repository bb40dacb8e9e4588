//! The inner loop of the solver: products of packed panels, a tile at a time.
//!
//! Lanes run over independent results and every result is summed in the order of k, without fused
//! multiply-add: the same bits with any vector width, on any machine.

use std::ops::{AddAssign, Mul};

/// Results of a tile that share the vector operand.
pub(super) const HEIGHT: usize = 4;

/// `HEIGHT` × `LANES` sums Σₖ a\[k\]\[i\] · b\[k\]\[l\], over the shorter of both.
#[inline(always)]
pub(super) fn tile<T, const LANES: usize>(a: &[[T; HEIGHT]], b: &[[T; LANES]]) -> [[T; LANES]; HEIGHT]
where
    T: Copy + Default + AddAssign + Mul<Output = T>,
{
    let mut sums = [[T::default(); LANES]; HEIGHT];
    for (a, b) in a.iter().zip(b) {
        for i in 0..HEIGHT {
            for lane in 0..LANES {
                sums[i][lane] += a[i] * b[lane];
            }
        }
    }
    sums
}

/// The first `cols` (a multiple of `WIDTH`) of the first `rows` columns of a row-major matrix as panels of `WIDTH`
/// columns: panel p holds, for every row, columns p·WIDTH and on.
pub(super) fn panels<const WIDTH: usize>(
    matrix: &[f64],
    stride: usize,
    rows: usize,
    cols: usize,
) -> Vec<[f64; WIDTH]> {
    let mut out = Vec::with_capacity(rows * cols / WIDTH);
    for panel in 0..cols / WIDTH {
        out.extend(matrix.chunks(stride).take(rows).map(|row| row.as_chunks::<WIDTH>().0[panel]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_of_panels_are_products() {
        // 3 × 8, row-major.
        let matrix: Vec<f64> = (0..24).map(|v| f64::from(v * v % 7)).collect();
        let (fours, eights) = (panels::<4>(&matrix, 8, 3, 8), panels::<8>(&matrix, 8, 3, 8));
        assert_eq!(eights[1], matrix[8..16]);
        assert_eq!(fours[3 + 1], matrix[12..16]);
        for (i, sums) in tile(&fours[3..], &eights).iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                assert_eq!(sum, (0..3).map(|k| matrix[k * 8 + 4 + i] * matrix[k * 8 + j]).sum::<f64>());
            }
        }
    }
}
