//! How long `compress` takes to decide, and in how much memory: 48 layers of 128 experts of 768 atoms, generated ladders, and
//! every second expert alike to the one before it.
//!
//!     cargo bench -p moepress-stages --bench decide

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use moepress_model::{Config, ModelSpec, family};
use moepress_quant::formats::{Rung, half_power};
use moepress_quant::{Code, Dtype, Format, Grouped};
use moepress_stages::{Evidence, from_recipe};
use moepress_stats::{Ladders, Merger, Of, Quantity, RoundingCosts, RunLadder, Statistics};
use std::path::Path;
use std::time::Instant;

const ALIGN: usize = 32;

fn model() -> ModelSpec {
    let config = serde_json::json!({
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128, "vocab_size": 151_936, "num_hidden_layers": 48, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768, "intermediate_size": 6144,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "norm_topk_prob": true,
    });
    let config = Config(config.as_object().unwrap());
    let mut spec = (family(config).unwrap().spec)(config).unwrap();
    for tensor in spec.tensors() {
        spec.set_format(tensor, Format::Plain(Dtype::Bf16));
    }
    spec
}

/// Rungs of a normal source of that saliency.
fn rungs(weights: usize, saliency: f64) -> Vec<Rung> {
    let rung = |exponent: i32| {
        let error = f64::from(half_power(exponent)).powi(2) / 12.0;
        let bits = (0.25 - 0.5 * error.min(1.0).log2()).max(0.05);
        let format = Grouped::new(Code::Int(4), Grouped::ROW, true);
        let bytes = (weights as f64 * bits / 8.0) as u64;
        Rung { format, step: half_power(exponent), bytes, cost: saliency * error.min(1.0) }
    };
    (-8..=4).map(rung).collect()
}

fn main() {
    let spec = model();
    let (mut stats, mut ladders) = (Statistics::default(), Ladders::default());
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    for (layer, moe) in spec.moe_layers() {
        stats.add(Of::Layer(layer), Quantity::Tokens, vec![100.0; moe.experts.len()]).unwrap();
        for expert in 0..moe.experts.len() {
            let weight = (4.0 * uniform() - 14.0).exp();
            let run = |at: usize| {
                let saliency = weight * (-0.2 * at as f64).exp() * (0.5 + uniform());
                RunLadder {
                    atoms: (at * ALIGN..(at + 1) * ALIGN).collect(),
                    dropped: saliency,
                    rungs: [(); 3].map(|()| rungs(ALIGN * spec.hidden, saliency * (0.2 + 0.3 * uniform()))),
                }
            };
            ladders.runs.insert((layer, expert), (0..768 / ALIGN).map(run).collect());
        }
    }
    for (layer, moe) in spec.moe_layers() {
        for first in (0..moe.experts.len() - 1).step_by(2) {
            let mut runs = ladders.runs[&(layer, first)].clone();
            for run in &mut runs {
                run.dropped *= 1.5;
                run.rungs.iter_mut().flatten().for_each(|rung| rung.cost *= 1.5);
            }
            let mean = runs.iter().map(|run| run.dropped * 0.4 * uniform()).collect();
            ladders.mergers.insert((layer, first, first + 1), Merger { weights: [0.5; 2], mean, runs });
        }
    }
    let costs = RoundingCosts { ladders, ..RoundingCosts::default() };
    let recipe = "version: 1\nmodel: m\nstages:\n  - compress: {ratio: 0.15, classes: [experts]}\n";
    let stages =
        from_recipe(&moepress_recipe::parse(recipe, Path::new("r.yaml"), &[]).unwrap().stages).unwrap();
    let evidence = Evidence { costs: &costs, ..Evidence::new(&spec, &stats) };
    let mut seconds: Vec<f64> = vec![];
    for _ in 0..5 {
        let at = Instant::now();
        let decision = stages[0].decide(&evidence).unwrap();
        seconds.push(at.elapsed().as_secs_f64());
        if seconds.len() == 1 {
            decision.notes.iter().for_each(|note| println!("{note}"));
            println!("{} edits", decision.edits.len());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: unknown");
    println!("decide: median {:.2} s of {}; {peak}", seconds[2], seconds.len());
}
