//! The tables by which one launch covers many matrices: segments (where a matrix lies), items (which entries a cube
//! computes) and entries (which input goes where), all of u32.
//!
//! A dense map is one segment whose entries are its inputs. A mixture is one segment for every matrix of every expert,
//! and one entry for every (token, expert) pair, sorted by expert.

/// Numbers of a [`Segment`].
pub(crate) const SEGMENT: usize = 6;
/// Numbers of an item: segment, first entry, entries.
pub(crate) const ITEM: usize = 3;
/// Numbers of an entry: row of x, row of the output.
pub(crate) const ENTRY: usize = 2;

/// A matrix within a [`Bank`](crate::Bank).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Chunks before it.
    pub chunk: u32,
    /// Scales before it.
    pub scale: u32,
    /// Outputs.
    pub rows: u32,
    /// Inputs.
    pub cols: u32,
    /// Column of x that its inputs begin at.
    pub x_column: u32,
    /// Column of the output that its outputs begin at.
    pub out_column: u32,
}

impl Segment {
    pub(crate) fn numbers(&self) -> [u32; SEGMENT] {
        [self.chunk, self.scale, self.rows, self.cols, self.x_column, self.out_column]
    }
}

/// Inputs of one segment: (row of x, row of the output) each.
pub struct Work {
    /// The segment.
    pub segment: usize,
    /// Its entries.
    pub entries: Vec<(u32, u32)>,
}

/// Items of up to `most` entries, and the entries, flattened.
pub(crate) fn tables(work: &[Work], most: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut items, mut entries) = (Vec::new(), Vec::new());
    for work in work {
        for part in work.entries.chunks(most.max(1)) {
            let first = entries.len() / ENTRY;
            items.extend([work.segment as u32, first as u32, part.len() as u32]);
            entries.extend(part.iter().flat_map(|&(x, out)| [x, out]));
        }
    }
    (items, entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_work_is_cut() {
        let work = [
            Work { segment: 3, entries: vec![(0, 5), (1, 6), (2, 7)] },
            Work { segment: 4, entries: vec![] },
            Work { segment: 5, entries: vec![(9, 9)] },
        ];
        let (items, entries) = tables(&work, 2);
        assert_eq!(items, [3, 0, 2, 3, 2, 1, 5, 3, 1]);
        assert_eq!(entries, [0, 5, 1, 6, 2, 7, 9, 9]);
    }
}
