//! Some rows of a product, on the calling thread, by whichever kernel is made for the format and the precision.

use crate::activations::{Activations, Order, Precision, Quantized};
use crate::dot::dots;
use crate::isa;
use crate::product::{Side, product};
use moepress_quant::codec::Codes;
use moepress_quant::{Dtype, Packed, Plain, Stored};
use std::ops::Range;

/// Rows unpacked at once: with 4096 columns 1 MiB, which the second-level cache holds.
pub(crate) const TILE: usize = 64;

/// Inputs from which on tiles of plain weights beat one input after the other.
pub(crate) const FEW: usize = 16;

/// W · xᵀ for these rows of W, `[rows.len(), n]`: the product transposed. x is `[n, cols]`, `cols` > 0.
pub(crate) fn rows(x: &Activations<'_>, w: &Stored, rows: Range<usize>, out: &mut [f32]) {
    let order = match w {
        Stored::Packed(packed) if x.precision == Precision::Fast => Order::of(packed.format),
        _ => None,
    };
    match w {
        Stored::Packed(packed) if let Some(order) = order => {
            let x = x.quantized(order);
            match packed.codes {
                Codes::Fields(_) => isa::kernel()(x, packed, rows, out),
                Codes::Trits(_) | Codes::Planes(_) | Codes::Entropy(_) => repacked(x, packed, rows, out),
            }
        }
        Stored::Plain(w) if x.n < FEW => few(x, w, rows, out),
        Stored::Plain(Plain { dtype: Dtype::Bf16, bytes, .. }) if x.precision == Precision::Fast => {
            let (_, cols) = w.matrix_shape();
            match isa::halves() {
                Some(kernel) => {
                    kernel(x.halves(), &bytes[rows.start * 2 * cols..rows.end * 2 * cols], cols, out)
                }
                None => unpacked(x, w, rows, out),
            }
        }
        _ => unpacked(x, w, rows, out),
    }
}

/// For plain weights: every input by itself, so that none depends on the others.
fn few(x: &Activations<'_>, w: &Plain, rows: Range<usize>, out: &mut [f32]) {
    if x.n == 1 {
        return dots(x.values, w, rows.start, out);
    }
    let cols = x.values.len() / x.n;
    let mut y = vec![0.0; TILE.min(rows.len())];
    for (first, out) in rows.clone().step_by(TILE).zip(out.chunks_mut(TILE * x.n)) {
        let y = &mut y[..TILE.min(rows.end - first)];
        for (i, x_row) in x.values.chunks_exact(cols).enumerate() {
            dots(x_row, w, first, y);
            out.chunks_exact_mut(x.n).zip(&*y).for_each(|(out, y)| out[i] = *y);
        }
    }
}

/// For every format: a few rows as f32, multiplied and forgotten.
fn unpacked(x: &Activations<'_>, w: &Stored, rows: Range<usize>, out: &mut [f32]) {
    let (_, cols) = w.matrix_shape();
    let mut tile = vec![0.0; TILE.min(rows.len()) * cols];
    for (first, out) in rows.clone().step_by(TILE).zip(out.chunks_mut(TILE * x.n)) {
        let tile = &mut tile[..TILE.min(rows.end - first) * cols];
        w.rows_to_f32(first, tile);
        product(tile, x.values, Side::Rows, [tile.len() / cols, x.n, cols], out);
    }
}

/// For every codec: the codes of a few rows in fields, multiplied and forgotten.
fn repacked(x: &Quantized, w: &Packed, rows: Range<usize>, out: &mut [f32]) {
    let groups = w.format.row_groups(w.cols);
    for (first, out) in rows.clone().step_by(TILE).zip(out.chunks_mut(TILE * x.n)) {
        let count = TILE.min(rows.end - first);
        let part =
            |numbers: &[u16]| numbers.get(first * groups..(first + count) * groups).unwrap_or(&[]).to_vec();
        let mut codes = vec![0; count * w.cols];
        w.read_codes(first, &mut codes);
        let tile = Packed {
            format: w.format,
            rows: count,
            cols: w.cols,
            codes: Codes::fields(w.format, w.cols, &codes),
            scales: part(&w.scales),
            offsets: part(&w.offsets),
        };
        isa::kernel()(x, &tile, 0..count, out);
    }
}
