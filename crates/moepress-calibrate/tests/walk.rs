//! Grams and hidden states of a walk against a plain forward pass.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Reference, files, model};
use moepress_calibrate::{
    CalibrateError, Gram, Layout, Matrices, Means, Reached, Spool, Undecided, Walk, Writing,
    windows_per_chunk,
};
use moepress_checkpoint::{Checkpoint, CheckpointError, Progress, Silent, Source};
use moepress_model::{LayerWeights, Part, Projection, Tensor};
use moepress_nn::{
    BlockError, Builder, Device, Embedding, Rotary, Routed, Side, Site, Tensor as Values, Watch, dense,
    to_rows,
};
use moepress_quant::{Plain, Stored};
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 3] = ["qwen3_moe", "deepseek_v3", "gpt_oss"];

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// Windows enough for several chunks.
fn windows(name: &str) -> Vec<Vec<u32>> {
    let ids = Reference::of(name).ids();
    let count = 2 * windows_per_chunk(ids[0].len()) + 1;
    let shift = |at: usize| {
        let mut window = ids[at % ids.len()].clone();
        let by = at % window.len();
        window.rotate_left(by);
        window
    };
    (0..count).map(shift).collect()
}

fn measured(model: &Checkpoint) -> BTreeSet<Tensor> {
    let wanted = |tensor: &Tensor| tensor.layer().is_some() && tensor.is_measured();
    model.spec().tensors().into_iter().filter(wanted).collect()
}

/// What a walk came to: every gram with the parts it is for, all weights, and the hidden states after every layer.
type Story = (BTreeMap<Part, Gram>, LayerWeights, Vec<f32>);

/// Walks with `round` in place of the matrices, in the way of working given.
fn walk(
    model: &Checkpoint,
    windows: &[Vec<u32>],
    layout: &Layout,
    round: impl Fn(Matrices) -> Matrices + Sync,
) -> Vec<Story> {
    let dir = tempfile::tempdir().unwrap();
    let spool = Some(Spool { files: files(), dir: dir.path().join("spool") });
    let means = Means { device: Device::flex(), memory: None, spool };
    let (rounded, refit) = (measured(model), BTreeSet::new());
    let undecided = Undecided { rounded: &rounded, refit: &refit, original: model, rows: &BTreeMap::new() };
    let mut walk = Walk::new_as(model, windows, undecided, &means, layout, &Silent).unwrap();
    let mut stories = vec![];
    for _ in 0..model.spec().layers.len() {
        let see = |reached: &Reached, matrices: Matrices| {
            let parts: Vec<Part> = matrices.iter().map(|(part, _)| *part).collect();
            Ok::<_, CalibrateError>((round(matrices), (parts, reached.all.gram.clone())))
        };
        let (weights, said) = walk.layer(&see).unwrap();
        let grams = said
            .into_iter()
            .flat_map(|(parts, gram)| parts.into_iter().map(|part| (part, gram.clone())).collect::<Vec<_>>());
        stories.push((grams.collect(), weights, walk.hidden().unwrap()));
    }
    walk.close().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    stories
}

fn whole(experts: usize) -> Layout {
    Layout { spooled: false, experts, peak: 0, spool: 0 }
}

/// Inputs of every map as they were seen; those of routed experts times the gate.
#[derive(Default)]
struct Seen(BTreeMap<Part, Vec<f32>>, Vec<Vec<f32>>);

impl Watch for Seen {
    fn tensor(&mut self, site: Site, x: Values<2>) -> Values<2> {
        if site.side == Side::Input {
            let (mut rows, cols) = (to_rows(x.clone()), x.dims()[1]);
            if let Some(expert) = site.part.expert() {
                let gates = self.1[expert].iter();
                rows.chunks_mut(cols)
                    .zip(gates)
                    .for_each(|(row, gate)| row.iter_mut().for_each(|x| *x *= gate));
            }
            self.0.entry(site.part).or_default().extend(rows);
        }
        x
    }

    fn routed(&mut self, routed: &Routed) {
        let [_, experts] = routed.gates.dims();
        let gates = to_rows(routed.gates.clone());
        let of = |(expert, tokens): (usize, &Vec<u32>)| {
            tokens.iter().map(|&token| gates[token as usize * experts + expert]).collect()
        };
        self.1 = routed.tokens.iter().enumerate().map(of).collect();
    }
}

/// A plain forward pass: inputs and hidden states after every layer. `weights` replace those of the model.
fn forward(model: &Checkpoint, windows: &[Vec<u32>], weights: &[LayerWeights]) -> Vec<(Seen, Vec<f32>)> {
    let (spec, device) = (model.spec(), Device::flex());
    let linear = |stored: std::sync::Arc<Stored>| dense(&stored, &device);
    let embedding = Embedding::new(spec, |tensor| model.tensor(tensor).map_err(Failure::from)).unwrap();
    let window = windows[0].len();
    let rotary = Rotary::new(&spec.attention, 0, window, &device);
    let chunks: Vec<&[Vec<u32>]> = windows.chunks(windows_per_chunk(window)).collect();
    let mut x: Vec<_> = chunks.iter().map(|chunk| embedding.embed(&chunk.concat(), &device)).collect();
    let mut found = vec![];
    for (layer, weights) in weights.iter().enumerate() {
        let block = Builder::new(spec, layer, weights.clone(), &linear, &device).block().unwrap();
        let mut seen = Seen::default();
        for (x, chunk) in x.iter_mut().zip(&chunks) {
            *x = block.forward(x.clone(), chunk.len(), &rotary, None, &mut seen);
        }
        found.push((seen, x.iter().flat_map(|x| to_rows(x.clone())).collect()));
    }
    found
}

fn plain(model: &Checkpoint) -> Vec<LayerWeights> {
    (0..model.spec().layers.len()).map(|layer| model.layer(layer).unwrap()).collect()
}

/// Where the inputs of a part are seen.
fn site(part: Part) -> Part {
    use moepress_model::Map;
    match part {
        Part::Attention(Map::Key | Map::Value | Map::QueryDown | Map::LatentDown) => {
            Part::Attention(Map::Query)
        }
        Part::Dense(Projection::Up) => Part::Dense(Projection::Gate),
        Part::Shared(Projection::Up) => Part::Shared(Projection::Gate),
        Part::Expert { expert, segment, projection: Projection::Up } => {
            Part::Expert { expert, segment, projection: Projection::Gate }
        }
        other => other,
    }
}

#[test]
fn grams_are_those_of_a_plain_pass_and_hidden_states_its_bits() {
    for name in NAMES {
        let (model, windows) = (model(name), windows(name));
        let found = walk(&model, &windows, &whole(usize::MAX), |matrices| matrices);
        let wanted = forward(&model, &windows, &plain(&model));
        let mut compared = 0;
        for (layer, ((grams, weights, hidden), (seen, states))) in found.iter().zip(&wanted).enumerate() {
            assert!(hidden == states, "{name}: hidden states after layer {layer}");
            assert!(*weights == model.layer(layer).unwrap());
            let parts = measured(&model).into_iter().filter_map(|tensor| match tensor {
                Tensor::Layer(at, part) if at == layer => Some(part),
                _ => None,
            });
            for part in parts {
                let gram = &grams[&part];
                let cols = model.spec().shape(Tensor::Layer(layer, part)).unwrap()[1];
                let rows = seen.0.get(&site(part)).map_or(&[][..], Vec::as_slice);
                assert_eq!((gram.cols, gram.tokens), (cols, (rows.len() / cols) as u64), "{name}: {part}");
                let mut sums = vec![0.0; cols * cols];
                for x in rows.chunks_exact(cols) {
                    for (i, &a) in x.iter().enumerate() {
                        for (j, &b) in x.iter().enumerate() {
                            sums[i * cols + j] += f64::from(a) * f64::from(b);
                        }
                    }
                }
                for (at, (&found, wanted)) in gram.sums.iter().zip(&sums).enumerate() {
                    let (i, j) = (at / cols, at % cols);
                    let scale = (sums[i * cols + i] * sums[j * cols + j]).sqrt();
                    assert!((found - wanted).abs() <= 1e-5 * scale, "{name}: {layer} {part} {i} {j}");
                    assert_eq!(found, gram.sums[j * cols + i]);
                }
                compared += 1;
            }
        }
        assert!(compared > 20, "{name}: {compared}");
    }
}

/// A stand-in for rounding: every weight to a multiple of 1/64.
fn coarse(matrices: Matrices) -> Matrices {
    let round = |(part, stored): (Part, Stored)| {
        let values: Vec<f32> = stored.to_f32().iter().map(|w| (w * 64.0).round() / 64.0).collect();
        (part, Stored::Plain(Plain::from_f32(moepress_quant::Dtype::F32, stored.shape(), &values)))
    };
    matrices.into_iter().map(round).collect()
}

#[test]
fn windows_go_through_what_was_decided() {
    for name in NAMES {
        let (model, windows) = (model(name), windows(name));
        let found = walk(&model, &windows, &whole(2), coarse);
        let decided: Vec<LayerWeights> = found.iter().map(|(_, weights, _)| weights.clone()).collect();
        assert!(decided != plain(&model));
        for ((_, _, hidden), (_, states)) in found.iter().zip(forward(&model, &windows, &decided)) {
            assert!(*hidden == states, "{name}");
        }
    }
}

#[test]
fn neither_threads_nor_the_way_of_working_change_a_bit() {
    let name = "deepseek_v3";
    let (model, windows) = (model(name), windows(name));
    let with = |threads, layout: Layout| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| walk(&model, &windows, &layout, coarse))
    };
    let one = with(1, whole(usize::MAX));
    for (threads, layout) in
        [(3, whole(usize::MAX)), (3, whole(1)), (2, Layout { spooled: true, ..whole(3) })]
    {
        assert!(with(threads, layout) == one, "{threads} {layout:?}");
    }
}

#[test]
fn what_is_wanted_is_what_the_expert_returned() {
    let name = "gpt_oss";
    let (model, windows) = (model(name), windows(name));
    let windows = [windows.clone(), windows].concat();
    let rounded = measured(&model);
    let refit = BTreeSet::from([(0, 1), (0, 2)]);
    let undecided = Undecided { rounded: &rounded, refit: &refit, original: &model, rows: &BTreeMap::new() };
    let means = Means::unlimited(&Device::flex());
    let mut walk = Walk::new_as(&model, &windows, undecided, &means, &whole(3), &Silent).unwrap();
    let see = |reached: &Reached, matrices: Matrices| {
        let parts: Vec<(Part, Vec<f32>)> =
            matrices.iter().map(|(part, stored)| (*part, stored.to_f32())).collect();
        Ok::<_, CalibrateError>((matrices, (parts, reached.clone())))
    };
    let (_, said) = walk.layer(&see).unwrap();
    let mut compared = 0;
    for (parts, reached) in said {
        let asked = matches!(parts[0].0, Part::Expert { expert: 1 | 2, projection: Projection::Down, .. });
        assert_eq!((reached.all.wanted.is_some(), reached.held_out.is_some()), (asked, asked));
        let Some(held) = reached.held_out.filter(|_| asked) else { continue };
        assert!(0 < held.gram.tokens && held.gram.tokens < reached.all.gram.tokens);
        // Nothing was taken from the expert, so its outputs, without the bias, are W x.
        let (w, cols) = (&parts[0].1, held.gram.cols);
        for sums in [&reached.all, &held] {
            let wanted = sums.wanted.as_ref().unwrap();
            let mut power = 0.0;
            for row in 0..wanted.rows {
                let w: Vec<f64> = w[row * cols..(row + 1) * cols].iter().map(|&w| f64::from(w)).collect();
                for col in 0..cols {
                    let product: f64 = (0..cols).map(|k| w[k] * sums.gram.sums[k * cols + col]).sum();
                    let found = wanted.cross[row * cols + col];
                    let scale = (wanted.power * sums.gram.sums[col * cols + col]).sqrt();
                    assert!((found - product).abs() <= 1e-4 * scale, "{row} {col}: {found} {product}");
                    power += product * w[col];
                }
            }
            assert!((power - wanted.power).abs() <= 1e-4 * power, "{power} {}", wanted.power);
        }
        compared += 1;
    }
    assert_eq!(compared, 2);
}

#[test]
fn an_expert_that_no_token_reaches_has_a_gram_of_zeros() {
    let model = model("qwen3_moe");
    let windows = vec![Reference::of("qwen3_moe").ids()[0][..1].to_vec()];
    let found = walk(&model, &windows, &whole(3), |matrices| matrices);
    let empty = found[0].0.values().filter(|gram| gram.tokens == 0).collect::<Vec<_>>();
    assert!(!empty.is_empty() && empty.iter().all(|gram| gram.sums.iter().all(|&sum| sum == 0.0)));
}

#[test]
fn too_little_memory_is_refused_and_an_end_cleans_up() {
    struct Stop;
    impl Progress for Stop {
        fn step(&self, _: &str, _: u64, _: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
        fn note(&self, _: &str) {}
    }
    let (model, windows) = (model("mixtral"), windows("mixtral"));
    let rounded = measured(&model);
    let (tokens, window) = (windows.len() * windows[0].len(), windows[0].len());
    let refit = BTreeSet::new();
    let (threads, original) = (rayon::current_num_threads(), model.spec());
    let all = BTreeMap::new();
    let work = Writing { tokens, window, threads, rounded: &rounded, refit: &refit, original, rows: &all };
    let undecided = Undecided { rounded: &rounded, refit: &refit, original: &model, rows: &BTreeMap::new() };
    let least = Layout::writing(model.spec(), &work, Some(1), true).unwrap_err();
    let dir = tempfile::tempdir().unwrap();
    let spool = Some(Spool { files: files(), dir: dir.path().join("spool") });
    let means = |memory| Means { device: Device::flex(), memory: Some(memory), spool: spool.clone() };
    Walk::new(&model, &windows, undecided, &means(least), &Silent).map(Walk::close).unwrap().unwrap();
    match Walk::new(&model, &windows, undecided, &means(least - 1), &Silent).err() {
        Some(CalibrateError::Memory { needed, limit }) => assert_eq!((needed, limit), (least, least - 1)),
        other => panic!("{other:?}"),
    }
    let stopped = Walk::new(&model, &windows, undecided, &means(least), &Stop).err();
    assert!(matches!(stopped, Some(CalibrateError::Cancelled)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
