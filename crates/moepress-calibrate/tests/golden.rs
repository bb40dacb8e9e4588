//! The statistics of a sweep against `transformers`, and its gradients against finite differences.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Reference, all, all_close, model};
use moepress_calibrate::sweep;
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
    sweep(source, windows, &needs, &Device::flex(), &Silent).unwrap()
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

/// The golden model with one row of one matrix multiplied by a factor.
struct Scaled<'a> {
    model: &'a Checkpoint,
    layer: usize,
    part: Part,
    row: usize,
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
            values[self.row * cols..(self.row + 1) * cols].iter_mut().for_each(|w| *w *= self.factor);
            let scaled = Stored::Plain(Plain::from_f32(Dtype::F32, stored.shape(), &values));
            weights.insert(self.part, scaled);
        }
        Ok(weights)
    }
}

/// In a window of two tokens only the first predicts, and nothing the second does reaches that loss. So for an
/// expert that one token is routed to, Σ (h · ∂L/∂h)² is one square; and h is linear in its row of up_proj, so
/// scaling that row by 1 + ε changes the loss by ε · h · ∂L/∂h.
#[test]
fn gradients_are_those_of_finite_differences() {
    let model = model("qwen3_moe");
    let windows = vec![Reference::of("qwen3_moe").ids()[0][..2].to_vec()];
    let stats = measure(&model, &windows);
    let loss = |scaled: &Scaled<'_>| measure(scaled, &windows).scalar(Of::Model, Quantity::Loss).unwrap();
    let derivative = |layer, part, row| {
        let at = |factor| loss(&Scaled { model: &model, layer, part, row, factor });
        (at(1.05) - at(0.95)) / 0.1
    };
    let mut compared = 0;
    for layer in 0..2 {
        let tokens = stats.get(Of::Layer(layer), Quantity::Tokens).unwrap().to_vec();
        for expert in (0..tokens.len()).filter(|&expert| tokens[expert] == 1.0) {
            let coupled = stats.get(Of::Expert(layer, expert), Quantity::AtomCoupled).unwrap().to_vec();
            let up = Part::Expert { expert, segment: 0, projection: Projection::Up };
            let largest = (0..coupled.len()).max_by(|&a, &b| coupled[a].total_cmp(&coupled[b])).unwrap();
            if coupled[largest] > 1e-8 {
                let found = derivative(layer, up, largest).powi(2);
                close(coupled[largest], found, 0.02, &format!("layer {layer}, expert {expert}"));
                compared += 1;
            }
        }
    }
    assert!(compared >= 4, "{compared} experts compared");
}
