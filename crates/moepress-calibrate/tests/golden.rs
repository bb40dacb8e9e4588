//! The statistics of a sweep against `transformers`, and its gradients against finite differences.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Reference, all, all_close, model};
use moepress_calibrate::{Means, sweep};
use moepress_checkpoint::{Checkpoint, CheckpointError, Silent, Source};
use moepress_model::{LayerWeights, ModelSpec, Part, Projection, Tensor};
use moepress_nn::Device;
use moepress_quant::{Dtype, Plain, Stored};
use moepress_stats::{Need, Needs, Of, Quantity, Statistics};

fn close(found: f64, wanted: f64, tolerance: f64, what: &str) {
    assert!(
        (found - wanted).abs() <= tolerance * wanted.abs().max(1e-12),
        "{what}: {found} instead of {wanted}"
    );
}

fn measure(source: &dyn Source, windows: &[Vec<u32>]) -> Statistics {
    let needs = Needs::of([Need::Routing, Need::Atoms, Need::Fisher]);
    sweep(source, windows, &needs, &Means::unlimited(&Device::flex()), &Silent).unwrap()
}

#[test]
fn losses_counts_and_scores_are_those_of_transformers() {
    for name in all() {
        check(&name);
    }
}

fn check(name: &str) {
    let (model, reference) = (model(name), Reference::of(name));
    let stats = measure(&model, &reference.ids());
    let predictions = stats.scalar(Of::Model, Quantity::Predictions).unwrap();
    let loss = stats.scalar(Of::Model, Quantity::Loss).unwrap() / predictions;
    close(loss, f64::from(reference.get("loss")[0]), 1e-4, &format!("{name}: loss"));
    // The reference differentiates the mean, a sweep the sum.
    let scale = predictions * predictions;
    for (layer, moe) in model.spec().moe_layers() {
        let modules = ["mlp", "block_sparse_moe"].map(|moe| format!("model.layers.{layer}.{moe}.experts"));
        let known = |module: &&String| {
            reference.0.tensors().any(|(name, _)| name.starts_with(&format!("reap.{module}.")))
        };
        let module = modules.iter().find(known).unwrap_or(&modules[0]);
        let tokens = stats.get(Of::Layer(layer), Quantity::Tokens).unwrap();
        let mut counts = vec![0.0; tokens.len()];
        reference.routing(layer).unwrap().0.iter().for_each(|&expert| counts[expert as usize] += 1.0);
        assert_eq!(tokens, counts, "{name}: tokens per expert of layer {layer}");
        let reap = stats.get(Of::Layer(layer), Quantity::GateNormSum).unwrap();
        for expert in (0..moe.experts.len()).filter(|&expert| tokens[expert] > 0.0) {
            let at = |what: &str| format!("{name}: layer {layer}, expert {expert}: {what}");
            let n = tokens[expert];
            // gpt-oss has no reference scores: its experts carry biases and a limit.
            if moe.biases {
                assert!(!reference.has(&format!("reap.{module}.{expert}.score_sum")));
                continue;
            }
            let wanted = f64::from(reference.get(&format!("reap.{module}.{expert}.score_sum"))[0]);
            close(reap[expert], wanted, 1e-3, &at("reap"));
            let get = |quantity| stats.get(Of::Expert(layer, expert), quantity).unwrap();
            let energy = || get(Quantity::AtomEnergy).iter().map(|h| h / n);
            let gradient = get(Quantity::AtomGradient).iter().map(|g| g / n / scale);
            let heapr = |part: &str| reference.get(&format!("heapr.{module}.{expert}.{part}"));
            all_close(energy(), &heapr("activation_second_moment"), 1e-3, &at("energy"));
            all_close(energy().zip(gradient).map(|(h, g)| h * g), &heapr("score"), 1e-3, &at("decoupled"));
            let coupled = get(Quantity::AtomCoupled).iter().map(|c| c / scale);
            let wanted = reference.get(&format!("fisher.{module}.{expert}.score_sum"));
            all_close(coupled, &wanted, 1e-3, &at("coupled"));
            let down = Of::Tensor(Tensor::Layer(
                layer,
                Part::Expert { expert, segment: 0, projection: Projection::Down },
            ));
            assert_eq!(stats.get(down, Quantity::ColumnWeight).unwrap(), get(Quantity::AtomEnergy));
            if reference.has(&format!("heapr.{module}.{expert}.output_gradient_covariance")) {
                let rows = stats.get(down, Quantity::RowWeight).unwrap().iter().map(|g| g / n / scale);
                let step = model.spec().hidden + 1;
                let diagonal: Vec<f32> =
                    heapr("output_gradient_covariance").into_iter().step_by(step).collect();
                all_close(rows, &diagonal, 1e-3, &at("row weights of down"));
            }
        }
    }
}

/// A golden model with some elements of one matrix multiplied by a factor.
struct Scaled<'a> {
    model: &'a Checkpoint,
    layer: usize,
    part: Part,
    /// Whether the element in that row and column is one of them.
    of: &'a (dyn Fn(usize, usize) -> bool + Sync),
    factor: f32,
}

impl Source for Scaled<'_> {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
        self.model.tensor(tensor)
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights, CheckpointError> {
        let mut weights = self.model.layer(layer)?;
        if layer == self.layer {
            let stored = &weights[&self.part];
            let mut values = stored.to_f32();
            let (_, cols) = stored.matrix_shape();
            let ours = |(index, _): &(usize, &mut f32)| (self.of)(index / cols, index % cols);
            values.iter_mut().enumerate().filter(ours).for_each(|(_, w)| *w *= self.factor);
            let scaled = Stored::Plain(Plain::from_f32(Dtype::F32, stored.shape(), &values));
            weights.insert(self.part, scaled);
        }
        Ok(weights)
    }
}

/// ∂loss/∂ε of a golden model on some windows, where the elements chosen are multiplied by 1 + ε. None where a
/// router chooses other experts on the way: there the loss jumps.
fn derivative(
    model: &Checkpoint,
    windows: &[Vec<u32>],
    (layer, part): (usize, Part),
    of: &(dyn Fn(usize, usize) -> bool + Sync),
) -> Option<f64> {
    let at = |factor| measure(&Scaled { model, layer, part, of, factor }, windows);
    let (more, less) = (at(1.05), at(0.95));
    let mut layers = model.spec().moe_layers().map(|(layer, _)| Of::Layer(layer));
    let same = layers.all(|of| more.get(of, Quantity::Tokens) == less.get(of, Quantity::Tokens));
    let loss = |stats: Statistics| stats.scalar(Of::Model, Quantity::Loss).unwrap();
    same.then(|| (loss(more) - loss(less)) / 0.1)
}

fn largest(values: &[f64]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap()
}

/// In a window of two tokens only the first predicts, and nothing the second does reaches that loss. So for an
/// expert that one token is routed to, Σ (h · ∂L/∂h)² is one square. Scaling column k of down_proj by 1 + ε scales
/// h_k, whatever joins gate and up, so it changes the loss by ε · h · ∂L/∂h; and where h is linear in its row of
/// up_proj, so does scaling that row.
#[test]
fn gradients_are_those_of_finite_differences() {
    for (name, linear) in
        [("qwen3_moe", true), ("gpt_oss", false), ("qwen2_moe", true), ("deepseek_v3", true)]
    {
        let model = model(name);
        let ids = Reference::of(name).ids();
        let mut compared = 0;
        for window in ids[0].chunks(2) {
            compared += compare(name, &model, window, linear);
            if compared >= 4 {
                break;
            }
        }
        assert!(compared >= 4, "{name}: {compared} experts compared");
    }
}

/// Compares the experts that one of two tokens is routed to; returns how many.
fn compare(name: &str, model: &Checkpoint, window: &[u32], linear: bool) -> usize {
    let windows = vec![window.to_vec()];
    let stats = measure(model, &windows);
    let mut compared = 0;
    for (layer, _) in model.spec().moe_layers() {
        let tokens = stats.get(Of::Layer(layer), Quantity::Tokens).unwrap();
        for expert in (0..tokens.len()).filter(|&expert| tokens[expert] == 1.0) {
            let coupled = stats.get(Of::Expert(layer, expert), Quantity::AtomCoupled).unwrap();
            let atom = largest(coupled);
            if coupled[atom] <= 1e-8 {
                continue;
            }
            let part = |projection| (layer, Part::Expert { expert, segment: 0, projection });
            let column = |_: usize, column: usize| column == atom;
            let Some(down) = derivative(model, &windows, part(Projection::Down), &column) else { continue };
            let at = format!("{name}: layer {layer}, expert {expert}");
            close(coupled[atom], down.powi(2), 0.02, &format!("{at}, column of down"));
            let row = |row: usize, _: usize| row == atom;
            if linear && let Some(up) = derivative(model, &windows, part(Projection::Up), &row) {
                close(coupled[atom], up.powi(2), 0.02, &format!("{at}, row of up"));
            }
            compared += 1;
        }
    }
    compared
}

/// In a window of one token twice, both have the same hidden states wherever attention has no sinks: values do not
/// know their positions. So the sums over tokens of squared inputs are twice those of the first, and as only the
/// first predicts, squared derivatives of single weights are products of both sums.
#[test]
fn weights_of_shared_experts_are_those_of_finite_differences() {
    for name in ["qwen2_moe", "deepseek_v2"] {
        let model = model(name);
        let windows = vec![vec![Reference::of(name).ids()[0][0]; 2]];
        let stats = measure(&model, &windows);
        for (layer, _) in model.spec().moe_layers() {
            for projection in Projection::ALL {
                let part = Part::Shared(projection);
                let get =
                    |quantity| stats.get(Of::Tensor(Tensor::Layer(layer, part)), quantity).unwrap().to_vec();
                let (rows, cols) = (get(Quantity::RowWeight), get(Quantity::ColumnWeight));
                let (row, col) = (largest(&rows), largest(&cols));
                let stored = model.tensor(Tensor::Layer(layer, part)).unwrap();
                let weight = f64::from(stored.to_f32()[row * cols.len() + col]);
                let found = derivative(&model, &windows, (layer, part), &|r, c| (r, c) == (row, col));
                let found = found.unwrap() / weight;
                let at = format!("{name}: layer {layer}, {part}");
                close(rows[row] * cols[col] / 2.0, found.powi(2), 0.05, &at);
            }
        }
    }
}
