//! What one expert has of a tensor that is fused over the experts of a layer.

use moepress_model::{Half, Slice};

/// Elements of a square tile that is transposed at a time: its lines stay in the first cache.
const TILE: usize = 64;

/// Which elements of an expert's matrix (or vector, a matrix of one column) are wanted.
pub(super) struct Cut {
    pub expert: usize,
    experts: usize,
    half: Option<Half>,
    /// Rows the expert has in the tensor.
    fused: usize,
    cols: usize,
    vector: bool,
    transposed: bool,
}

impl Cut {
    /// The cut of a tensor of `shape` (one or two dimensions) among `experts` experts.
    pub(super) fn new(slice: Slice, shape: &[usize], experts: usize) -> Self {
        let (rows, cols) = (shape.first().copied().unwrap_or(1), shape.get(1).copied().unwrap_or(1));
        let fused = if slice.half.is_some() { 2 * rows } else { rows };
        let vector = shape.len() < 2;
        Self {
            expert: slice.expert,
            experts,
            half: slice.half,
            fused,
            cols,
            vector,
            transposed: slice.transposed && !vector,
        }
    }

    /// Dimensions of the whole tensor.
    pub(super) fn disk_shape(&self) -> Vec<usize> {
        match (self.vector, self.transposed) {
            (true, _) => vec![self.experts, self.fused],
            (false, false) => vec![self.experts, self.fused, self.cols],
            (false, true) => vec![self.experts, self.cols, self.fused],
        }
    }

    /// Dimensions of the tensors of 4-bit blocks and of their scales; `None` when rows are not whole blocks.
    pub(super) fn block_shapes(&self, weights: usize) -> Option<[Vec<usize>; 2]> {
        let blocks = self.cols.is_multiple_of(weights).then_some(self.cols / weights)?;
        let scales = vec![self.experts, self.fused, blocks];
        Some([[&scales[..], &[weights / 2]].concat(), scales])
    }

    /// Rows and columns of the expert's matrix as it lies on disk.
    pub(super) const fn disk_matrix(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.fused) } else { (self.fused, self.cols) }
    }

    /// The cut of the expert's `bytes`, whose elements have `size` bytes, as rows × columns.
    pub(super) fn of(&self, bytes: Vec<u8>, size: usize) -> Vec<u8> {
        match self.transposed {
            true => self.transpose(&bytes, size),
            false => self.lines(bytes, self.cols * size),
        }
    }

    /// The wanted ones of lines of `width` bytes, one per row of the expert.
    pub(super) fn lines(&self, bytes: Vec<u8>, width: usize) -> Vec<u8> {
        match self.half {
            None => bytes,
            Some(half) => {
                let line = |row: usize| &bytes[row * width..(row + 1) * width];
                half.rows(self.fused).into_iter().flat_map(line).copied().collect()
            }
        }
    }

    fn transpose(&self, bytes: &[u8], size: usize) -> Vec<u8> {
        let rows = self.half.map_or_else(|| (0..self.fused).collect(), |half| half.rows(self.fused));
        let mut out = vec![0; rows.len() * self.cols * size];
        for start in (0..self.cols).step_by(TILE) {
            let end = self.cols.min(start + TILE);
            for (line, row) in out.chunks_exact_mut(self.cols * size).zip(&rows) {
                let line = line[start * size..end * size].chunks_exact_mut(size);
                for (col, element) in (start..end).zip(line) {
                    let at = (col * self.fused + row) * size;
                    element.copy_from_slice(&bytes[at..at + size]);
                }
            }
        }
        out
    }
}
