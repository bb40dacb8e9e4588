//! A checkpoint as compression leaves it: experts cut into segments of different formats, everything else in eight bits.

use super::store;
use moepress_checkpoint::{CheckpointError, Source};
use moepress_model::{Edit, LayerWeights, ModelSpec, Part, Projection, Tensor};
use moepress_quant::Stored;

/// Forms of the first and the second segment of every third expert.
const FORMS: [[&str; 2]; 3] =
    [["int4-g32", "ternary-row:trits"], ["int3-sym-g16", "ternary-asym-g32"], ["bf16", "int2-g16"]];

/// A checkpoint with its weights rounded when they are read.
pub struct Compact<'a> {
    source: &'a dyn Source,
    spec: ModelSpec,
}

impl<'a> Compact<'a> {
    pub fn new(source: &'a dyn Source) -> Self {
        let mut edits = Vec::new();
        for (layer, moe) in source.spec().moe_layers() {
            for (expert, shape) in moe.experts.iter().enumerate() {
                let first = shape.width() / 3 + 1;
                edits.push(Edit::CutSegments { layer, expert, widths: vec![first, shape.width() - first] });
            }
        }
        Self { source, spec: source.spec().after(&edits).unwrap() }
    }
}

fn rounded(form: &str, stored: &Stored) -> Stored {
    match stored.shape()[..] {
        [rows, cols] => store(form, rows, cols, &stored.to_f32()),
        _ => stored.clone(),
    }
}

/// The rows, or for `down_proj` the columns, of a run of atoms.
fn run(stored: &Stored, projection: Projection, first: usize, width: usize, form: &str) -> Stored {
    let ([rows, cols], values) = (<[usize; 2]>::try_from(stored.shape()).unwrap(), stored.to_f32());
    match projection {
        Projection::Down => {
            let kept: Vec<f32> =
                values.chunks(cols).flat_map(|row| row[first..first + width].to_vec()).collect();
            store(form, rows, width, &kept)
        }
        _ => store(form, width, cols, &values[first * cols..(first + width) * cols]),
    }
}

impl Source for Compact<'_> {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
        Ok(rounded("int8-g64", &self.source.tensor(tensor)?))
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights, CheckpointError> {
        let mut weights = LayerWeights::new();
        for (part, stored) in self.source.layer(layer)? {
            let widths = |expert: usize| -> Vec<usize> {
                let experts = &self.spec.moe(layer).unwrap().experts;
                experts[expert].segments.iter().map(|segment| segment.width).collect()
            };
            match part {
                Part::Expert { expert, projection, .. } => {
                    let mut first = 0;
                    for (segment, width) in widths(expert).into_iter().enumerate() {
                        let form = FORMS[expert % 3][segment];
                        let part = Part::Expert { expert, segment, projection };
                        weights.insert(part, run(&stored, projection, first, width, form));
                        first += width;
                    }
                }
                Part::ExpertBias { expert, projection, .. } => {
                    let mut first = 0;
                    for (segment, width) in widths(expert).into_iter().enumerate() {
                        let values = &stored.to_f32()[first..first + width];
                        let bias = store("f32", 1, width, values);
                        let Stored::Plain(mut plain) = bias else { continue };
                        plain.shape = vec![width];
                        weights
                            .insert(Part::ExpertBias { expert, segment, projection }, Stored::Plain(plain));
                        first += width;
                    }
                }
                // Routing follows the smallest differences: it stays as it is.
                Part::Router => drop(weights.insert(part, stored)),
                _ => drop(weights.insert(part, rounded("int8-g64", &stored))),
            }
        }
        Ok(weights)
    }
}
