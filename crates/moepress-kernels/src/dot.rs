//! Products of single inputs with plain rows, which need no unpacking to memory.

use crate::vector::dots_of;
use moepress_quant::{Dtype, Plain};

/// y = x · Wᵀ, `[y.len()]`, with x `[cols]`, `cols` > 0, for the rows of W `[rows, cols]` from `first`.
pub(crate) fn dots(x: &[f32], w: &Plain, first: usize, y: &mut [f32]) {
    let bytes = &w.bytes[first * x.len() * w.dtype.bytes()..];
    match w.dtype {
        Dtype::Bf16 => dots_of(x, bytes.as_chunks::<2>().0, y),
        Dtype::F32 => dots_of(x, bytes.as_chunks::<4>().0, y),
        Dtype::F16 => {
            let mut row = vec![0.0; x.len()];
            for (i, y) in y.iter_mut().enumerate() {
                w.read_f32((first + i) * x.len(), &mut row);
                dots_of(x, &row, std::slice::from_mut(y));
            }
        }
    }
}
