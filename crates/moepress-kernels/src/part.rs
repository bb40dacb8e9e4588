//! Columns of a result, so that threads can write those of different rows of weights side by side.

use std::marker::PhantomData;

/// Some neighbouring columns of a matrix `[inputs, stride]`: one for each of some rows of weights.
pub(crate) struct Part<'a> {
    first: *mut f32,
    inputs: usize,
    rows: usize,
    stride: usize,
    of: PhantomData<&'a mut f32>,
}

// SAFETY: as `&mut [f32]`: no other part reaches the same numbers.
unsafe impl Send for Part<'_> {}

impl<'a> Part<'a> {
    /// All of `y`, `[inputs, stride]`, cut into runs of up to `step` columns.
    pub(crate) fn split(y: &'a mut [f32], stride: usize, step: usize) -> impl Iterator<Item = Part<'a>> {
        let (inputs, first) = (y.len().checked_div(stride).unwrap_or(0), y.as_mut_ptr());
        (0..stride).step_by(step).map(move |at| Part {
            // Within `y`, or unused where there are no inputs.
            first: first.wrapping_add(at),
            inputs,
            rows: step.min(stride - at),
            stride,
            of: PhantomData,
        })
    }

    /// Inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Rows of weights.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// From one input to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The first number; that of input i and row r is i · `stride` + r further on.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.first
    }

    /// The products of one input.
    pub(crate) fn of_input(&mut self, input: usize) -> &mut [f32] {
        assert!(input < self.inputs, "no input {input} of {}", self.inputs);
        // SAFETY: columns of one of the rows of the slice that was split; other parts have other columns, and this one
        // is borrowed as long as what it gives away.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(input * self.stride), self.rows) }
    }

    /// The same columns of fewer rows: those from `first` on.
    pub(crate) fn some(&mut self, first: usize, rows: usize) -> Part<'_> {
        assert!(rows <= self.rows && first <= self.rows - rows, "no rows {first} + {rows} of {}", self.rows);
        Part { first: self.first.wrapping_add(first), rows, of: PhantomData, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_columns() {
        let mut y = [0.0; 15];
        for (number, mut part) in Part::split(&mut y, 5, 2).enumerate() {
            for input in 0..part.inputs() {
                part.of_input(input).fill(number as f32 + 1.0);
            }
            part.some(0, 1).of_input(2)[0] *= -1.0;
        }
        assert_eq!(y[..5], [1.0, 1.0, 2.0, 2.0, 3.0]);
        assert_eq!(y[10..], [-1.0, 1.0, -2.0, 2.0, -3.0]);
        assert_eq!(Part::split(&mut [], 3, 2).map(|part| part.rows() + part.inputs()).sum::<usize>(), 3);
        assert_eq!(Part::split(&mut [], 0, 2).count(), 0);
    }
}
