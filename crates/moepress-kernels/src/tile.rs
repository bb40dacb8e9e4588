//! The product for every format: unpack a few rows, multiply, forget them; one input meets bf16 rows directly.

use crate::dot::dots_bf16;
use crate::product::product;
use crate::{MatmulError, shape};
use moepress_quant::{Dtype, Plain, Stored};

/// Rows unpacked at once: with 4096 columns 1 MiB, which the second-level cache holds.
const TILE_ROWS: usize = 64;

/// y = x · Wᵀ, `[n, rows]`, with x `[n, cols]` and W in any format, within the error bound of the crate's
/// documentation. Memory beyond the result: 64 rows of W as f32, or none for
/// a single input and bf16.
///
/// Runs on the calling thread. `w` must have passed [`Stored::validate`].
///
/// # Errors
/// `x` is not `[n, cols]`.
pub fn matmul(x: &[f32], n: usize, w: &Stored) -> Result<Vec<f32>, MatmulError> {
    let (rows, cols) = shape(x, n, w)?;
    let mut y = vec![0.0; n * rows];
    if y.is_empty() || cols == 0 {
        return Ok(y);
    }
    if let (1, Stored::Plain(Plain { dtype: Dtype::Bf16, bytes, .. })) = (n, w) {
        dots_bf16(x, bytes, &mut y);
        return Ok(y);
    }
    let mut tile = vec![0.0; TILE_ROWS.min(rows) * cols];
    for first in (0..rows).step_by(TILE_ROWS) {
        let tile = &mut tile[..TILE_ROWS.min(rows - first) * cols];
        w.rows_to_f32(first, tile);
        product(x, n, tile, cols, &mut y, rows, first);
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul_reference;
    use moepress_quant::Format;
    use moepress_quant::formats::encode_nearest;
    use proptest::prelude::*;

    const FORMATS: [&str; 16] = [
        "bf16",
        "f16",
        "f32",
        "ternary-g32",
        "ternary-g128",
        "ternary-row",
        "int2-g32",
        "int2-sym-g64",
        "int3-g16",
        "int3-g64",
        "int3-sym-g32",
        "int4-g64",
        "int4-sym-row",
        "int4-sym-g128",
        "int8-g128",
        "int8-sym-g32",
    ];

    fn store(format: &str, rows: usize, cols: usize, w: &[f32]) -> Stored {
        match format.parse().unwrap() {
            Format::Plain(dtype) => Stored::Plain(Plain::from_f32(dtype, vec![rows, cols], w)),
            Format::Grouped(format) => Stored::Packed(encode_nearest(format, rows, cols, w, None).unwrap()),
        }
    }

    /// Numbers in −1..1 that `seed` sets.
    fn noise(seed: u32, n: usize) -> Vec<f32> {
        let hash = |i: u32| (i ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b);
        (0..n as u32).map(|i| hash(i) as i32 as f32 / 2f32.powi(31)).collect()
    }

    fn check(format: &str, n: usize, rows: usize, cols: usize, seed: u32, size: f32) {
        let x: Vec<f32> = noise(seed, n * cols).iter().map(|x| x * size).collect();
        let w = store(format, rows, cols, &noise(!seed, rows * cols));
        let y = matmul(&x, n, &w).unwrap();
        let reference = matmul_reference(&x, n, &w).unwrap();
        let magnitudes = Plain::from_f32(
            Dtype::F32,
            vec![rows, cols],
            &w.to_f32().iter().map(|w| w.abs()).collect::<Vec<f32>>(),
        );
        let absolute: Vec<f32> = x.iter().map(|x| x.abs()).collect();
        let magnitudes = matmul_reference(&absolute, n, &Stored::Plain(magnitudes)).unwrap();
        assert_eq!((y.len(), reference.len()), (n * rows, n * rows));
        for (i, (y, (reference, magnitude))) in y.iter().zip(reference.iter().zip(&magnitudes)).enumerate() {
            let bound = cols as f64 * (f64::from(f32::EPSILON) * magnitude + f64::from(f32::MIN_POSITIVE));
            let error = (f64::from(*y) - reference).abs();
            assert!(
                error <= bound,
                "{format} {n}x{rows}x{cols}, element {i}: {y} for {reference}, bound {bound}"
            );
        }
        assert_eq!(matmul(&x, n, &w).unwrap(), y, "{format}: not repeatable");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn error_stays_within_the_bound(
            n in 0usize..12, rows in 0usize..150, cols in 0usize..300, seed: u32, exponent in -140i32..100,
        ) {
            for format in FORMATS {
                check(format, n, rows, cols, seed, 2f32.powi(exponent));
            }
        }
    }

    #[test]
    fn edge_and_large_shapes() {
        for format in FORMATS {
            for n in [0, 1, 4, 5] {
                for (rows, cols) in [(0, 0), (0, 7), (7, 0), (1, 1), (2, 13), (1, 129), (64, 32), (65, 33)] {
                    check(format, n, rows, cols, 1, 1.0);
                }
            }
            check(format, 1, 300, 2050, 2, 1.0);
            check(format, 33, 300, 2050, 3, 1.0);
        }
    }

    #[test]
    fn plain_tensors_fold_leading_dimensions() {
        let w = noise(5, 24);
        let tensor = |shape: Vec<usize>| Stored::Plain(Plain::from_f32(Dtype::F32, shape, &w));
        let x = noise(6, 8);
        assert_eq!(matmul(&x, 2, &tensor(vec![2, 3, 4])), matmul(&x, 2, &tensor(vec![6, 4])));
        assert_eq!(matmul(&w, 1, &tensor(vec![24])).map(|y| y.len()), Ok(1));
        assert_eq!(matmul(&x, 3, &tensor(vec![6, 4])), Err(MatmulError::Input { n: 3, cols: 4, found: 8 }));
    }
}
