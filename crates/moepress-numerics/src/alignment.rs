//! Which atom of one expert takes the place of which atom of another.
//!
//! The order of atoms within an expert means nothing. Before two experts are compared or averaged, atoms are matched so
//! that Σ ⟨a, b⟩ over gate, up and down is greatest (M-SMoE, arXiv 2310.01334, for gated experts), which is where their
//! squared distance is least.

use crate::assignment::assign_max;
use ndarray::Array2;

/// For every atom of `reference` the atom of `other` that takes its place. Both are gate, up and down, row-major:
/// gate and up `[width, hidden]`, down `[hidden, width]`. Ties go to the lower index.
///
/// # Panics
/// When the lengths do not fit together.
pub fn matching(reference: &[Vec<f32>; 3], other: &[Vec<f32>; 3], width: usize) -> Vec<usize> {
    let (reference, other) = (atoms(reference, width), atoms(other, width));
    let gain = reference.dot(&other.t());
    assign_max(&gain.into_iter().collect::<Vec<_>>(), width)
}

/// Every atom as a row: its row of gate, its row of up, its column of down.
fn atoms([gate, up, down]: &[Vec<f32>; 3], width: usize) -> Array2<f64> {
    let hidden = gate.len() / width.max(1);
    assert!(
        [gate, up, down].iter().all(|matrix| matrix.len() == width * hidden),
        "the matrices of an expert of {width} atoms have one length"
    );
    Array2::from_shape_fn((width, 3 * hidden), |(atom, at)| {
        f64::from(match at / hidden {
            0 => gate[atom * hidden + at],
            1 => up[atom * hidden + at - hidden],
            _ => down[(at - 2 * hidden) * width + atom],
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An expert of four atoms of three channels, and the same with its atoms in another order.
    fn shuffled(order: &[usize; 4]) -> [[Vec<f32>; 3]; 2] {
        let value = |at: usize| ((at * 37 % 23) as f32 - 11.0) / 8.0;
        let gate: Vec<f32> = (0..12).map(value).collect();
        let up: Vec<f32> = (12..24).map(value).collect();
        let down: Vec<f32> = (24..36).map(value).collect();
        let rows = |matrix: &[f32]| order.iter().flat_map(|&a| matrix[3 * a..3 * a + 3].to_vec()).collect();
        let columns = |matrix: &[f32]| matrix.chunks(4).flat_map(|row| order.map(|a| row[a])).collect();
        let other = [rows(&gate), rows(&up), columns(&down)];
        [[gate, up, down], other]
    }

    #[test]
    fn shuffled_atoms_are_found() {
        for order in [[0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0]] {
            let [expert, other] = shuffled(&order);
            let found = matching(&expert, &other, 4);
            assert!(
                found.iter().enumerate().all(|(atom, &there)| order[there] == atom),
                "{order:?} {found:?}"
            );
        }
        assert_eq!(matching(&[vec![], vec![], vec![]], &[vec![], vec![], vec![]], 0), Vec::<usize>::new());
    }

    #[test]
    fn atoms_that_are_alike_stay_in_order() {
        let alike = [vec![1.0; 8], vec![2.0; 8], vec![0.5; 8]];
        assert_eq!(matching(&alike, &alike, 4), [0, 1, 2, 3]);
    }
}
