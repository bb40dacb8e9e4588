//! Products with matrices as they are stored: y = x · Wᵀ without expanding the whole of W.
//!
//! The kernels form a ladder, each held against the one below it:
//!
//! 1. [`matmul_reference`]: one weight at a time in f64; the definition.
//! 2. [`matmul`]: tiles of rows unpacked to f32, then multiplied; runs every format there is.
//!
//! **Error bound.** For finite inputs whose products and sums stay in the range of f32, every element of
//! every f32 kernel satisfies |y − ref| ≤ c · ε · Σⱼ |xⱼ| |wⱼ| + c · 2⁻¹²⁶ with ε = 2⁻²³ and c = `cols`, the
//! worst case of any order of summation (Higham, Accuracy and Stability of Numerical Algorithms, §3.1), twice
//! over; rounding errors of random sign grow as √`cols`. The second term covers underflow.
//!
//! **Determinism.** A result depends on the inputs alone on one kind of processor, never on threads. Between
//! processors with different vector units, and between a row computed alone and in a larger batch, the order
//! of summation may differ within the bound.

mod dot;
mod product;
mod reference;
mod tile;

pub use reference::matmul_reference;
pub use tile::matmul;

use moepress_quant::Stored;

/// Why a product has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatmulError {
    /// The inputs are not `[n, cols]` for the columns of the weights.
    #[error("x has {found} elements instead of {n} rows of {cols}, the columns of the weights")]
    Input {
        /// Rows asked for.
        n: usize,
        /// Columns of the weights.
        cols: usize,
        /// Elements of x.
        found: usize,
    },
}

/// Rows and columns of `w`, once `x` is known to be `[n, cols]`.
fn shape(x: &[f32], n: usize, w: &Stored) -> Result<(usize, usize), MatmulError> {
    let (rows, cols) = w.matrix_shape();
    // A product that overflows is no slice's length.
    if n.checked_mul(cols) == Some(x.len()) {
        Ok((rows, cols))
    } else {
        Err(MatmulError::Input { n, cols, found: x.len() })
    }
}
