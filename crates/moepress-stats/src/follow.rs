//! Carrying statistics over an edit that leaves routing as it was.

use crate::statistics::{Key, Of, Quantity, Statistics};
use moepress_model::{Edit, Part, Projection, Tensor};
use std::collections::BTreeMap;

impl Statistics {
    /// What remains valid after an edit: the sums of kept atoms move with them, everything is dropped
    /// once routing has changed.
    pub fn follow(&mut self, edit: &Edit) {
        if edit.changes_routing() {
            self.sums.clear();
        } else if let Edit::KeepAtoms { layer, expert, atoms } = edit {
            let runs = [atoms.clone()];
            let runs = if atoms.is_empty() { &[][..] } else { &runs[..] };
            self.regroup(*layer, *expert, runs, true);
        } else if let Edit::CutSegments { layer, expert, widths } = edit {
            let starts = widths.iter().scan(0, |end, &width| {
                *end += width;
                Some((*end - width..*end).collect())
            });
            self.regroup(*layer, *expert, &starts.collect::<Vec<_>>(), false);
        }
    }

    /// Rebuilds the sums of an expert of one segment as those of one segment per run of atoms.
    fn regroup(&mut self, layer: usize, expert: usize, runs: &[Vec<usize>], atoms_change: bool) {
        let pick =
            |values: &[f64], atoms: &[usize]| atoms.iter().map(|&atom| values[atom]).collect::<Vec<_>>();
        let old = std::mem::take(&mut self.sums);
        let mut sums = BTreeMap::new();
        for (key, values) in old {
            match key.of {
                // Its output is another once atoms are gone.
                Of::Expert(l, e)
                    if (l, e) == (layer, expert)
                        && atoms_change
                        && matches!(key.quantity, Quantity::OutputSum | Quantity::AnyOutputSum) => {}
                Of::Rounded(l, e, _) if (l, e) == (layer, expert) => {}
                Of::Expert(l, e) if (l, e) == (layer, expert) && atoms_change => {
                    sums.insert(key, pick(&values, runs.first().map_or(&[], Vec::as_slice)));
                }
                Of::Tensor(Tensor::Layer(l, Part::Expert { expert: e, projection, .. }))
                    if (l, e) == (layer, expert) =>
                {
                    let per_atom = match projection {
                        Projection::Gate | Projection::Up => Quantity::RowWeight,
                        Projection::Down => Quantity::ColumnWeight,
                    };
                    for (segment, atoms) in runs.iter().enumerate() {
                        let of =
                            Of::Tensor(Tensor::Layer(layer, Part::Expert { expert, segment, projection }));
                        let values =
                            if key.quantity == per_atom { pick(&values, atoms) } else { values.clone() };
                        sums.insert(Key { of, quantity: key.quantity }, values);
                    }
                }
                _ => {
                    sums.insert(key, values);
                }
            }
        }
        self.sums = sums;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_move_with_their_atoms() {
        let weight = |segment, projection| {
            Of::Tensor(Tensor::Layer(0, Part::Expert { expert: 1, segment, projection }))
        };
        let mut stats = Statistics::default();
        stats.add(Of::Expert(0, 1), Quantity::AtomEnergy, vec![1.0, 2.0, 3.0]).unwrap();
        stats.add(weight(0, Projection::Up), Quantity::RowWeight, vec![4.0, 5.0, 6.0]).unwrap();
        stats.add(weight(0, Projection::Up), Quantity::ColumnWeight, vec![7.0, 8.0]).unwrap();
        stats.add(weight(0, Projection::Down), Quantity::ColumnWeight, vec![1.0, 2.0, 3.0]).unwrap();
        stats.follow(&Edit::KeepAtoms { layer: 0, expert: 1, atoms: vec![2, 0] });
        assert_eq!(stats.get(Of::Expert(0, 1), Quantity::AtomEnergy), Ok(&[3.0, 1.0][..]));
        assert_eq!(stats.get(weight(0, Projection::Up), Quantity::RowWeight), Ok(&[6.0, 4.0][..]));
        stats.follow(&Edit::CutSegments { layer: 0, expert: 1, widths: vec![1, 1] });
        assert_eq!(stats.get(weight(1, Projection::Up), Quantity::RowWeight), Ok(&[4.0][..]));
        assert_eq!(stats.get(weight(1, Projection::Up), Quantity::ColumnWeight), Ok(&[7.0, 8.0][..]));
        assert_eq!(stats.get(weight(1, Projection::Down), Quantity::ColumnWeight), Ok(&[1.0][..]));
        stats.follow(&Edit::KeepExperts { layer: 0, experts: vec![0] });
        assert!(stats.is_empty());
    }
}
