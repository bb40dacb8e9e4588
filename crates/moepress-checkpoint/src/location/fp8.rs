//! 8-bit floating point in blocks: FP8 E4M3 codes with one scale per 128 × 128 weights (DeepSeek-V3,
//! arXiv 2412.19437, section 3.3).

use moepress_quant::{Dtype, Plain};

/// Rows and columns of a block.
const BLOCK: usize = 128;

/// What the tensor of scales is called, after the name of the codes.
pub(super) const SCALES: &str = "_scale_inv";

/// Dimensions of the scales of a matrix.
pub(super) const fn scale_shape(rows: usize, cols: usize) -> [usize; 2] {
    [rows.div_ceil(BLOCK), cols.div_ceil(BLOCK)]
}

/// The weights in bf16: code times scale in f32, then rounded to nearest, ties to even.
///
/// # Errors
/// The position of the first code that is NaN.
pub(super) fn decode(codes: &[u8], cols: usize, scales: &[f32]) -> Result<Vec<u8>, usize> {
    if let Some(index) = codes.iter().position(|code| code & 0x7f == 0x7f) {
        return Err(index);
    }
    let values: Vec<f32> = (0..=u8::MAX).map(value).collect();
    let per_row = cols.div_ceil(BLOCK);
    let mut bytes = Vec::with_capacity(2 * codes.len());
    let mut line = vec![0.0; cols];
    for (row, codes) in codes.chunks_exact(cols).enumerate() {
        let scales = &scales[row / BLOCK * per_row..][..per_row];
        for ((line, codes), scale) in line.chunks_mut(BLOCK).zip(codes.chunks(BLOCK)).zip(scales) {
            line.iter_mut()
                .zip(codes)
                .for_each(|(weight, &code)| *weight = values[usize::from(code)] * scale);
        }
        bytes.extend(Plain::from_f32(Dtype::Bf16, vec![cols], &line).bytes);
    }
    Ok(bytes)
}

/// E4M3 without infinities: a sign, 4 bits of exponent with bias 7, 3 bits of mantissa; all ones is NaN.
fn value(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match exponent {
        0 => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    match code {
        0x7f | 0xff => f32::NAN,
        _ if code & 0x80 != 0 => -magnitude,
        _ => magnitude,
    }
}
