//! What experts are to return that are fitted anew after others were merged or dropped, by brute force.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Reference, model};
use moepress_calibrate::{
    CalibrateError, Layout, Matrices, Means, Reached, Undecided, Walk, windows_per_chunk,
};
use moepress_checkpoint::{Checkpoint, CheckpointError, RawTensor, Share, Silent, Source};
use moepress_model::{Edit, LayerWeights, Mlp, ModelSpec, Part, Tensor};
use moepress_nn::{BlockError, Builder, Device, Embedding, Ignore, Mlp as Block, Rotary, dense, to_rows};
use moepress_quant::{Dtype, Plain, Stored};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const NAME: &str = "qwen3_moe";

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// Windows enough for several chunks.
fn windows() -> Vec<Vec<u32>> {
    let ids = Reference::of(NAME).ids();
    let count = 2 * windows_per_chunk(ids[0].len()) + 1;
    let shift = |at: usize| {
        let mut window = ids[at % ids.len()].clone();
        let by = at % window.len();
        window.rotate_left(by);
        window
    };
    (0..count).map(shift).collect()
}

fn measured(spec: &ModelSpec) -> BTreeSet<Tensor> {
    spec.tensors().into_iter().filter(|tensor| tensor.layer().is_some() && tensor.is_measured()).collect()
}

fn held(experts: usize) -> Layout {
    Layout { spooled: false, experts, peak: 0, spool: 0 }
}

/// A model with experts of another in their place, and some of the rows of its routers.
struct Other {
    model: Checkpoint,
    spec: ModelSpec,
    /// For every expert the one of the model that it is.
    sources: Vec<usize>,
    /// Rows of the routers.
    rows: Vec<usize>,
}

fn each_mixture(spec: &mut ModelSpec, change: impl Fn(&mut moepress_model::Moe)) {
    for layer in &mut spec.layers {
        if let Mlp::Moe(moe) = &mut layer.mlp {
            change(moe);
        }
    }
}

/// The first two experts of every layer are the same, apart or merged.
fn twins(merged: bool) -> Other {
    let model = model(NAME);
    let (mut spec, count) = (model.spec().clone(), model.spec().moe(0).unwrap().experts.len());
    let mut sources: Vec<usize> = (0..count).map(|expert| if expert == 1 { 0 } else { expert }).collect();
    if merged {
        sources.remove(1);
        each_mixture(&mut spec, |moe| {
            moe.experts.remove(1);
            moe.router.iter_mut().for_each(|expert| *expert = expert.saturating_sub(1));
        });
    }
    Other { model, spec, sources, rows: (0..count).collect() }
}

/// Only these experts of every layer; a token meets one.
fn fewer(kept: &[usize]) -> Other {
    let model = model(NAME);
    let mut spec = model.spec().clone();
    each_mixture(&mut spec, |moe| moe.routing.top_k = 1);
    let keep = |layer| Edit::KeepExperts { layer, experts: kept.to_vec() };
    let spec = spec.after(&(0..spec.layers.len()).map(keep).collect::<Vec<_>>()).unwrap();
    Other { model, spec, sources: kept.to_vec(), rows: kept.to_vec() }
}

impl Source for Other {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
        self.model.tensor(tensor)
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights, CheckpointError> {
        let mut weights = self.share(layer, &Share::Core)?;
        weights.extend(self.share(layer, &Share::Experts((0..self.sources.len()).collect()))?);
        Ok(weights)
    }

    fn share(&self, layer: usize, share: &Share) -> Result<LayerWeights, CheckpointError> {
        let mut weights = LayerWeights::new();
        match share {
            Share::Core => {
                weights = self.model.share(layer, share)?;
                let (values, hidden) = (weights[&Part::Router].to_f32(), self.spec.hidden);
                let row = |row: &usize| &values[row * hidden..(row + 1) * hidden];
                let rows: Vec<f32> = self.rows.iter().flat_map(row).copied().collect();
                let rows = Plain::from_f32(Dtype::F32, vec![self.rows.len(), hidden], &rows);
                weights.insert(Part::Router, Stored::Plain(rows));
            }
            Share::Experts(experts) => {
                for &expert in experts {
                    let own = self.model.share(layer, &Share::Experts(vec![self.sources[expert]]))?;
                    weights.extend(own.into_iter().map(|(part, stored)| (part.of_expert(expert), stored)));
                }
            }
        }
        Ok(weights)
    }

    fn carried(&self, name: &str) -> Result<RawTensor, CheckpointError> {
        self.model.carried(name)
    }
}

#[test]
fn of_merged_experts_the_sum_is_wanted() {
    let (apart, merged) = (twins(false), twins(true));
    let windows = windows();
    let rounded = measured(&merged.spec);
    let refit = BTreeSet::from([(0, 0), (0, 1)]);
    let undecided = Undecided { rounded: &rounded, refit: &refit, original: &apart, rows: &BTreeMap::new() };
    let means = Means::unlimited(&Device::flex());
    let mut walk = Walk::new_as(&merged, &windows, undecided, &means, &held(3), &Silent).unwrap();
    let see = |reached: &Reached, matrices: Matrices| {
        let first = (matrices[0].0, matrices[0].1.to_f32());
        Ok::<_, CalibrateError>((matrices, (first, reached.all.clone())))
    };
    let (_, said) = walk.layer(&see).unwrap();
    // What tokens get from both, each by its own gate, is what they get from the one by the sum.
    let mut tokens = vec![];
    for ((part, w), sums) in said {
        let Some(wanted) = sums.wanted else { continue };
        let (cols, mut power) = (sums.gram.cols, 0.0);
        for (row, w) in w.chunks_exact(cols).enumerate() {
            for col in 0..cols {
                let product: f64 = (0..cols).map(|k| f64::from(w[k]) * sums.gram.sums[k * cols + col]).sum();
                let (found, scale) = (
                    wanted.cross[row * cols + col],
                    (wanted.power * sums.gram.sums[col * cols + col]).sqrt(),
                );
                assert!((found - product).abs() <= 1e-4 * scale, "{part} {row} {col}: {found} {product}");
                power += product * f64::from(w[col]);
            }
        }
        assert!((power - wanted.power).abs() <= 1e-4 * power, "{power} {}", wanted.power);
        tokens.push(sums.gram.tokens);
    }
    assert!(tokens.len() == 2 && tokens[0] > tokens[1], "{tokens:?}");
}

#[test]
fn experts_that_are_left_are_to_return_what_all_did() {
    // One expert is left to every token, so what it should return is what the mixture returned, whole.
    let kept = [1, 2];
    let (fewer, original, windows) = (fewer(&kept), model(NAME), windows());
    let rounded = measured(&fewer.spec);
    let refit = BTreeSet::from([(0, 0), (0, 1)]);
    let rows = (0..fewer.spec.layers.len()).map(|layer| (layer, kept.to_vec())).collect();
    let undecided = Undecided { rounded: &rounded, refit: &refit, original: &original, rows: &rows };
    let run = |layout: &Layout| {
        let means = Means::unlimited(&Device::flex());
        let mut walk = Walk::new_as(&fewer, &windows, undecided, &means, layout, &Silent).unwrap();
        let see = |reached: &Reached, matrices: Matrices| {
            let wanted = reached.all.wanted.clone();
            Ok::<_, CalibrateError>((matrices, wanted))
        };
        walk.layer(&see).unwrap().1.into_iter().flatten().collect::<Vec<_>>()
    };
    let wanted = run(&held(4));
    assert_eq!((wanted.len(), &run(&held(1))), (2, &wanted), "however many are held at a time");
    // The outputs of the mixture of the original on the same hidden states.
    let mut outputs = 0.0;
    let device = Device::flex();
    let linear = |stored: Arc<Stored>| dense(&stored, &device);
    let block =
        Builder::new(original.spec(), 0, original.layer(0).unwrap(), &linear, &device).block().unwrap();
    let tensor = |tensor| original.tensor(tensor).map_err(Failure::from);
    let embedding = Embedding::new(original.spec(), tensor).unwrap();
    for window in &windows {
        let rotary = Rotary::new(&original.spec().attention, 0, window.len(), &device);
        let x = block.attend(embedding.embed(window, &device), 1, &rotary, None, &mut Ignore);
        let Block::Moe(experts) = &block.mlp else { panic!("no experts") };
        let y = experts.forward(block.mlp_input(x), &mut Ignore);
        outputs += to_rows(y).into_iter().map(|y| f64::from(y).powi(2)).sum::<f64>();
    }
    let power: f64 = wanted.iter().map(|wanted| wanted.power).sum();
    assert!((power - outputs).abs() <= 1e-4 * outputs, "{power} {outputs}");
}
