//! The definition of the product, one weight at a time.

use crate::{Activations, MatmulError, shape};
use moepress_quant::Stored;

/// y = x · Wᵀ, `[n, rows]`, with x `[n, cols]` and W in any format: every sum in f64 from the first column to
/// the last, every product exact.
///
/// `w` must have passed [`Stored::validate`].
///
/// # Errors
/// `x` is not `[n, cols]`.
pub fn matmul_reference(x: &Activations<'_>, w: &Stored) -> Result<Vec<f64>, MatmulError> {
    let ((rows, cols), n) = (shape(x, w)?, x.n);
    let mut y = vec![0.0; n * rows];
    let mut weights = vec![0.0; cols];
    for row in 0..rows {
        w.row_to_f32(row, &mut weights);
        for i in 0..n {
            let x = &x.values()[i * cols..(i + 1) * cols];
            y[i * rows + row] = x.iter().zip(&weights).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
        }
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precision;
    use moepress_quant::{Dtype, Plain};

    #[test]
    fn by_hand() {
        let w = Stored::Plain(Plain::from_f32(Dtype::F32, vec![3, 2], &[1.0, 2.0, 0.5, -1.0, 0.0, 4.0]));
        let product = |x: &[f32], n| matmul_reference(&Activations::new(x, n, Precision::Exact), &w);
        assert_eq!(product(&[1.0, 10.0, 2.0, 0.0], 2), Ok(vec![21.0, -9.5, 40.0, 2.0, 1.0, 0.0]));
        assert_eq!(product(&[1.0], 1), Err(MatmulError::Input { n: 1, cols: 2, found: 1 }));
        assert!(product(&[], usize::MAX).is_err());
    }
}
