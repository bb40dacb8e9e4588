//! Fitting a linear map to sums over tokens, with a strength of regularisation that is judged on other tokens.

use crate::linalg::{LinalgError, cholesky_solve};
use ndarray::{Array2, ArrayView2};

/// Strengths that are tried, relative to the mean diagonal of the gram.
pub const RIDGES: [f64; 5] = [1e-3, 1e-2, 1e-1, 1.0, 10.0];

/// Sums over tokens of inputs x, `[cols]`, and the outputs y, `[rows]`, that are wanted for them.
#[derive(Clone, Copy, Debug)]
pub struct Sums<'a> {
    /// Σ x xᵀ, `[cols, cols]`.
    pub gram: &'a [f64],
    /// Σ y xᵀ, `[rows, cols]`.
    pub cross: &'a [f64],
    /// Σ ‖y‖².
    pub power: f64,
}

/// A fitted map.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// `[rows, cols]`.
    pub map: Vec<f64>,
    /// The strength it was fitted with, relative to the mean diagonal.
    pub ridge: f64,
    /// Squared error on the held-out tokens, of a map fitted to the others with that strength.
    pub error: f64,
}

/// The map W that minimises Σ ‖y − W x‖² + λ ‖W − `prior`‖² over all tokens, λ = ridge · mean diagonal. The ridge is
/// the one of [`RIDGES`] with which a fit to all tokens but the held-out ones does best on those; `None` where none
/// does better there than `prior`, `[rows, cols]`, itself, or where there are no tokens on either side.
///
/// # Errors
/// Parts of other lengths, or numbers that are not finite.
pub fn fit(
    all: Sums<'_>,
    held_out: Sums<'_>,
    prior: &[f64],
    rows: usize,
    cols: usize,
) -> Result<Option<Fitted>, LinalgError> {
    let (all, held_out) = (View::new(all, rows, cols)?, View::new(held_out, rows, cols)?);
    let prior = view(prior, rows, cols)?;
    let gram = &all.gram - &held_out.gram;
    let cross = &all.cross - &held_out.cross;
    if prior.is_empty() || gram.diag().sum() <= 0.0 || held_out.gram.diag().sum() <= 0.0 {
        return Ok(None);
    }
    let mut best: Option<(f64, f64)> = None;
    let mut least = held_out.error(&prior.to_owned());
    for ridge in RIDGES {
        let Ok(map) = solve(&gram, &cross, &prior, ridge) else { continue };
        let error = held_out.error(&map);
        if error < least {
            (least, best) = (error, Some((ridge, error)));
        }
    }
    let Some((ridge, error)) = best else { return Ok(None) };
    let map = solve(&all.gram.to_owned(), &all.cross.to_owned(), &prior, ridge)?;
    Ok(Some(Fitted { map: map.into_iter().collect(), ridge, error }))
}

/// Σ ‖y − W x‖² for a map W, `[rows, cols]`.
///
/// # Errors
/// Parts of other lengths.
pub fn squared_error(sums: Sums<'_>, map: &[f64], rows: usize, cols: usize) -> Result<f64, LinalgError> {
    Ok(View::new(sums, rows, cols)?.error(&view(map, rows, cols)?.to_owned()))
}

struct View<'a> {
    gram: ArrayView2<'a, f64>,
    cross: ArrayView2<'a, f64>,
    power: f64,
}

impl<'a> View<'a> {
    fn new(sums: Sums<'a>, rows: usize, cols: usize) -> Result<Self, LinalgError> {
        let Sums { gram, cross, power } = sums;
        Ok(Self { gram: view(gram, cols, cols)?, cross: view(cross, rows, cols)?, power })
    }

    fn error(&self, map: &Array2<f64>) -> f64 {
        let products = map.dot(&self.gram);
        let terms = products.iter().zip(&self.cross).zip(map);
        let sum: f64 = terms.map(|((product, cross), w)| w * (product - 2.0 * cross)).sum();
        // Below zero only by rounding.
        (self.power + sum).max(0.0)
    }
}

fn view(values: &[f64], rows: usize, cols: usize) -> Result<ArrayView2<'_, f64>, LinalgError> {
    let wrong = LinalgError::Shape { rows, columns: cols, right: values.len() };
    // The view alone would take a part of what is longer.
    match rows.checked_mul(cols) == Some(values.len()) {
        true => ArrayView2::from_shape((rows, cols), values).map_err(|_| wrong),
        false => Err(wrong),
    }
}

/// W (G + λ) = B + λ P.
fn solve(
    gram: &Array2<f64>,
    cross: &Array2<f64>,
    prior: &ArrayView2<'_, f64>,
    ridge: f64,
) -> Result<Array2<f64>, LinalgError> {
    let strength = ridge * gram.diag().sum() / gram.nrows() as f64;
    let right = cross + &(prior * strength);
    Ok(cholesky_solve(gram, &right.t().to_owned(), ridge)?.solution.t().as_standard_layout().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs, and outputs of a map with some noise.
    fn data(tokens: usize, noise: f64) -> (Vec<[f64; 3]>, Vec<[f64; 2]>, [f64; 6]) {
        let map = [1.0, -2.0, 0.5, 0.0, 3.0, -1.0];
        let number = |at: usize| ((at * 7919 + 13) % 1009) as f64 / 504.5 - 1.0;
        let x: Vec<[f64; 3]> = (0..tokens).map(|t| [0, 1, 2].map(|i| number(5 * t + i * i + 1))).collect();
        let y = x.iter().enumerate().map(|(t, x)| {
            [0, 1].map(|row| {
                let exact: f64 = (0..3).map(|col| map[row * 3 + col] * x[col]).sum();
                exact + noise * number(11 * t + 3 * row + 501)
            })
        });
        (x.clone(), y.collect(), map)
    }

    struct Owned(Vec<f64>, Vec<f64>, f64);

    impl Owned {
        fn of(x: &[[f64; 3]], y: &[[f64; 2]]) -> Self {
            let (mut gram, mut cross, mut power) = (vec![0.0; 9], vec![0.0; 6], 0.0);
            for (x, y) in x.iter().zip(y) {
                (0..9).for_each(|at| gram[at] += x[at / 3] * x[at % 3]);
                (0..6).for_each(|at| cross[at] += y[at / 3] * x[at % 3]);
                power += y[0] * y[0] + y[1] * y[1];
            }
            Self(gram, cross, power)
        }

        fn sums(&self) -> Sums<'_> {
            Sums { gram: &self.0, cross: &self.1, power: self.2 }
        }
    }

    #[test]
    fn an_exact_map_is_found_and_judged() {
        let (x, y, map) = data(200, 0.0);
        let (all, held) = (Owned::of(&x, &y), Owned::of(&x[150..], &y[150..]));
        let found = fit(all.sums(), held.sums(), &[0.0; 6], 2, 3).unwrap().unwrap();
        assert_eq!(found.ridge, 1e-3);
        assert!(found.map.iter().zip(map).all(|(a, b)| (a - b).abs() < 0.02), "{found:?}");
        assert!(squared_error(held.sums(), &map, 2, 3).unwrap() < 1e-9);
        let by_hand: f64 = x[150..].iter().zip(&y[150..]).map(|(_, y)| y[0] * y[0] + y[1] * y[1]).sum();
        assert!((squared_error(held.sums(), &[0.0; 6], 2, 3).unwrap() - by_hand).abs() < 1e-9);
    }

    #[test]
    fn what_does_not_generalise_is_not_taken() {
        // Three tokens for three inputs: any noise is fitted.
        let (x, y, map) = data(40, 0.0);
        let mut noisy = y.clone();
        noisy[..3].iter_mut().flatten().for_each(|y| *y += 5.0);
        let (mut few_x, mut few_y) = (x[..3].to_vec(), noisy[..3].to_vec());
        few_x.extend(&x[20..]);
        few_y.extend(&y[20..]);
        let (all, held) = (Owned::of(&few_x, &few_y), Owned::of(&x[20..], &y[20..]));
        assert_eq!(fit(all.sums(), held.sums(), &map, 2, 3).unwrap(), None);
        let found = fit(all.sums(), held.sums(), &[0.0; 6], 2, 3).unwrap();
        assert!(found.is_none_or(|found| found.error < held.2));
        let nothing = Owned::of(&[], &[]);
        assert_eq!(fit(all.sums(), nothing.sums(), &map, 2, 3).unwrap(), None);
        assert_eq!(fit(held.sums(), held.sums(), &map, 2, 3).unwrap(), None);
        assert!(fit(all.sums(), held.sums(), &map, 3, 2).is_err());
    }
}
