//! Second-order statistics, seen in a recomputed layer and its gradient.

use crate::CalibrateError;
use crate::sums::{squared_products, squares};
use moepress_model::{Map, Part, Projection, Tensor as Name};
use moepress_nn::{Side, Site, Tensor, Watch, to_rows};
use moepress_stats::{Need, Needs, Of, Quantity, Statistics};

/// Keeps what flowed past and attaches a leaf of zeros wherever the gradient is wanted: z + 0 has the
/// gradient of z, and no weight has to be a leaf.
pub struct GradientProbe<'a> {
    layer: usize,
    needs: &'a Needs,
    inputs: Vec<(Part, Vec<f32>, usize)>,
    leaves: Vec<(Site, Tensor<2>)>,
}

impl<'a> GradientProbe<'a> {
    pub fn new(layer: usize, needs: &'a Needs) -> Self {
        Self { layer, needs, inputs: vec![], leaves: vec![] }
    }

    /// Adds what was seen, once the gradients of the leaves are known. `gradient` takes that of a leaf.
    pub fn finish(
        self,
        stats: &mut Statistics,
        mut gradient: impl FnMut(&Tensor<2>) -> Option<Tensor<2>>,
    ) -> Result<(), CalibrateError> {
        for (site, leaf) in &self.leaves {
            let [_, cols] = leaf.dims();
            let missing = || CalibrateError::NoGradient(Name::Layer(self.layer, site.part).to_string());
            let gradient = to_rows(gradient(leaf).ok_or_else(missing)?);
            match (site.side, site.part) {
                (Side::Output, part) => {
                    let of = Of::Tensor(Name::Layer(self.layer, part));
                    stats.add(of, Quantity::RowWeight, squares(&gradient, cols))?;
                    if let Some((values, cols)) = self.input(fed_by(part)) {
                        stats.add(of, Quantity::ColumnWeight, squares(values, cols))?;
                    }
                }
                (Side::Input, Part::Expert { expert, .. }) => {
                    let (h, _) = self.input(site.part).ok_or_else(missing)?;
                    let of = Of::Expert(self.layer, expert);
                    stats.add(of, Quantity::AtomEnergy, squares(h, cols))?;
                    stats.add(of, Quantity::AtomGradient, squares(&gradient, cols))?;
                    stats.add(of, Quantity::AtomCoupled, squared_products(h, &gradient, cols))?;
                }
                (Side::Input, _) => {}
            }
        }
        Ok(())
    }

    /// The values and columns seen as the input of a map.
    fn input(&self, part: Part) -> Option<(&[f32], usize)> {
        let found = self.inputs.iter().find(|(seen, ..)| *seen == part);
        found.map(|(_, values, cols)| (values.as_slice(), *cols))
    }

    fn with_leaf(&mut self, site: Site, x: Tensor<2>) -> Tensor<2> {
        let leaf = Tensor::<2>::zeros(x.dims(), &x.device().autodiff()).require_grad();
        self.leaves.push((site, leaf.clone()));
        x + leaf
    }
}

impl Watch for GradientProbe<'_> {
    fn tensor(&mut self, site: Site, x: Tensor<2>) -> Tensor<2> {
        let atoms = matches!(site.part, Part::Expert { projection: Projection::Down, segment: 0, .. });
        if site.side == Side::Input {
            let [_, cols] = x.dims();
            let leaf = atoms && self.needs.has(Need::Atoms);
            if leaf || self.needs.has(Need::Fisher) {
                self.inputs.push((site.part, to_rows(x.clone().inner()), cols));
            }
            if leaf {
                return self.with_leaf(site, x);
            }
        } else if self.needs.has(Need::Fisher) {
            return self.with_leaf(site, x);
        }
        x
    }
}

/// Where the input of a map was seen: maps that share one see it once.
pub fn fed_by(part: Part) -> Part {
    match part {
        Part::Attention(Map::Key | Map::Value | Map::QueryDown | Map::LatentDown) => {
            Part::Attention(Map::Query)
        }
        Part::Dense(Projection::Up) => Part::Dense(Projection::Gate),
        Part::Shared(Projection::Up) => Part::Shared(Projection::Gate),
        Part::Expert { expert, projection: Projection::Gate | Projection::Up, .. } => {
            Part::Expert { expert, segment: 0, projection: Projection::Gate }
        }
        _ => part,
    }
}
