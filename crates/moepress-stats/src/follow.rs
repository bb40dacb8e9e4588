//! Carrying statistics over an edit that leaves routing as it was, and back.

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

    /// Takes over what was measured anew on the model after `edits`, which only keep atoms of experts of one segment.
    /// Sums of atoms that were left out stay as they were.
    pub fn refresh(&mut self, fresh: Self, edits: &[Edit]) {
        let kept: BTreeMap<(usize, usize), &Vec<usize>> = edits
            .iter()
            .filter_map(|edit| match edit {
                Edit::KeepAtoms { layer, expert, atoms } => Some(((*layer, *expert), atoms)),
                _ => None,
            })
            .collect();
        for (key, values) in fresh.sums {
            let atoms = of_atoms(&key).and_then(|expert| kept.get(&expert));
            match (atoms, self.sums.get_mut(&key)) {
                (Some(atoms), Some(sums)) => {
                    atoms.iter().zip(values).for_each(|(&atom, value)| sums[atom] = value);
                }
                _ => _ = self.sums.insert(key, values),
            }
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
                    let per_atom = per_atom(projection);
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

/// Layer and index of the expert, where sums are one per atom of it.
fn of_atoms(key: &Key) -> Option<(usize, usize)> {
    match (key.of, key.quantity) {
        (Of::Expert(_, _), Quantity::OutputSum | Quantity::AnyOutputSum) => None,
        (Of::Expert(layer, expert), _) => Some((layer, expert)),
        (Of::Tensor(Tensor::Layer(layer, Part::Expert { expert, projection, .. })), quantity) => {
            (quantity == per_atom(projection)).then_some((layer, expert))
        }
        _ => None,
    }
}

/// Which weights of a map are one per atom.
fn per_atom(projection: Projection) -> Quantity {
    match projection {
        Projection::Gate | Projection::Up => Quantity::RowWeight,
        Projection::Down => Quantity::ColumnWeight,
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

    #[test]
    fn what_is_measured_anew_takes_the_place_of_what_was() {
        let weight =
            |projection| Of::Tensor(Tensor::Layer(0, Part::Expert { expert: 1, segment: 0, projection }));
        let measured = |factor: f64, edits: &[Edit]| {
            let mut stats = Statistics::default();
            let mut add = |of, quantity, values: &[f64]| {
                stats.add(of, quantity, values.iter().map(|value| factor * value).collect()).unwrap();
            };
            add(Of::Layer(0), Quantity::Tokens, &[7.0, 8.0]);
            for expert in 0..2 {
                add(Of::Expert(0, expert), Quantity::AtomCoupled, &[1.0, 2.0, 3.0]);
            }
            add(weight(Projection::Up), Quantity::RowWeight, &[4.0, 5.0, 6.0]);
            add(weight(Projection::Up), Quantity::ColumnWeight, &[7.0, 8.0]);
            add(weight(Projection::Down), Quantity::ColumnWeight, &[1.0, 2.0, 3.0]);
            edits.iter().for_each(|edit| stats.follow(edit));
            stats
        };
        let keep = |expert, atoms| Edit::KeepAtoms { layer: 0, expert, atoms };
        let edits = [keep(1, vec![2, 0]), keep(0, vec![])];
        let mut stats = measured(1.0, &[]);
        stats.refresh(measured(10.0, &edits), &edits);
        let of = |of, quantity| stats.get(of, quantity).unwrap().to_vec();
        assert_eq!(of(Of::Layer(0), Quantity::Tokens), [70.0, 80.0]);
        assert_eq!(of(Of::Expert(0, 1), Quantity::AtomCoupled), [10.0, 2.0, 30.0]);
        assert_eq!(of(Of::Expert(0, 0), Quantity::AtomCoupled), [1.0, 2.0, 3.0]);
        assert_eq!(of(weight(Projection::Up), Quantity::RowWeight), [40.0, 5.0, 60.0]);
        assert_eq!(of(weight(Projection::Up), Quantity::ColumnWeight), [70.0, 80.0]);
        assert_eq!(of(weight(Projection::Down), Quantity::ColumnWeight), [10.0, 2.0, 30.0]);
        // What was left as it was comes back as it was measured.
        let mut whole = measured(1.0, &[]);
        whole.refresh(measured(10.0, &[]), &[]);
        assert_eq!(whole, measured(10.0, &[]));
    }
}
