//! Where a source checkpoint holds a tensor.

/// One spelling of a tensor. The whole tensor of that name, or a slice of one that fuses all experts of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name on disk.
    pub name: String,
    /// Which part of it; none for all.
    pub slice: Option<Slice>,
}

/// One expert's share of a tensor `[experts, rows, columns]` (or `[experts, rows]`, of biases).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The expert.
    pub expert: usize,
    /// The rows that are its gate or its up projection, where both are fused.
    pub half: Option<Half>,
    /// Whether a matrix lies as `[columns, rows]`. Packed 4-bit blocks never do.
    pub transposed: bool,
}

/// Half of the rows of a fused gate and up projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The first half.
    First,
    /// The second half.
    Second,
    /// Every other row, from the first.
    Even,
    /// Every other row, from the second.
    Odd,
}

impl Place {
    /// A whole tensor.
    pub fn whole(name: impl Into<String>) -> Self {
        Self { name: name.into(), slice: None }
    }

    /// An expert's share.
    pub fn slice(name: impl Into<String>, expert: usize, half: Option<Half>, transposed: bool) -> Self {
        Self { name: name.into(), slice: Some(Slice { expert, half, transposed }) }
    }
}

impl Half {
    /// The rows it picks of `rows` fused ones.
    pub fn rows(self, rows: usize) -> Vec<usize> {
        match self {
            Self::First => (0..rows / 2).collect(),
            Self::Second => (rows / 2..rows).collect(),
            Self::Even => (0..rows).step_by(2).collect(),
            Self::Odd => (1..rows).step_by(2).collect(),
        }
    }
}
