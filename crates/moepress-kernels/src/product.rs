//! Products of plain f32 matrices: the only file that calls gemm.

use crate::part::Part;

/// How the second factor of a [`product`] lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `[n, k]`: its rows meet the rows of the first.
    Rows,
    /// `[k, n]`: its columns do.
    Columns,
}

/// c = a · b, `[m, n]`, on the calling thread: a is `[m, k]`, and b as `side` says.
///
/// # Panics
/// Slices that do not hold as many numbers.
pub fn product(a: &[f32], b: &[f32], side: Side, [m, n, k]: [usize; 3], c: &mut [f32]) {
    let fits = m.checked_mul(k) == Some(a.len())
        && n.checked_mul(k) == Some(b.len())
        && m.checked_mul(n) == Some(c.len());
    assert!(fits, "no product of {} and {} numbers with {:?}", a.len(), b.len(), [m, n, k]);
    if k == 0 {
        c.fill(0.0);
    }
    // SAFETY: the factors are as long as that, and so is c, whose rows are n numbers each.
    unsafe { multiply(a, b, side, [m, n, k], c.as_mut_ptr(), [n, 1]) }
}

/// w · xᵀ into the columns of a result, on the calling thread: w is `[part.rows(), k]`, x `[part.inputs(), k]`, k > 0.
///
/// # Panics
/// Slices that do not hold as many numbers.
pub(crate) fn product_into(w: &[f32], x: &[f32], k: usize, part: &mut Part<'_>) {
    let (m, n, stride) = (part.rows(), part.inputs(), part.stride());
    let fits = m.checked_mul(k) == Some(w.len()) && n.checked_mul(k) == Some(x.len());
    assert!(fits && k > 0, "no product of {} and {} numbers with {:?}", w.len(), x.len(), [m, n, k]);
    // SAFETY: the factors are as long as that; a part has as many rows and inputs as it says, that far apart.
    unsafe { multiply(w, x, Side::Rows, [m, n, k], part.as_mut_ptr(), [1, stride]) }
}

/// # Safety
/// a holds m · k numbers and b n · k; c is valid for writes at i · apart\[0\] + j · apart\[1\], i < m, j < n, and overlaps
/// neither.
unsafe fn multiply(
    a: &[f32],
    b: &[f32],
    side: Side,
    [m, n, k]: [usize; 3],
    c: *mut f32,
    [along_m, across]: [usize; 2],
) {
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    // Distance of neighbours along n, and along k.
    let (along_n, along_k) = match side {
        Side::Rows => (k, 1),
        Side::Columns => (1, n),
    };
    // SAFETY: the strides address a[i * k + l] and b[j * along_n + l * along_k] for i < m, j < n and l < k, all inside
    // their slices, and c as the caller promises; no slice is longer than isize::MAX, so no stride is.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            across as isize,
            along_m as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            along_n as isize,
            along_k as isize,
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
    fn both_sides_by_hand() {
        let mut c = [9.0; 4];
        product(&[1.0, 10.0, 2.0, 20.0], &[1.0, 0.0, 1.0, 2.0], Side::Rows, [2, 2, 2], &mut c);
        assert_eq!(c, [1.0, 21.0, 2.0, 42.0]);
        product(&[1.0, 10.0, 2.0, 20.0], &[1.0, 0.0, 1.0, 2.0], Side::Columns, [2, 2, 2], &mut c);
        assert_eq!(c, [11.0, 20.0, 22.0, 40.0]);
        product(&[], &[], Side::Rows, [2, 2, 0], &mut c);
        assert_eq!(c, [0.0; 4]);
    }
}
