//! The same experts under other names: bit for bit the same weights.

use super::*;
use moepress_model::{Part, Projection};

/// Joins tensors along a new outermost dimension.
fn stack(parts: &[RawTensor]) -> RawTensor {
    RawTensor {
        dtype: parts[0].dtype,
        shape: [&[parts.len()], &parts[0].shape[..]].concat(),
        bytes: parts.iter().flat_map(|part| part.bytes.clone()).collect(),
    }
}

/// One matrix above the other.
fn above(first: RawTensor, second: RawTensor) -> RawTensor {
    let shape = vec![first.shape[0] + second.shape[0], first.shape[1]];
    RawTensor { dtype: first.dtype, shape, bytes: [first.bytes, second.bytes].concat() }
}

/// Moves the experts of every layer into two fused tensors, first gate, then up. `own` are the names of the
/// family within `experts`, by layer.
fn fuse(model: &mut Model, experts: &str, own: [&str; 3], fused: [&str; 2]) {
    for layer in 0.. {
        let at = format!("model.layers.{layer}.{experts}");
        let mut take =
            |expert: usize, name: &str| model.tensors.remove(&format!("{at}.{expert}.{name}.weight"));
        let (mut gate_up, mut down) = (vec![], vec![]);
        while let Some(gate) = take(gate_up.len(), own[0]) {
            gate_up.push(above(gate, take(gate_up.len(), own[1]).unwrap()));
            down.push(take(down.len(), own[2]).unwrap());
        }
        if gate_up.is_empty() {
            return assert!(layer > 0);
        }
        let place = |name: &str| format!("model.layers.{layer}.{name}");
        model.tensors.insert(place(fused[0]), stack(&gate_up));
        model.tensors.insert(place(fused[1]), stack(&down));
    }
}

const USUAL: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
const MIXTRAL: [&str; 3] = ["w1", "w3", "w2"];

#[test]
fn experts_of_their_own_and_fused_ones_are_the_same() {
    let cases = [
        ("qwen3_moe", "mlp.experts", USUAL, ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
        ("olmoe", "mlp.experts", USUAL, ["mlp.experts.gate_up_proj.weight", "mlp.experts.down_proj.weight"]),
        (
            "mixtral",
            "block_sparse_moe.experts",
            MIXTRAL,
            ["block_sparse_moe.experts.gate_up_proj", "mlp.experts.down_proj"],
        ),
        (
            "phimoe",
            "block_sparse_moe.experts",
            MIXTRAL,
            ["mlp.experts.gate_up_proj.weight", "block_sparse_moe.experts.down_proj.weight"],
        ),
    ];
    for (family, experts, own, fused) in cases {
        let model = Model::golden(family);
        let mut other = model.clone();
        fuse(&mut other, experts, own, fused);
        assert!(other.tensors.len() < model.tensors.len());
        assert_eq!(other.read(), model.read(), "{family}");
    }
}

#[test]
fn granite_is_fused_as_its_experts_would_be() {
    let model = Model::golden("granitemoe");
    let mut other = model.clone();
    for layer in 0..2 {
        let at = format!("model.layers.{layer}.block_sparse_moe");
        let input = other.tensors.remove(&format!("{at}.input_linear.weight")).unwrap();
        let output = other.tensors.remove(&format!("{at}.output_linear.weight")).unwrap();
        let (gates, downs) = (input.bytes.len() / 8, output.bytes.len() / 8);
        for expert in 0..8 {
            let both = &input.bytes[expert * gates..(expert + 1) * gates];
            let down = &output.bytes[expert * downs..(expert + 1) * downs];
            let name = |name: &str| format!("{at}.experts.{expert}.{name}.weight");
            other.insert(&name("gate_proj"), RawDtype::BF16, &[48, 64], both[..gates / 2].to_vec());
            other.insert(&name("up_proj"), RawDtype::BF16, &[48, 64], both[gates / 2..].to_vec());
            other.insert(&name("down_proj"), RawDtype::BF16, &[64, 48], down.to_vec());
        }
    }
    assert_eq!(other.read(), model.read());
}

#[test]
fn gpt_oss_is_transposed_and_interleaved() {
    let model = Model::golden("gpt_oss");
    let (hidden, width) = (64, 48);
    let number = |name: &str, index: usize| {
        let raw = &model.tensors[&format!("model.layers.1.mlp.experts.{name}")];
        f32::from_bits(u32::from(u16::from_le_bytes([raw.bytes[2 * index], raw.bytes[2 * index + 1]])) << 16)
    };
    let all = model.read();
    for expert in 0..8 {
        let part =
            |projection| all[&Tensor::Layer(1, Part::Expert { expert, segment: 0, projection })].to_f32();
        let bias =
            |projection| all[&Tensor::Layer(1, Part::ExpertBias { expert, segment: 0, projection })].to_f32();
        let (gate, up, down) = (part(Projection::Gate), part(Projection::Up), part(Projection::Down));
        let output = all[&Tensor::Layer(1, Part::ExpertOutputBias { expert })].to_f32();
        for atom in 0..width {
            for channel in 0..hidden {
                let at = (expert * hidden + channel) * 2 * width + 2 * atom;
                assert_eq!(gate[atom * hidden + channel], number("gate_up_proj", at));
                assert_eq!(up[atom * hidden + channel], number("gate_up_proj", at + 1));
                let at = (expert * width + atom) * hidden + channel;
                assert_eq!(down[channel * width + atom], number("down_proj", at));
                assert_eq!(output[channel], number("down_proj_bias", expert * hidden + channel));
            }
            let at = expert * 2 * width + 2 * atom;
            assert_eq!(bias(Projection::Gate)[atom], number("gate_up_proj_bias", at));
            assert_eq!(bias(Projection::Up)[atom], number("gate_up_proj_bias", at + 1));
        }
    }
}

#[test]
fn spellings_that_contradict_each_other_are_refused() {
    let own = "model.layers.0.mlp.experts.0.gate_proj.weight";
    let mut model = Model::golden("qwen3_moe");
    let experts = model.clone();
    fuse(&mut model, "mlp.experts", USUAL, ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]);
    let fused = model.clone();
    // Both spellings.
    model.tensors.insert(own.into(), experts.tensors[own].clone());
    model.refused(&[own, "mlp.experts.gate_up_proj\" holds the same weights"]);
    let mut model = fused.clone();
    let name = "model.layers.0.mlp.experts.gate_up_proj";
    let raw = model.tensor(name).clone();
    model.tensors.insert(format!("{name}.weight"), raw.clone());
    model.refused(&[name, "gate_up_proj.weight\" holds the same weights"]);
    // Neither.
    let mut model = experts.clone();
    model.tensors.remove(own);
    model.refused(&[own, "missing (nor is there model.layers.0.mlp.experts.gate_up_proj or "]);
    // An expert too few, rows or columns swapped, a rank too many.
    for shape in [[15, 96, 64], [16, 64, 96], [16, 96, 32], [8, 192, 64], [16, 48, 128]] {
        let mut model = fused.clone();
        let bytes = vec![0; shape.iter().product::<usize>() * 2];
        model.insert(name, RawDtype::BF16, &shape, bytes);
        model.refused(&[name, &format!("{shape:?} instead of BF16 [16, 96, 64]")]);
    }
    let mut model = fused.clone();
    model.insert(name, RawDtype::BF16, &[1, 16, 96, 64], raw.bytes.clone());
    model.refused(&[name, "[1, 16, 96, 64] instead of"]);
    // Numbers that are none.
    let mut model = fused.clone();
    model.insert(name, RawDtype::I16, &[16, 96, 64], raw.bytes);
    model.refused(&[name, "dtype I16; only BF16, F16, F32 and F8_E4M3"]);
    let mut model = fused;
    let at = ((3 * 96 + 48 + 2) * 64 + 5) * 2;
    model.tensor(name).bytes[at..at + 2].copy_from_slice(&0x7f80u16.to_le_bytes());
    model.unreadable(&[name, "expert 3: element 133 of data is not finite"]);
}

#[test]
fn vectors_may_be_rows_and_nothing_else_may() {
    let name = "model.layers.1.mlp.moe_statics.e_score_correction_bias";
    let model = Model::golden("ernie4_5_moe");
    let mut flat = model.clone();
    flat.tensor(name).shape = vec![8];
    assert_eq!(flat.read(), model.read());
    for shape in [vec![8, 1], vec![2, 4], vec![1, 1, 4, 2]] {
        let mut model = model.clone();
        model.tensor(name).shape = shape.clone();
        model.refused(&[name, &format!("{shape:?} instead of BF16 [8]")]);
    }
    let name = "model.layers.0.self_attn.q_proj.weight";
    let mut model = model;
    model.tensor(name).shape = vec![1, 64, 64];
    model.refused(&[name, "[1, 64, 64] instead of BF16 [64, 64]"]);
    let name = "model.layers.0.mlp.experts.gate_up_proj_bias";
    let mut model = Model::golden("gpt_oss");
    model.tensor(name).shape = vec![1, 8, 96];
    model.refused(&[name, "[1, 8, 96] instead of BF16 [8, 96]"]);
}

#[test]
fn biases_of_experts_have_one_type() {
    let name = "model.layers.1.mlp.experts.down_proj_bias";
    let mut model = Model::golden("gpt_oss");
    model.insert(name, RawDtype::F32, &[8, 64], vec![0; 8 * 64 * 4]);
    model.refused(&[name, "another dtype than other biases"]);
}
