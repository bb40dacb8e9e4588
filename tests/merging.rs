//! Merging as a choice of `compress`, on a model in which some experts are others in another order.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{DOMAINS, demo, json, root};
use serde_json::Value;
use std::ops::Range;
use std::path::Path;

/// Pairs of the demo model of which the second becomes the first with its atoms in another order, in every layer.
const PAIRS: [[usize; 2]; 4] = [[0, 9], [3, 4], [7, 12], [10, 15]];

/// Writes the demo model with those pairs.
fn duplicated(dir: &Path) {
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(demo().join(name), dir.join(name)).unwrap();
    }
    let mut bytes = std::fs::read(demo().join("model.safetensors")).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let place = |layer: usize, expert: usize, map: &str| -> (Range<usize>, usize) {
        let tensor = &header[format!("model.layers.{layer}.mlp.experts.{expert}.{map}_proj.weight")];
        let at = |index: usize| start + tensor["data_offsets"][index].as_u64().unwrap() as usize;
        (at(0)..at(1), tensor["shape"][1].as_u64().unwrap() as usize)
    };
    for layer in 0..6 {
        for [first, second] in PAIRS {
            for map in ["gate", "up", "down"] {
                let (from, cols) = place(layer, first, map);
                let values: Vec<[u8; 2]> = bytes[from].chunks(2).map(|b| [b[0], b[1]]).collect();
                // 96 and 35 have no common factor.
                let order = |atom: usize| (atom * 35 + layer) % 96;
                let moved = (0..values.len()).map(|at| match map {
                    "down" => values[at / cols * cols + order(at % cols)],
                    _ => values[order(at / cols) * cols + at % cols],
                });
                let moved: Vec<u8> = moved.flatten().collect();
                bytes[place(layer, second, map).0].copy_from_slice(&moved);
            }
        }
    }
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn duplicates_become_one_where_that_pays() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    duplicated(&model);
    let run = |merge: bool| {
        let text = |folder: &str| root().join(format!("{folder}/{}.txt", DOMAINS[0])).display().to_string();
        let recipe = format!(
            "version: 1\nmodel: {}\ncalibration: {{files: [{}], window: 128, windows: 8}}\nstages: [{{compress: {{ratio: 0.1, classes: [experts], merge: {merge}}}}}]\nevaluate: {{files: [{}], window: 128, windows: 2}}\n",
            model.display(),
            text("calibration"),
            text("tests/fixtures/eval-text"),
        );
        let path = dir.path().join(format!("{merge}.yaml"));
        std::fs::write(&path, recipe).unwrap();
        json(&["run", path.to_str().unwrap(), "--out", dir.path().join(merge.to_string()).to_str().unwrap()])
    };
    let (apart, merged) = (run(false), run(true));
    let bytes = |report: &Value, when: &str| report[when]["classes"]["experts"]["bytes"].as_u64().unwrap();
    for report in [&apart, &merged] {
        let (found, allowed) = (bytes(report, "after"), bytes(report, "before") / 10);
        assert!(found <= allowed && found as f64 > 0.995 * allowed as f64, "{found} of {allowed}");
    }
    // Every expert that shares its place does so with the one that it is.
    let mut shared = 0;
    for layer in merged["layers"].as_array().unwrap() {
        for expert in layer["experts"].as_array().unwrap() {
            let rows: Vec<usize> = expert["shared_by"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row.as_u64().unwrap() as usize)
                .collect();
            if let [first, second] = rows[..] {
                assert!(PAIRS.contains(&[first, second]), "{rows:?}");
                shared += 1;
            }
        }
    }
    assert!(shared >= 20, "{shared} of 24");
    let kl =
        |report: &Value| report["evaluation"]["compact"]["overall"]["divergence"]["mean"].as_f64().unwrap();
    assert!(kl(&merged) < 0.8 * kl(&apart), "{} {}", kl(&merged), kl(&apart));
    let loss = |report: &Value| report["losses"][0]["predicted"].as_f64().unwrap();
    assert!(loss(&merged) < loss(&apart));
}
