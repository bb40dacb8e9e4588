//! Whole models: the demo model against the CPU, and how fast a larger one of random weights reads and writes.

use crate::common::compact::Compact;
use crate::common::models::{both, fixture, gap, greedy, ids};
use crate::speed::tall;
use moepress_checkpoint::{CheckpointError, Source};
use moepress_model::{Config, LayerWeights, ModelSpec, Part, Tensor, family};
use moepress_nn::Backend;
use moepress_quant::{Dtype, Plain, Stored};
use moepress_runtime::{Model, Precision, Session};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

/// A Qwen3-MoE of random weights, all but norms and routers in one form.
struct Random {
    spec: ModelSpec,
    form: &'static str,
    /// A matrix of every shape.
    made: Mutex<BTreeMap<[usize; 2], Stored>>,
}

impl Random {
    fn new(form: &'static str, layers: usize, hidden: usize, experts: usize, width: usize) -> Self {
        let config = json!({
            "model_type": "qwen3_moe", "hidden_size": hidden, "num_attention_heads": hidden / 64,
            "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32_000, "num_hidden_layers": layers,
            "num_experts": experts, "num_experts_per_tok": experts.min(8), "moe_intermediate_size": width,
            "norm_topk_prob": true, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": true, "eos_token_id": 31_999, "rope_theta": 1e6,
        });
        let config = Config(config.as_object().unwrap());
        Self { spec: (family(config).unwrap().spec)(config).unwrap(), form, made: Mutex::default() }
    }

    fn stored(&self, name: Tensor) -> Stored {
        let shape = self.spec.shape(name).unwrap();
        match (&shape[..], name) {
            (&[rows, cols], Tensor::Layer(_, Part::Router)) => tall("f32", rows, cols),
            (&[rows, cols], _) => {
                let mut made = self.made.lock().unwrap();
                made.entry([rows, cols]).or_insert_with(|| tall(self.form, rows, cols)).clone()
            }
            _ => {
                Stored::Plain(Plain::from_f32(Dtype::F32, shape.clone(), &vec![0.1; shape.iter().product()]))
            }
        }
    }
}

impl Source for Random {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn tensor(&self, tensor: Tensor) -> Result<Stored, CheckpointError> {
        Ok(self.stored(tensor))
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights, CheckpointError> {
        let parts = self.spec.tensors().into_iter().filter_map(|name| match name {
            Tensor::Layer(of, part) if of == layer => Some((part, self.stored(name))),
            _ => None,
        });
        Ok(parts.collect())
    }
}

/// Tokens per second of reading a prompt of 512, and of writing 64 after it; medians of three.
fn rates(model: &Model, quick: bool) -> (f64, f64) {
    let (prompt, count) = (ids(model, if quick { 32 } else { 512 }), if quick { 4 } else { 64 });
    let mut rounds = Vec::new();
    for _ in 0..if quick { 1 } else { 4 } {
        let mut session = Session::new(model, Precision::Exact);
        let started = Instant::now();
        session.prefill(&prompt).unwrap();
        let read = started.elapsed().as_secs_f64();
        let started = Instant::now();
        (0..count).for_each(|id| drop(session.step(id).unwrap()));
        rounds.push((prompt.len() as f64 / read, f64::from(count) / started.elapsed().as_secs_f64()));
    }
    // The first compiles kernels.
    let rest = if rounds.len() > 1 { &rounds[1..] } else { &rounds[..] };
    let median = |of: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = rest.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    (median(|r| r.0), median(|r| r.1))
}

pub fn run(backend: Backend, quick: bool) {
    println!("\nthe demo model against the CPU");
    let plain = fixture("demo-qwen3-moe");
    let compact = Compact::new(&plain);
    for (name, source) in [("plain", &plain as &dyn Source), ("compact", &compact)] {
        let (cpu, gpu) = both(source, backend);
        let apart = gap(&cpu, &gpu, 64);
        let same = greedy(&cpu, 64) == greedy(&gpu, 64);
        let (read, write) = rates(&gpu, quick);
        let wrong = if apart <= 1e-3 && same { "ok" } else { "WRONG" };
        println!(
            "{name:8} logits {apart:.1e} apart, greedy texts of 64 tokens {}: {wrong}; reads {read:.0} tokens/s, writes {write:.1}",
            if same { "the same" } else { "differ" }
        );
    }
    if quick {
        return;
    }
    println!("\nrandom Qwen3-MoE, tokens/s: 8 of 128 experts, hidden 2048, experts of 768, 6 layers");
    for form in ["ternary-row", "ternary-row:trits", "int4-g64", "bf16"] {
        let source = Random::new(form, 6, 2048, 128, 768);
        match moepress_gpu::load(&source, backend) {
            Ok(model) => {
                let (read, write) = rates(&model, false);
                println!("{form:20} reads {read:>8.0}, writes {write:>7.1}");
            }
            Err(error) => println!("{form:20} {error}"),
        }
    }
}
