//! Products with matrices of low rank: y = L (R x) + S x, never L R.

use crate::activations::Activations;
use crate::{MatmulError, matmul};
use moepress_quant::{Factored, Stored};

type Product<'a> = (&'a Activations<'a>, &'a Stored);

/// [`matmul::matmuls`] where some matrices are of low rank: first R x of all of them, then everything else at once.
pub(crate) fn matmuls(products: &[Product<'_>]) -> Result<Vec<Vec<f32>>, MatmulError> {
    let thin: Vec<(&Activations<'_>, &Factored)> = products
        .iter()
        .filter_map(|(x, w)| match w {
            Stored::Factored(factored) => Some((*x, factored)),
            _ => None,
        })
        .collect();
    let inner: Vec<Product<'_>> = thin.iter().map(|(x, w)| (*x, w.right.as_ref())).collect();
    let inner = matmul::matmuls(&inner)?;
    let inner: Vec<Activations<'_>> =
        inner.iter().zip(&thin).map(|(t, (x, _))| Activations::new(t, x.n, x.precision)).collect();

    let mut inner = inner.iter();
    let mut parts: Vec<Product<'_>> = vec![];
    for (x, w) in products {
        match w {
            Stored::Factored(factored) => {
                parts.extend(inner.next().map(|t| (t, factored.left.as_ref())));
                parts.push((*x, factored.rest.as_ref()));
            }
            _ => parts.push((*x, *w)),
        }
    }
    let mut results = matmul::matmuls(&parts)?.into_iter();
    let mut all = Vec::with_capacity(products.len());
    for (_, w) in products {
        let mut y = results.next().unwrap_or_default();
        if let Stored::Factored(factored) = w {
            let rest = results.next().unwrap_or_default();
            add_rows(&mut y, &rest, factored);
        }
        all.push(y);
    }
    Ok(all)
}

/// Adds S x, `[n, kept]`, to y, `[n, rows]`.
fn add_rows(y: &mut [f32], rest: &[f32], of: &Factored) {
    let (rows, kept) = (of.matrix_shape().0, of.places.len());
    if kept == 0 {
        return;
    }
    for (y, rest) in y.chunks_exact_mut(rows).zip(rest.chunks_exact(kept)) {
        of.places.iter().zip(rest).for_each(|(&place, s)| y[place as usize] += s);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Activations, Precision, matmul, matmul_reference, matmuls};
    use moepress_quant::{Dtype, Factored, Plain, Stored};
    use proptest::prelude::*;

    fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed | 1;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn factored([rows, cols, rank, kept]: [usize; 4], seed: u64) -> Factored {
        let (left, right) = (values(rows * rank, seed), values(rank * cols, seed ^ 1));
        let places = (0..kept).map(|at| (at * rows / kept) as u32).collect();
        Factored::new((rows, cols), &left, &right, &values(kept * cols, seed ^ 2), places).unwrap()
    }

    fn magnitudes(stored: &Stored) -> Vec<f64> {
        stored.to_f32().iter().map(|v| f64::from(v.abs())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn within_the_bound(
            rows in 1usize..200, cols in 1usize..200, rank in 1usize..40, share in 0usize..4, n in 0usize..20,
            fast in any::<bool>(), seed in any::<u64>(),
        ) {
            let (rank, kept) = (rank.min(rows).min(cols), rows * share / 4);
            let w = factored([rows, cols, rank, kept], seed);
            let (left, right, rest) = (magnitudes(&w.left), magnitudes(&w.right), magnitudes(&w.rest));
            let places = w.places.clone();
            let (w, x) = (Stored::Factored(w), values(n * cols, seed ^ 3));
            let x = Activations::new(&x, n, if fast { Precision::Fast } else { Precision::Exact });
            let (y, wanted) = (matmul(&x, &w).unwrap(), matmul_reference(&x, &w).unwrap());
            let halves = if fast && n >= 16 { 2f64.powi(-7) } else { 0.0 };
            let relative = halves + (cols + 2 * rank + 4) as f64 * f64::from(f32::EPSILON);
            for i in 0..n {
                let sizes: Vec<f64> = x.values()[i * cols..(i + 1) * cols].iter().map(|x| f64::from(x.abs())).collect();
                let dot = |row: &[f64]| -> f64 { row.iter().zip(&sizes).map(|(w, x)| w * x).sum() };
                let inner: Vec<f64> = right.chunks_exact(cols).map(dot).collect();
                for row in 0..rows {
                    let size: f64 = (0..rank).map(|k| left[row * rank + k] * inner[k]).sum();
                    let place = places.binary_search(&(row as u32));
                    let size = size + place.map_or(0.0, |at| dot(&rest[at * cols..(at + 1) * cols]));
                    let (found, wanted) = (f64::from(y[i * rows + row]), wanted[i * rows + row]);
                    prop_assert!((found - wanted).abs() <= relative * size + 1e-30, "{found} {wanted} {size}");
                }
            }
        }
    }

    #[test]
    fn among_others_and_wrong_inputs() {
        let w = Stored::Factored(factored([9, 12, 2, 3], 5));
        let plain = Stored::Plain(Plain::from_f32(Dtype::F32, vec![4, 12], &values(48, 8)));
        let x = values(3 * 12, 9);
        let x = Activations::new(&x, 3, Precision::Exact);
        let together = matmuls(&[(&x, &plain), (&x, &w), (&x, &plain), (&x, &w)]).unwrap();
        assert_eq!(together[0], matmul(&x, &plain).unwrap());
        assert_eq!(together[1], matmul(&x, &w).unwrap());
        assert_eq!((&together[2], &together[3]), (&together[0], &together[1]));
        let short = values(11, 1);
        assert!(matmul(&Activations::new(&short, 1, Precision::Exact), &w).is_err());
    }
}
