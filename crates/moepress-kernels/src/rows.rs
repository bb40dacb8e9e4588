//! Some rows of a product, on the calling thread, by whichever kernel is made for the format and the precision.

use crate::activations::{Activations, Integers, Order, Precision};
use crate::dot::dots;
use crate::isa::{self, Room};
use crate::part::Part;
use crate::product::product_into;
use crate::shape;
use moepress_quant::codec::Codes;
use moepress_quant::{Dtype, Packed, Plain, Stored};

/// Rows unpacked at once: with 4096 columns 1 MiB, which the second-level cache holds.
pub(crate) const TILE: usize = 64;

/// Inputs from which on tiles of plain weights beat one input after the other.
pub(crate) const FEW: usize = 16;

/// x · Wᵀ for the rows of W from `first` on, as many as there are columns in `out`. x is `[n, cols]`, `cols` > 0.
pub(crate) fn rows(x: &Activations<'_>, w: &Stored, first: usize, out: &mut Part<'_>, room: &mut Room) {
    let order = match w {
        Stored::Packed(packed) if x.precision == Precision::Fast => Order::of(packed.format),
        _ => None,
    };
    match w {
        Stored::Packed(packed) if let (Some(kernel), Some(_)) = (isa::trits(), in_fives(x, w)) => {
            kernel(x.fives(packed.format.group), x.n, packed, first, Decode::Tables, out);
        }
        Stored::Packed(packed) if let Some(order) = order => {
            let x = x.quantized(order);
            match packed.codes {
                Codes::Fields(_) => fields(x, packed, first, out, room),
                Codes::Trits(_) | Codes::Planes(_) | Codes::Entropy(_) => {
                    repacked(x, packed, first, out, room);
                }
            }
        }
        Stored::Plain(w) if x.n < FEW => few(x, w, first, out),
        Stored::Plain(Plain { dtype: Dtype::Bf16, bytes, .. }) if x.precision == Precision::Fast => {
            let (_, cols) = w.matrix_shape();
            match isa::halves() {
                Some(kernel) => {
                    kernel(x.halves(), &bytes[first * 2 * cols..(first + out.rows()) * 2 * cols], cols, out)
                }
                None => unpacked(x, w, first, out),
            }
        }
        _ => unpacked(x, w, first, out),
    }
}

/// How five-trit bytes become codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decode {
    /// By tables in registers.
    Tables,
    /// By multiplying a fraction by 3 and taking what it exceeds 1 by, trit after trit.
    Multiply,
}

/// The weights, if the kernel for five-trit bytes is made for them and the inputs.
pub(crate) fn in_fives<'a>(x: &Activations<'_>, w: &'a Stored) -> Option<&'a Packed> {
    let Stored::Packed(packed) = w else { return None };
    let made_for = x.precision == Precision::Fast
        && x.n < FEW
        && matches!(packed.codes, Codes::Trits(_))
        && packed.format.group >= 32
        && Order::of(packed.format).is_some()
        && isa::trits().is_some();
    made_for.then_some(packed)
}

/// x · Wᵀ as [`crate::matmul`] has it, on the calling thread, for codes in five-trit bytes that are decoded that way: to compare
/// the ways. `None` where there is no kernel for it: sixteen inputs or more, groups of less than 32, another codec, another
/// processor.
pub fn five_trits(x: &Activations<'_>, w: &Stored, decode: Decode) -> Option<Vec<f32>> {
    let (rows, cols) = shape(x, w).ok()?;
    let (packed, kernel) = (in_fives(x, w)?, isa::trits()?);
    let mut y = vec![0.0; x.n * rows];
    if cols > 0 && !y.is_empty() {
        Part::split(&mut y, rows, rows)
            .for_each(|mut part| kernel(x.fives(packed.format.group), x.n, packed, 0, decode, &mut part));
    }
    Some(y)
}

/// For codes in fields.
fn fields(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>, room: &mut Room) {
    match isa::panels().filter(|_| x.n >= FEW) {
        Some(kernel) => kernel(x, w, first, out, room),
        None => isa::kernel()(x, w, first, out),
    }
}

/// For plain weights: every input by itself, so that none depends on the others.
fn few(x: &Activations<'_>, w: &Plain, first: usize, out: &mut Part<'_>) {
    let values = x.values();
    for (i, x) in values.chunks_exact(values.len() / x.n).enumerate() {
        dots(x, w, first, out.of_input(i));
    }
}

/// For every format: a few rows as f32, multiplied and forgotten.
fn unpacked(x: &Activations<'_>, w: &Stored, first: usize, out: &mut Part<'_>) {
    let (_, cols) = w.matrix_shape();
    let rows = out.rows();
    let mut tile = vec![0.0; TILE.min(rows) * cols];
    for at in (0..rows).step_by(TILE) {
        let count = TILE.min(rows - at);
        let tile = &mut tile[..count * cols];
        w.rows_to_f32(first + at, tile);
        product_into(tile, x.values(), cols, &mut out.some(at, count));
    }
}

/// For every codec: the codes of a few rows in fields, multiplied and forgotten.
fn repacked(x: Integers<'_>, w: &Packed, first: usize, out: &mut Part<'_>, room: &mut Room) {
    let groups = w.format.row_groups(w.cols);
    let rows = out.rows();
    for at in (0..rows).step_by(TILE) {
        let count = TILE.min(rows - at);
        let first = first + at;
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
        fields(x, &tile, 0, &mut out.some(at, count), room);
    }
}
