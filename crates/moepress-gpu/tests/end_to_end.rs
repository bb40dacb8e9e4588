//! Whole models on a device against the CPU: logits within 1e-3, and the same greedy texts.

#![cfg(feature = "device")]
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use common::compact::Compact;
use common::models::{both, fixture, fixtures, gap, greedy};
use moepress_checkpoint::Source;

fn check(name: &str, source: &dyn Source, tokens: usize) {
    let Some(backend) = common::backend() else { return };
    let (cpu, gpu) = both(source, backend);
    let gap = gap(&cpu, &gpu, 24);
    assert!(gap <= 1e-3, "{name}: logits are {gap} apart");
    assert_eq!(greedy(&cpu, tokens), greedy(&gpu, tokens), "{name}");
}

#[test]
fn the_demo_model() {
    check("demo", &fixture("demo-qwen3-moe"), 64);
}

#[test]
fn the_demo_model_compressed() {
    check("demo, compact", &Compact::new(&fixture("demo-qwen3-moe")), 64);
}

/// Biases, clamps, shared experts, compressed attention, windows, sinks: whatever a family has.
#[test]
fn every_family() {
    for entry in std::fs::read_dir(fixtures().join("golden")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if fixtures().join("golden").join(&name).join("config.json").exists() {
            let checkpoint = fixture(&format!("golden/{name}"));
            check(&name, &checkpoint, 4);
            check(&format!("{name}, compact"), &Compact::new(&checkpoint), 4);
        }
    }
}
