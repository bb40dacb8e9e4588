//! The statistics of a sweep against `transformers`, and its gradients against finite differences.

#![allow(clippy::unwrap_used, clippy::panic)]

use moepress_calibrate::sweep;
use moepress_checkpoint::{Checkpoint, CheckpointError, Files, OsFiles, Shards, Silent, Source};
use moepress_model::{LayerWeights, ModelSpec, Part, Projection, Tensor};
use moepress_nn::Device;
use moepress_quant::{Dtype, Plain, Stored};
use moepress_stats::{Need, Needs, Of, Quantity, Statistics};
use std::path::PathBuf;
use std::sync::Arc;

fn folder(family: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/golden").join(family)
}

fn files() -> Arc<dyn Files> {
    Arc::new(OsFiles)
}

struct Reference(Shards);

impl Reference {
    fn of(family: &str) -> Self {
        Self(Shards::open(&files(), &folder(family).join("reference")).unwrap())
    }

    fn get(&self, name: &str) -> Vec<f32> {
        self.0.read_plain(name).unwrap().to_f32()
    }

    fn ids(&self) -> Vec<Vec<u32>> {
        let raw = self.0.read("input_ids").unwrap();
        let ids: Vec<u32> =
            raw.bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        ids.chunks_exact(raw.shape[1]).map(<[u32]>::to_vec).collect()
    }
}

fn close(found: f64, wanted: f64, tolerance: f64, what: &str) {
    assert!(
        (found - wanted).abs() <= tolerance * wanted.abs().max(1e-12),
        "{what}: {found} instead of {wanted}"
    );
}

/// Compares vectors relative to the largest magnitude of the wanted one.
fn all_close(found: impl IntoIterator<Item = f64>, wanted: &[f32], what: &str) {
    let largest = wanted.iter().fold(0.0f64, |m, &w| m.max(f64::from(w).abs()));
    let mut count = 0;
    for (found, &wanted) in found.into_iter().zip(wanted) {
        let wanted = f64::from(wanted);
        assert!((found - wanted).abs() <= 1e-3 * largest, "{what}[{count}]: {found} instead of {wanted}");
        count += 1;
    }
    assert_eq!(count, wanted.len(), "{what}");
}

fn measure(source: &dyn Source, windows: &[Vec<u32>]) -> Statistics {
    let needs = Needs::of([Need::Routing, Need::Atoms, Need::Fisher]);
    sweep(source, windows, &needs, &Device::flex(), &Silent).unwrap()
}

#[test]
fn scores_are_those_of_transformers() {
    let reference = Reference::of("qwen3_moe");
    let model = Checkpoint::open(&files(), &folder("qwen3_moe")).unwrap();
    let stats = measure(&model, &reference.ids());
    let predictions = stats.scalar(Of::Model, Quantity::Predictions).unwrap();
    let loss = stats.scalar(Of::Model, Quantity::Loss).unwrap() / predictions;
    close(loss, f64::from(reference.get("loss")[0]), 1e-5, "loss");
    // The reference differentiates the mean, a sweep the sum.
    let scale = predictions * predictions;
    for (layer, moe) in model.spec().moe_layers() {
        let module = format!("model.layers.{layer}.mlp.experts");
        let tokens = stats.get(Of::Layer(layer), Quantity::Tokens).unwrap();
        let reap = stats.get(Of::Layer(layer), Quantity::GateNormSum).unwrap();
        for expert in (0..moe.experts.len()).filter(|&expert| tokens[expert] > 0.0) {
            let n = tokens[expert];
            let count = reference.0.read(&format!("tokens.{module}.{expert}")).unwrap().bytes;
            assert_eq!(n as u32, u32::from_le_bytes([count[0], count[1], count[2], count[3]]));
            close(
                reap[expert],
                f64::from(reference.get(&format!("reap.{module}.{expert}.score_sum"))[0]),
                1e-3,
                "reap",
            );
            let get = |quantity| stats.get(Of::Expert(layer, expert), quantity).unwrap();
            let energy = || get(Quantity::AtomEnergy).iter().map(|h| h / n);
            let gradient = get(Quantity::AtomGradient).iter().map(|g| g / n / scale);
            let heapr = |part: &str| reference.get(&format!("heapr.{module}.{expert}.{part}"));
            all_close(energy(), &heapr("activation_second_moment"), "energy");
            all_close(energy().zip(gradient).map(|(h, g)| h * g), &heapr("score"), "decoupled");
            let coupled = get(Quantity::AtomCoupled).iter().map(|c| c / scale);
            all_close(coupled, &reference.get(&format!("fisher.{module}.{expert}.score_sum")), "coupled");
            let down = Of::Tensor(Tensor::Layer(
                layer,
                Part::Expert { expert, segment: 0, projection: Projection::Down },
            ));
            let rows = stats.get(down, Quantity::RowWeight).unwrap().iter().map(|g| g / n / scale);
            let diagonal: Vec<f32> = heapr("output_gradient_covariance").into_iter().step_by(65).collect();
            all_close(rows, &diagonal, "row weights of down");
            assert_eq!(stats.get(down, Quantity::ColumnWeight).unwrap(), get(Quantity::AtomEnergy));
        }
        let routed = |expert: &usize| reference.0.contains(&format!("tokens.{module}.{expert}"));
        assert!((0..tokens.len()).all(|expert| routed(&expert) == (tokens[expert] > 0.0)));
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
    let model = Checkpoint::open(&files(), &folder("qwen3_moe")).unwrap();
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
