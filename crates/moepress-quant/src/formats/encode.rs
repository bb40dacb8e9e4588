//! From f32 weights to packed codes: rounding to nearest, and packing what a solver has rounded.

use super::{Grid, GridError, GridRule, GroupFormat, Row, implementation_of};
use crate::codec::{Codes, Packing};
use crate::{Format, Grouped, Packed, Stored};
use rayon::prelude::*;

/// Why a matrix has no encoding.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// There is no such format, or none with such grids.
    #[error("{0} is no format that weights can be rounded to, or not with such grids")]
    Format(Format),
    /// A part does not have the length the shape asks for.
    #[error("{part} has {found} elements instead of {expected}")]
    Length {
        /// Which part.
        part: &'static str,
        /// What the shape asks for.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// The importance of a row or column is negative, NaN or infinite.
    #[error("element {index} of {part} is negative or not finite")]
    Weight {
        /// Which part.
        part: &'static str,
        /// Position of the first such element.
        index: usize,
    },
    /// A group of weights has no grid.
    #[error("row {row}, columns from {col}: {source}; keep this matrix plain or repair its weights")]
    Grid {
        /// Row of the group.
        row: usize,
        /// First column of the group.
        col: usize,
        /// What is wrong with it.
        source: GridError,
    },
    /// A code outside the format.
    #[error("element {index} of codes is {code}, which the format does not have")]
    Code {
        /// Position of the first such code.
        index: usize,
        /// The code.
        code: u8,
    },
}

/// Rounds every weight of `w`, `[rows, cols]`, to the nearest level of its group's grid.
///
/// `weights`, one per column and ≥ 0, tell the grids how much each column's error matters; the diagonal of
/// the gram of the inputs is the usual choice. The result is the same for any number of threads.
///
/// # Errors
/// An unknown format, wrong lengths, a bad column weight, or the first group (by row, then column) that
/// holds NaN or infinity or needs a scale beyond f16.
pub fn encode_nearest(
    format: Grouped,
    rows: usize,
    cols: usize,
    w: &[f32],
    weights: Option<&[f64]>,
) -> Result<Packed, EncodeError> {
    encode_on(format, GridRule::usual(format), rows, cols, w, weights)
}

/// As [`encode_nearest`] on grids chosen by `rule`.
///
/// # Errors
/// As [`encode_nearest`]; or the format cannot have grids by that rule.
pub fn encode_on(
    format: Grouped,
    rule: GridRule,
    rows: usize,
    cols: usize,
    w: &[f32],
    weights: Option<&[f64]>,
) -> Result<Packed, EncodeError> {
    check_area("w", rows, cols, w.len())?;
    let row = |row: usize, out: &mut [f32]| out.copy_from_slice(&w[row * cols..(row + 1) * cols]);
    encode(find(format, rule)?, format, (rows, cols), row, weights)
}

/// As [`encode_on`], of a tensor that is a matrix; of its weights no more than a row per thread is held in f32.
///
/// # Errors
/// As [`encode_on`].
pub fn encode_stored(
    format: Grouped,
    rule: GridRule,
    w: &Stored,
    weights: Option<&[f64]>,
) -> Result<Packed, EncodeError> {
    let row = |row: usize, out: &mut [f32]| w.row_to_f32(row, out);
    encode(find(format, rule)?, format, w.matrix_shape(), row, weights)
}

/// Rounds a matrix whose rows `read` hands over.
fn encode(
    implementation: &dyn GroupFormat,
    format: Grouped,
    (rows, cols): (usize, usize),
    read: impl Fn(usize, &mut [f32]) + Sync,
    weights: Option<&[f64]>,
) -> Result<Packed, EncodeError> {
    weights.map_or(Ok(()), |weights| check_weights("column weights", cols, weights))?;
    let (width, groups) = (format.row_bytes(cols), format.row_groups(cols));
    let mut codes = vec![0; rows * width];
    let mut grids = vec![Grid::default(); rows * groups];
    if cols > 0 {
        let places = codes.par_chunks_exact_mut(width).zip(grids.par_chunks_exact_mut(groups));
        let scratch = || (vec![0.0; cols], vec![0; cols]);
        let each = |(w, codes): &mut (Vec<f32>, Vec<u8>), (row, (bytes, grids))| {
            read(row, w);
            let encoded = implementation.encode_row(format, w, weights, Row { codes, bytes, grids });
            encoded.err().map(|(col, source)| EncodeError::Grid { row, col, source })
        };
        let failures = places.enumerate().map_init(scratch, each);
        if let Some(error) = failures.find_map_first(|failure| failure) {
            return Err(error);
        }
    }
    Ok(packed(format, rows, cols, Codes::Fields(codes), &grids))
}

/// Packs codes `[rows, cols]` and grids `[rows, format.row_groups(cols)]` that a solver has chosen.
///
/// # Errors
/// An unknown format, wrong lengths, a code the format does not have, or a grid whose numbers are not the
/// numbers that [`GroupFormat::fit`] returns.
pub fn pack_codes(
    format: Grouped,
    rows: usize,
    cols: usize,
    codes: &[u8],
    grids: &[Grid],
) -> Result<Packed, EncodeError> {
    find(format, GridRule::usual(format))?;
    check_area("codes", rows, cols, codes.len())?;
    check_area("grids", rows, format.row_groups(cols), grids.len())?;
    if let Some(index) = codes.iter().position(|&code| !format.has(code)) {
        return Err(EncodeError::Code { index, code: codes[index] });
    }
    if let Some(at) = grids.iter().position(|&grid| !format.holds(grid)) {
        let (row, group) = (at / format.row_groups(cols), at % format.row_groups(cols));
        let Grid { scale, offset } = grids[at];
        let value = if format.scale.holds(scale) { offset } else { scale };
        return Err(EncodeError::Grid {
            row,
            col: group * format.group,
            source: GridError::Overflow { value },
        });
    }
    Ok(packed(format, rows, cols, Codes::pack(format, rows, cols, codes, Packing::Fields), grids))
}

fn packed(format: Grouped, rows: usize, cols: usize, codes: Codes, grids: &[Grid]) -> Packed {
    let scales = grids.iter().map(|grid| format.scale.bits(grid.scale)).collect();
    let offsets = match format.has_offsets() {
        true => grids.iter().map(|grid| grid.offset_bits()).collect(),
        false => Vec::new(),
    };
    Packed { format, rows, cols, codes, scales, offsets }
}

pub(crate) fn find(format: Grouped, rule: GridRule) -> Result<&'static dyn GroupFormat, EncodeError> {
    implementation_of(format, rule).ok_or(EncodeError::Format(Format::Grouped(format)))
}

pub(crate) fn check_area(
    part: &'static str,
    rows: usize,
    cols: usize,
    found: usize,
) -> Result<(), EncodeError> {
    // No slice is longer than usize::MAX, so an area beyond it is a wrong length as well.
    let expected = rows.saturating_mul(cols);
    if expected == found { Ok(()) } else { Err(EncodeError::Length { part, expected, found }) }
}

pub(super) fn check_weights(part: &'static str, expected: usize, weights: &[f64]) -> Result<(), EncodeError> {
    check_area(part, expected, 1, weights.len())?;
    match weights.iter().position(|h| !h.is_finite() || *h < 0.0) {
        Some(index) => Err(EncodeError::Weight { part, index }),
        None => Ok(()),
    }
}
