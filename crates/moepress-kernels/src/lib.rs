//! Products with matrices as they are stored: y = x · Wᵀ without expanding the whole of W.
//!
//! The kernels form a ladder, each held against the definition, [`matmul_reference`], one weight at a time in f64:
//!
//! | kernel | weights | inputs | computed in |
//! |---|---|---|---|
//! | `rows::unpacked` | any | [`Precision::Exact`] | f32, 64 rows unpacked at a time |
//! | `dot` | plain | fewer than sixteen | f32, straight from the stored numbers |
//! | `isa::{portable, avx2, neon}` | packed | [`Precision::Fast`] | dot products of codes and eight-bit activations |
//! | `isa::few` | packed | fewer than sixteen, [`Precision::Fast`], AVX-512 | the same |
//! | `isa::panel` | packed | sixteen or more, [`Precision::Fast`], AVX-512 | the same, weights unpacked once for all inputs |
//! | `isa::trits` | in five-trit bytes | fewer than sixteen, [`Precision::Fast`], AVX-512 | the same, straight from the bytes |
//! | `isa::bf16` | bf16 | sixteen or more, [`Precision::Fast`] | pairs of bf16 products |
//! | `factored` | of low rank | any | L (R x) + S x, each of the three by the kernels above |
//!
//! The instruction set is chosen at run time. [`matmuls`] spreads several products over the threads of rayon.
//!
//! **Error bounds**, for finite inputs whose products and sums stay in the range of f32; ε = 2⁻²³, c = `cols`.
//!
//! - f32: |y − ref| ≤ c · ε · Σⱼ |xⱼ| |wⱼ| + c · 2⁻¹²⁶, the worst case of any order of summation (Higham, Accuracy
//!   and Stability of Numerical Algorithms, §3.1), twice over; rounding errors of random sign grow as √c. The second
//!   term covers underflow.
//! - Eight-bit activations: with the step σⱼ, 1/127 of the largest magnitude in the block of 128 columns that j
//!   belongs to, |y − ref| ≤ ½ Σⱼ σⱼ |wⱼ| + (c / s + 16) · ε · Σⱼ mⱼ (|xⱼ| + σⱼ) + c · 2⁻¹¹⁸ · max m. mⱼ is |wⱼ|,
//!   and with offsets scale · code + |offset|; s is 256, 160 for five-trit bytes, and in panels the columns that share
//!   their scales, at most 128.
//!   The dot products of codes are exact; the first term is the rounding of activations, at most half a step each; the
//!   last covers blocks that are zeros to eight bits and f32.
//! - bf16 activations: |y − ref| ≤ (2⁻⁸ + c · ε) · Σⱼ |xⱼ| |wⱼ| + 2⁻¹²⁵ · Σⱼ (|xⱼ| + |wⱼ| + 1); subnormal numbers count as
//!   zeros.
//! - Low rank, W = L R + S: |y − ref| ≤ (h + (c + 2 · rank + 4) · ε) · (|L| |R| |x| + |S| |x|), h = 2⁻⁷ where bf16 activations are
//!   used and 0 elsewhere.
//!
//! **Determinism.** A result depends on the inputs alone on one kind of processor, never on threads. With fewer than sixteen
//! inputs, and plain weights or eight-bit activations, it does not depend on the other rows of a batch either; elsewhere
//! the order of summation may differ between a row computed alone and in a larger batch, and between processors with
//! different vector units.

mod activations;
mod dot;
mod factored;
#[allow(unsafe_code)] // vector instructions
#[allow(clippy::needless_range_loop)]
// adaptors take closures, which would not be compiled for the instruction set
mod isa;
#[allow(unsafe_code)] // vector instructions
#[allow(clippy::needless_range_loop)] // as in isa
mod limits;
mod matmul;
#[allow(unsafe_code)] // columns of one slice for several threads
mod part;
#[allow(unsafe_code)] // gemm has no safe entry
mod product;
mod reference;
mod rows;
#[allow(unsafe_code)] // work that other threads borrow
mod team;
#[cfg(test)]
mod tests;
#[allow(unsafe_code)] // calls of functions compiled for the processor
#[allow(clippy::needless_range_loop)] // lanes by number are what compilers turn into vectors
mod vector;

pub use activations::{Activations, Precision};
pub use limits::Limits;
pub use matmul::{matmul, matmuls};
pub use product::{Side, product};
pub use reference::matmul_reference;
pub use rows::{Decode, five_trits};
pub use team::{assembled, each_of, stands_by};
pub use vector::{clamped_swiglu, mix, silu_times, softmax, squares};

use moepress_quant::Stored;

/// The dot products of x with each of `y.len()` rows of its length.
pub fn dots(x: &[f32], rows: &[f32], y: &mut [f32]) {
    vector::dots_of(x, rows, y);
}

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
fn shape(x: &Activations<'_>, w: &Stored) -> Result<(usize, usize), MatmulError> {
    let (rows, cols) = w.matrix_shape();
    // A product that overflows is no slice's length.
    if x.n.checked_mul(cols) == Some(x.elements()) {
        Ok((rows, cols))
    } else {
        Err(MatmulError::Input { n: x.n, cols, found: x.elements() })
    }
}
