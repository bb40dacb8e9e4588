//! An expert beside what was measured of it.

use crate::CalibrateError;
use crate::ladders::{STEPS, added, bad, scaled};
use moepress_checkpoint::{Share, Source};
use moepress_model::{Part, Projection, Tensor};
use moepress_quant::codec::Packing;
use moepress_quant::formats::{Rung, ladder};
use moepress_stats::{Of, Quantity, RunLadder, Statistics, salient_runs};
use rayon::prelude::*;

/// What errors of the maps of an expert weigh by: sums over the tokens that reached it.
#[derive(Clone)]
pub(crate) struct Weights {
    /// Tokens.
    pub seen: f64,
    /// Of every row of gate, up and down.
    pub row: [Vec<f64>; 3],
    /// Of every column.
    pub col: [Vec<f64>; 3],
}

impl Weights {
    /// From row weight · column weight · squared error to nats per token of `tokens`.
    pub fn scale(&self, tokens: f64) -> f64 {
        if self.seen > 0.0 { 0.5 / self.seen / tokens } else { 0.0 }
    }
}

/// An expert of one segment.
pub(crate) struct Measured {
    pub layer: usize,
    pub expert: usize,
    /// Gate, up and down, row-major.
    pub maps: [Vec<f32>; 3],
    /// Coupled score of every atom.
    pub coupled: Vec<f64>,
    /// One, or those of every expert that it is the mean of.
    pub weights: Vec<Weights>,
}

impl Measured {
    /// None where nothing was measured or nothing is left of the expert.
    ///
    /// # Errors
    /// The weights cannot be read, or only a part of the statistics is there.
    pub fn read(
        source: &dyn Source,
        stats: &Statistics,
        layer: usize,
        expert: usize,
    ) -> Result<Option<Self>, CalibrateError> {
        let mut stored = source.share(layer, &Share::Experts(vec![expert]))?;
        let coupled = stats.get(Of::Expert(layer, expert), Quantity::AtomCoupled);
        let (Ok(coupled), false) = (coupled, stored.is_empty()) else { return Ok(None) };
        let seen = stats.get(Of::Layer(layer), Quantity::Tokens)?[expert];
        let mut maps = [vec![], vec![], vec![]];
        let mut weights =
            Weights { seen, row: maps.each_ref().map(|_| vec![]), col: maps.each_ref().map(|_| vec![]) };
        for (at, projection) in Projection::ALL.into_iter().enumerate() {
            let part = Part::Expert { expert, segment: 0, projection };
            let of = Of::Tensor(Tensor::Layer(layer, part));
            let Some(stored) = stored.remove(&part) else { continue };
            let (rows, cols) = stored.matrix_shape();
            let (row, col) = (stats.get(of, Quantity::RowWeight), stats.get(of, Quantity::ColumnWeight));
            (weights.row[at], weights.col[at]) = match (row, col) {
                (Ok(row), Ok(col)) => (row.to_vec(), col.to_vec()),
                // Without a token there are no weights; every choice then costs nothing.
                _ if seen == 0.0 => (vec![1.0; rows], vec![1.0; cols]),
                (Err(missing), _) | (_, Err(missing)) => return Err(missing.into()),
            };
            maps[at] = stored.to_f32();
        }
        Ok(Some(Self { layer, expert, maps, coupled: coupled.to_vec(), weights: vec![weights] }))
    }

    pub fn width(&self) -> usize {
        self.coupled.len()
    }

    /// Its runs of `align` atoms, the most salient first; where no token reached it they cost nothing.
    ///
    /// # Errors
    /// Weights that are not finite.
    pub fn runs(&self, align: usize, tokens: f64) -> Result<Vec<RunLadder>, CalibrateError> {
        let run = |atoms: Vec<usize>| {
            let dropped = atoms.iter().map(|&atom| 0.5 * self.coupled[atom] / tokens).sum();
            let [gate, up, down] = Projection::ALL.map(|projection| self.rungs(projection, &atoms, tokens));
            Ok(RunLadder { dropped, rungs: [gate?, up?, down?], atoms })
        };
        salient_runs(&self.coupled, align).into_par_iter().map(run).collect()
    }

    fn rungs(
        &self,
        projection: Projection,
        atoms: &[usize],
        tokens: f64,
    ) -> Result<Vec<Rung>, CalibrateError> {
        let (at, width) = (projection as usize, self.width());
        let of_atoms = |values: &[f64]| atoms.iter().map(|&atom| values[atom]).collect::<Vec<f64>>();
        let part = Part::Expert { expert: self.expert, segment: 0, projection };
        let values: Vec<f32> = match projection {
            Projection::Gate | Projection::Up => {
                let cols = self.maps[at].len() / width.max(1);
                atoms.iter().flat_map(|&a| &self.maps[at][a * cols..(a + 1) * cols]).copied().collect()
            }
            Projection::Down => {
                let rows = self.maps[at].chunks(width.max(1));
                rows.flat_map(|row| atoms.iter().map(|&atom| row[atom])).collect()
            }
        };
        let mut all = None;
        for weights in &self.weights {
            let (row, col) = (&weights.row[at], &weights.col[at]);
            let (row, col) = match projection {
                Projection::Gate | Projection::Up => (of_atoms(row), col.clone()),
                Projection::Down => (row.clone(), of_atoms(col)),
            };
            let found = ladder(row.len(), col.len(), &values, &row, &col, STEPS, Packing::Best);
            let found = found.map_err(|e| bad(Tensor::Layer(self.layer, part), &e))?;
            all = Some(added(all, scaled(found, weights.scale(tokens))));
        }
        Ok(all.unwrap_or_default())
    }
}
