//! The f32 product of inputs with one unpacked tile: the only file that calls gemm, and with it unsafe code.

/// Writes x · tileᵀ to columns `first..first + m` of y: x is `[n, cols]`, tile `[m, cols]`, y `[n, rows]`,
/// with `cols` > 0 and m = `tile.len() / cols`.
///
/// Slices of other lengths leave y as it is.
#[allow(unsafe_code)] // gemm has no safe entry
pub(crate) fn product(
    x: &[f32],
    n: usize,
    tile: &[f32],
    cols: usize,
    y: &mut [f32],
    rows: usize,
    first: usize,
) {
    let m = tile.len().checked_div(cols).unwrap_or(0);
    let fits = n.checked_mul(cols) == Some(x.len())
        && m * cols == tile.len()
        && n.checked_mul(rows) == Some(y.len())
        && first.checked_add(m).is_some_and(|end| end <= rows);
    debug_assert!(fits);
    if !fits || n == 0 || m == 0 {
        return;
    }
    let y = &mut y[first..];
    // SAFETY: the strides address x[i * cols + k], tile[r * cols + k] and y[first + i * rows + r] for i < n,
    // r < m and k < cols, all inside their slices by the checks above; y is borrowed mutably and so overlaps
    // neither input; no slice is longer than isize::MAX, so no stride is.
    unsafe {
        gemm::gemm(
            n,
            m,
            cols,
            y.as_mut_ptr(),
            1,
            rows as isize,
            false,
            x.as_ptr(),
            1,
            cols as isize,
            tile.as_ptr(),
            cols as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_fills_its_columns_only() {
        let mut y = [9.0; 8];
        product(&[1.0, 10.0, 2.0, 20.0], 2, &[1.0, 0.0, 1.0, 1.0], 2, &mut y, 4, 1);
        assert_eq!(y, [9.0, 1.0, 11.0, 9.0, 9.0, 2.0, 22.0, 9.0]);
    }
}
