//! The product of a single input with plain bf16 rows, which need no unpacking to memory.

/// Running sums: enough independent chains of additions to hide their latency.
const LANES: usize = 16;

/// y = x · Wᵀ, `[rows]`, with x `[cols]`, `cols` > 0, and the little-endian bf16 numbers of W `[rows, cols]`.
pub(crate) fn dots_bf16(x: &[f32], w: &[u8], y: &mut [f32]) {
    let rows = w.as_chunks::<2>().0.chunks_exact(x.len());
    y.iter_mut().zip(rows).for_each(|(y, row)| *y = dot(x, row));
}

fn dot(x: &[f32], w: &[[u8; 2]]) -> f32 {
    let product = |x: &f32, w: &[u8; 2]| x * f32::from_bits(u32::from(u16::from_le_bytes(*w)) << 16);
    let ((x, x_rest), (w, w_rest)) = (x.as_chunks::<LANES>(), w.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (x, w) in x.iter().zip(w) {
        sums.iter_mut().zip(x.iter().zip(w)).for_each(|(sum, (x, w))| *sum += product(x, w));
    }
    sums.iter_mut().zip(x_rest.iter().zip(w_rest)).for_each(|(sum, (x, w))| *sum += product(x, w));
    sums.iter().sum()
}
