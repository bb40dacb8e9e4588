//! Column sums in f64.

/// Σ over rows of f(value)² per column, for row-major `values` of `cols` columns.
pub fn squares(values: &[f32], cols: usize) -> Vec<f64> {
    let mut sums = vec![0.0; cols];
    if cols > 0 {
        for row in values.chunks_exact(cols) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += f64::from(value) * f64::from(value);
            }
        }
    }
    sums
}

/// Σ over rows of value per column.
pub fn columns(values: &[f32], cols: usize) -> Vec<f64> {
    let mut sums = vec![0.0; cols];
    for row in values.chunks_exact(cols.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sums
}

/// Σ over rows of (a b)² per column.
pub fn squared_products(a: &[f32], b: &[f32], cols: usize) -> Vec<f64> {
    let mut sums = vec![0.0; cols];
    if cols > 0 {
        for (a, b) in a.chunks_exact(cols).zip(b.chunks_exact(cols)) {
            for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
                let product = f64::from(a) * f64::from(b);
                *sum += product * product;
            }
        }
    }
    sums
}

/// Euclidean norm of a row.
pub fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}

/// Largest magnitude; NaN when any value is.
pub fn largest(values: &[f32]) -> f64 {
    values.iter().fold(0.0, |most, &value| {
        let value = f64::from(value).abs();
        if value.is_nan() || value > most { value } else { most }
    })
}

/// Cosine of two rows; 0 where one is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    let norms = norm(a) * norm(b);
    if norms == 0.0 { 0.0 } else { dot / norms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_atom_scores() {
        // methods.md 1.9: two tokens, two atoms, gradients of the output g and columns of down_proj w.
        let h = [1.0, 2.0, 3.0, 1.0];
        let g = [[1.0, 1.0], [2.0, 0.0]];
        let w = [[1.0, 0.0], [0.0, 2.0]];
        let back: Vec<f32> =
            g.iter().flat_map(|g| w.iter().map(|w| (0..2).map(|i| w[i] * g[i]).sum::<f32>())).collect();
        let decoupled: Vec<f64> =
            squares(&h, 2).iter().zip(squares(&back, 2)).map(|(h2, g2)| h2 / 2.0 * (g2 / 2.0)).collect();
        let coupled: Vec<f64> = squared_products(&h, &back, 2).iter().map(|c| c / 2.0).collect();
        assert_eq!(decoupled, [12.5, 5.0]);
        assert_eq!(coupled, [18.5, 8.0]);
        assert_eq!(norm(&[3.0, 4.0]), 5.0);
        assert_eq!(cosine(&[3.0, 4.0], &[-4.0, 3.0]), 0.0);
        assert_eq!(cosine(&[3.0, 4.0], &[-6.0, -8.0]), -1.0);
        assert_eq!(cosine(&[3.0, 4.0], &[0.0, 0.0]), 0.0);
        assert_eq!(largest(&[3.0, -4.0, 1.0]), 4.0);
        assert!(largest(&[f32::NAN, 1.0]).is_nan() && largest(&[1.0, f32::NAN, 2.0]).is_nan());
    }
}
