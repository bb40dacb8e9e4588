//! Matrices as a product of two thin ones and the rows that it is farthest from (LoSparse, arXiv 2306.11222, section 3, as
//! MC-SMoE uses it, arXiv 2310.01334, section 3.3; without its training).

use super::ApplyError;
use moepress_model::Tensor;
use moepress_numerics::low_rank::factors;
use moepress_quant::{Factored, LowRank, Stored};

/// W ≈ L R + S: L R is the nearest of that rank, and S has what is missing in the rows where most is, ties to the lower row. What
/// rounding L and R to bf16 changes is made up for in S.
pub(super) fn factored(tensor: Tensor, stored: &Stored, format: LowRank) -> Result<Stored, ApplyError> {
    let ((rows, cols), w) = (stored.matrix_shape(), stored.to_f32());
    let named = || tensor.to_string();
    let found = factors(&w, rows, cols, format.rank)
        .map_err(|source| ApplyError::LowRank { tensor: named(), source })?;
    let store = |rest: &[f32], places| {
        Factored::new((rows, cols), &found.left, &found.right, rest, places)
            .map_err(|source| ApplyError::Stored { tensor: named(), source })
    };
    let product = Stored::Factored(store(&[], vec![])?).to_f32();
    let missing: Vec<f32> = w.iter().zip(&product).map(|(w, product)| w - product).collect();
    let power = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let mut places: Vec<(f64, u32)> = missing.chunks_exact(cols.max(1)).map(power).zip(0..).collect();
    places.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    places.truncate(format.kept);
    let mut places: Vec<u32> = places.into_iter().map(|(_, row)| row).collect();
    places.sort_unstable();
    let rest: Vec<f32> = places
        .iter()
        .flat_map(|&row| &missing[row as usize * cols..(row as usize + 1) * cols])
        .copied()
        .collect();
    Ok(Stored::Factored(store(&rest, places)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_quant::{Dtype, Plain};

    fn matrix(shape: [usize; 2], values: &[f32]) -> Stored {
        Stored::Plain(Plain::from_f32(Dtype::F32, shape.to_vec(), values))
    }

    #[test]
    fn what_has_low_rank_is_kept_and_rows_that_stand_out_too() {
        // Rank 1 in every row but two.
        let mut w: Vec<f32> = (0..40).map(|at| ((at / 8 + 1) * (at % 8 + 1)) as f32 / 4.0).collect();
        (w[8 + 3], w[32]) = (w[8 + 3] + 4.0, w[32] - 4.0);
        let of = |rank, kept| factored(Tensor::Head, &matrix([5, 8], &w), LowRank { rank, kept }).unwrap();
        let error =
            |stored: &Stored| -> f32 { stored.to_f32().iter().zip(&w).map(|(a, b)| (a - b).powi(2)).sum() };
        let Stored::Factored(both) = of(1, 2) else { panic!("no factors") };
        assert_eq!((both.places.clone(), both.format()), (vec![1, 4], LowRank { rank: 1, kept: 2 }));
        // Rows of S hold what bf16 can of the rest, all of it to eight bits.
        let alone = error(&of(1, 0));
        assert!(error(&Stored::Factored(both)) < 0.5 * alone, "{alone}");
        // Eight bits of all there is.
        let rounding: f32 = w.iter().map(|w| w * w).sum::<f32>() * 2f32.powi(-16);
        assert!(error(&of(2, 0)) < alone && error(&of(3, 0)) < rounding, "{} {rounding}", error(&of(3, 0)));
        assert!(error(&of(1, 5)) < rounding, "all rows");
        assert!(factored(Tensor::Head, &matrix([1, 1], &[f32::NAN]), LowRank { rank: 1, kept: 0 }).is_err());
    }

    #[test]
    fn equal_rows_go_by_their_numbers() {
        let stored = matrix([4, 2], &[1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, -1.0]);
        let Stored::Factored(found) = factored(Tensor::Head, &stored, LowRank { rank: 2, kept: 2 }).unwrap()
        else {
            panic!("no factors")
        };
        assert_eq!(found.places.len(), 2);
        assert!(found.places[0] < found.places[1]);
    }
}
