//! Some rows of a product, on the calling thread, by whichever kernel is made for the format and the precision.

use crate::activations::{Activations, Order, Precision};
use crate::dot::dots;
use crate::isa;
use crate::product::{Side, product};
use moepress_quant::{Dtype, Plain, Stored};
use std::ops::Range;

/// Rows unpacked at once: with 4096 columns 1 MiB, which the second-level cache holds.
pub(crate) const TILE: usize = 64;

/// W · xᵀ for these rows of W, `[rows.len(), n]`: the product transposed. x is `[n, cols]`, `cols` > 0.
pub(crate) fn rows(x: &Activations<'_>, w: &Stored, rows: Range<usize>, out: &mut [f32]) {
    let (_, cols) = w.matrix_shape();
    match w {
        Stored::Packed(w) if x.precision == Precision::Fast => {
            isa::kernel()(x.quantized(Order::of(w.format.code)), w, rows, out);
        }
        Stored::Plain(w) if x.n == 1 => dots(x.values, w, rows.start, out),
        Stored::Plain(Plain { dtype: Dtype::Bf16, bytes, .. }) if x.precision == Precision::Fast => {
            match isa::halves() {
                Some(kernel) => {
                    kernel(x.halves(), &bytes[rows.start * 2 * cols..rows.end * 2 * cols], cols, out)
                }
                None => unpacked(x, w, cols, rows, out),
            }
        }
        _ => unpacked(x, w, cols, rows, out),
    }
}

/// For every format: a few rows as f32, multiplied and forgotten.
fn unpacked(x: &Activations<'_>, w: &Stored, cols: usize, rows: Range<usize>, out: &mut [f32]) {
    let mut tile = vec![0.0; TILE.min(rows.len()) * cols];
    for (first, out) in rows.clone().step_by(TILE).zip(out.chunks_mut(TILE * x.n)) {
        let tile = &mut tile[..TILE.min(rows.end - first) * cols];
        tile.chunks_exact_mut(cols).enumerate().for_each(|(row, out)| w.row_to_f32(first + row, out));
        product(tile, x.values, Side::Rows, [tile.len() / cols, x.n, cols], out);
    }
}
