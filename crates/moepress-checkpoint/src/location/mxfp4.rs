//! 4-bit floating point in blocks: MXFP4 of the OCP Microscaling Formats specification 1.0, as gpt-oss stores it:
//! 32 weights of E2M1, two to a byte, the lower half first, with one scale of E8M0.

use moepress_quant::{Dtype, Plain};

/// Weights of a block.
pub(super) const BLOCK: usize = 32;

/// What the tensors are called, after the name that the weights would have in full.
pub(super) const BLOCKS: &str = "_blocks";
pub(super) const SCALES: &str = "_scales";

const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// A scale that is NaN, at this position.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoScale(pub usize);

/// The weights in bf16, which is exact; what is beyond its range comes out infinite.
///
/// # Errors
/// A scale is NaN.
pub(super) fn decode(blocks: &[u8], scales: &[u8], cols: usize) -> Result<Vec<u8>, NoScale> {
    if let Some(index) = scales.iter().position(|&scale| scale == u8::MAX) {
        return Err(NoScale(index));
    }
    let mut bytes = Vec::with_capacity(4 * blocks.len());
    let mut line = Vec::with_capacity(cols);
    for (blocks, scales) in blocks.chunks_exact(cols / 2).zip(scales.chunks_exact(cols / BLOCK)) {
        line.clear();
        for (block, &scale) in blocks.chunks_exact(BLOCK / 2).zip(scales) {
            let scale = power(scale);
            line.extend(block.iter().flat_map(|byte| [byte & 15, byte >> 4]).map(|code| value(code) * scale));
        }
        bytes.extend(Plain::from_f32(Dtype::Bf16, vec![cols], &line).bytes);
    }
    Ok(bytes)
}

fn value(code: u8) -> f32 {
    let magnitude = MAGNITUDES[usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// 2^(scale − 127), the smallest of which is subnormal.
const fn power(scale: u8) -> f32 {
    f32::from_bits(if scale == 0 { 1 << 22 } else { (scale as u32) << 23 })
}
