//! Matrices as the product of two thin ones and some rows of what it lacks: W ≈ L · R + S (LoSparse, arXiv 2306.11222).

use crate::stored::{finite, length};
use crate::{Dtype, Format, Plain, Stored, StoredError};
use std::fmt;

/// W ≈ L · R + S: L `[rows, rank]` and R `[rank, cols]` in bf16, and S, of which only `kept` rows are stored, in bf16. Written
/// `low-rank-r32-s102`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LowRank {
    /// Columns of L.
    pub rank: usize,
    /// Rows of S.
    pub kept: usize,
}

impl LowRank {
    /// No rank and no number of rows is above this: sizes can be multiplied.
    pub const MOST: usize = 1 << 20;

    /// Bytes of a `rows` × `cols` matrix, the indices of the rows of S (four bytes each) included.
    pub const fn stored_bytes(self, rows: usize, cols: usize) -> u64 {
        let numbers = self.rank * (rows + cols) + self.kept * cols;
        (2 * numbers + 4 * self.kept) as u64
    }

    /// Whether a `rows` × `cols` matrix can be stored so.
    pub const fn fits(self, rows: usize, cols: usize) -> bool {
        1 <= self.rank && self.rank <= rows && self.rank <= cols && self.kept <= rows
    }

    /// The format of that name.
    pub(crate) fn named(text: &str) -> Option<Self> {
        let (rank, kept) = text.strip_prefix("low-rank-r")?.split_once("-s")?;
        let format = Self { rank: rank.parse().ok()?, kept: kept.parse().ok()? };
        // Numbers are written one way: no sign, no zeros before them.
        let exists = (1..=Self::MOST).contains(&format.rank) && format.kept <= Self::MOST;
        (exists && format.to_string() == text).then_some(format)
    }
}

impl fmt::Display for LowRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "low-rank-r{}-s{}", self.rank, self.kept)
    }
}

/// A matrix of low rank and some rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Factored {
    /// L, `[rows, rank]`, plain bf16.
    pub left: Box<Stored>,
    /// R, `[rank, cols]`, plain bf16.
    pub right: Box<Stored>,
    /// The rows of S that are not zero, `[kept, cols]`, plain bf16.
    pub rest: Box<Stored>,
    /// The rows of the matrix that they are added to, ascending.
    pub places: Vec<u32>,
}

impl Factored {
    /// L, R and the rows of S rounded to bf16.
    ///
    /// # Errors
    /// Lengths that do not fit together, or a number beyond bf16.
    pub fn new(
        (rows, cols): (usize, usize),
        left: &[f32],
        right: &[f32],
        rest: &[f32],
        places: Vec<u32>,
    ) -> Result<Self, StoredError> {
        let rank = left.len().checked_div(rows).unwrap_or(0);
        let half = |shape, values| Box::new(Stored::Plain(Plain::from_f32(Dtype::Bf16, shape, values)));
        let factored = Self {
            left: half(vec![rows, rank], left),
            right: half(vec![rank, cols], right),
            rest: half(vec![places.len(), cols], rest),
            places,
        };
        factored.validate()?;
        Ok(factored)
    }

    /// Its format.
    pub fn format(&self) -> LowRank {
        LowRank { rank: self.right.matrix_shape().0, kept: self.places.len() }
    }

    /// Rows and columns.
    pub fn matrix_shape(&self) -> (usize, usize) {
        (self.left.matrix_shape().0, self.right.matrix_shape().1)
    }

    /// Bytes it occupies, the indices of rows included.
    pub fn stored_bytes(&self) -> u64 {
        self.left.stored_bytes()
            + self.right.stored_bytes()
            + self.rest.stored_bytes()
            + 4 * self.places.len() as u64
    }

    /// The rows from `first` on as f32 into `out`, a whole number of rows: Σₖ Lᵢₖ Rₖ in f32 from the first k to the last, each
    /// product and each sum rounded, then the row of S.
    pub fn rows_to_f32(&self, first: usize, out: &mut [f32]) {
        let (rank, cols) = self.right.matrix_shape();
        if out.is_empty() {
            return;
        }
        let (right, count) = (self.right.to_f32(), out.len() / cols);
        let mut left = vec![0.0; count * rank];
        self.left.rows_to_f32(first, &mut left);
        let mut rest = vec![0.0; cols];
        for (at, (row, left)) in out.chunks_exact_mut(cols).zip(left.chunks_exact(rank)).enumerate() {
            row.fill(0.0);
            for (l, right) in left.iter().zip(right.chunks_exact(cols)) {
                row.iter_mut().zip(right).for_each(|(sum, r)| *sum += l * r);
            }
            if let Ok(place) = self.places.binary_search(&((first + at) as u32)) {
                self.rest.rows_to_f32(place, &mut rest);
                row.iter_mut().zip(&rest).for_each(|(sum, s)| *sum += s);
            }
        }
    }

    /// Checks that the parts fit together and hold numbers.
    ///
    /// # Errors
    /// The first part that does not fit.
    pub fn validate(&self) -> Result<(), StoredError> {
        let ((rows, rank), (inner, cols)) = (self.left.matrix_shape(), self.right.matrix_shape());
        let (kept, width) = self.rest.matrix_shape();
        for (part, stored) in [("left", &self.left), ("right", &self.right), ("rest", &self.rest)] {
            let Stored::Plain(plain) = stored.as_ref() else {
                return Err(StoredError::Format(stored.format()));
            };
            if plain.dtype != Dtype::Bf16 || plain.shape.len() != 2 {
                return Err(StoredError::Format(stored.format()));
            }
            length(part, &[plain.shape[0], plain.shape[1], 2], plain.bytes.len())?;
            finite(part, plain.to_f32().into_iter())?;
        }
        length("right", &[rank], inner)?;
        length("rest", &[cols], width)?;
        length("places", &[kept], self.places.len())?;
        let ascending = self.places.windows(2).all(|pair| pair[0] < pair[1]);
        if !ascending || self.places.last().is_some_and(|&last| last as usize >= rows) {
            return Err(StoredError::Places { rows });
        }
        match self.format().fits(rows, cols) {
            true => Ok(()),
            false => Err(StoredError::Format(Format::LowRank(self.format()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_hand() -> Factored {
        // Rank 1: rows (1, 2, 3) times (1, 0, −1, 2), and a row of its own for the last.
        let rest = [0.5, 0.5, 0.0, -6.0];
        Factored::new((3, 4), &[1.0, 2.0, 3.0], &[1.0, 0.0, -1.0, 2.0], &rest, vec![2]).unwrap()
    }

    #[test]
    fn by_hand_and_bytes() {
        let stored = Stored::Factored(by_hand());
        assert_eq!(stored.validate(), Ok(()));
        assert_eq!(stored.format().to_string(), "low-rank-r1-s1");
        assert_eq!((stored.matrix_shape(), stored.shape()), ((3, 4), vec![3, 4]));
        let rows = [[1.0, 0.0, -1.0, 2.0], [2.0, 0.0, -2.0, 4.0], [3.5, 0.5, -3.0, 0.0]];
        assert_eq!(stored.to_f32(), rows.concat());
        let mut row = vec![0.0; 4];
        stored.row_to_f32(2, &mut row);
        assert_eq!(row, rows[2]);
        assert_eq!(stored.stored_bytes(), 2 * (3 + 4 + 4) + 4);
        assert_eq!(stored.format().stored_bytes(3, 4), stored.stored_bytes());
    }

    #[test]
    fn names_round_trip_and_others_are_none() {
        for name in ["low-rank-r1-s0", "low-rank-r32-s102"] {
            assert_eq!(name.parse::<Format>().unwrap().to_string(), name);
        }
        for name in [
            "low-rank-r0-s1",
            "low-rank-r01-s1",
            "low-rank-r1",
            "low-rank-r+1-s1",
            "low-rank-r1-s-1",
            "low-rank-r2000000-s1",
        ] {
            assert!(name.parse::<Format>().is_err(), "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let wrong: [fn(&mut Factored); 6] = [
            |f| f.places = vec![3],
            |f| f.places = vec![],
            |f| *f.right = Stored::Plain(Plain::from_f32(Dtype::Bf16, vec![1, 3], &[1.0; 3])),
            |f| *f.left = Stored::Plain(Plain::from_f32(Dtype::F32, vec![3, 1], &[1.0; 3])),
            |f| *f.left = Stored::Plain(Plain::from_f32(Dtype::Bf16, vec![3, 1], &[f32::NAN; 3])),
            |f| *f.left = Stored::Plain(Plain::from_f32(Dtype::Bf16, vec![3, 2], &[1.0; 6])),
        ];
        for change in wrong {
            let mut factored = by_hand();
            change(&mut factored);
            assert!(factored.validate().is_err(), "{factored:?}");
        }
    }
}
