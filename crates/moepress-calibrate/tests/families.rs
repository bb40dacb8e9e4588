//! The decoder against `transformers`, for every family and every configuration there is a golden checkpoint of.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Reference, all, all_close, model};
use moepress_checkpoint::{CheckpointError, Source};
use moepress_nn::{Builder, Device, Embedding, Head, Ignore, Mlp, Rotary, dense, to_rows};

#[derive(Debug, thiserror::Error)]
enum EndsError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Block(#[from] moepress_nn::BlockError),
}

#[test]
fn hidden_states_routing_and_logits_are_those_of_transformers() {
    let mut failed = Vec::new();
    for name in all() {
        let result = std::panic::catch_unwind(|| check(&name));
        if let Err(payload) = result {
            let text = payload.downcast_ref::<String>().cloned().unwrap_or_default();
            failed.push(text);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn check(name: &str) {
    let (model, reference) = (model(name), Reference::of(name));
    let (spec, device) = (model.spec(), Device::flex());
    let windows = reference.ids();
    let (batch, window) = (windows.len(), windows[0].len());
    let linear = |stored: std::sync::Arc<moepress_quant::Stored>| dense(&stored, &device);
    let tensor = |tensor| model.tensor(tensor).map_err(EndsError::from);
    let embedding = Embedding::new(spec, tensor).unwrap();
    let head = Head::new(spec, tensor, None, &linear, &device).unwrap();
    let rotary = Rotary::new(&spec.attention, 0, window, &device);
    let mut x = embedding.embed(&windows.concat(), &device);
    for layer in 0..spec.layers.len() {
        let wanted = reference.get(&format!("hidden_states.{layer}"));
        all_close(
            to_rows(x.clone()).into_iter().map(f64::from),
            &wanted,
            2e-4,
            &format!("{name}: input of {layer}"),
        );
        let block = Builder::new(spec, layer, model.layer(layer).unwrap(), &linear, &device).block().unwrap();
        if let Mlp::Moe(experts) = &block.mlp {
            let attended = block.attend(x.clone(), batch, &rotary, None, &mut Ignore);
            let routed = experts.route(block.mlp_input(attended));
            let (indices, weights) =
                reference.routing(layer).unwrap_or_else(|| panic!("{name}: no routing of {layer}"));
            let (k, count) = (indices.len() / (batch * window), experts.len());
            let gates = to_rows(routed.gates);
            let mut wanted = vec![0.0f32; gates.len()];
            for (place, (&expert, &weight)) in indices.iter().zip(&weights).enumerate() {
                wanted[place / k * count + expert as usize] = weight;
                let token = (place / k) as u32;
                assert!(
                    routed.tokens[expert as usize].binary_search(&token).is_ok(),
                    "{name}: layer {layer}, token {token} is not routed to expert {expert}"
                );
            }
            let chosen: usize = routed.tokens.iter().map(Vec::len).sum();
            assert_eq!(chosen, indices.len(), "{name}: tokens routed in layer {layer}");
            all_close(gates.into_iter().map(f64::from), &wanted, 2e-4, &format!("{name}: gates of {layer}"));
        }
        x = block.forward(x, batch, &rotary, None, &mut Ignore);
    }
    let last = reference.get(&format!("hidden_states.{}", spec.layers.len()));
    all_close(
        to_rows(head.normed(x.clone())).into_iter().map(f64::from),
        &last,
        2e-4,
        &format!("{name}: output"),
    );
    let logits = to_rows(head.logits(x)).into_iter().map(f64::from);
    all_close(logits, &reference.get("logits"), 2e-4, &format!("{name}: logits"));
}
