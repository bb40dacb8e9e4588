//! FP8 and MXFP4 blocks against references that know nothing of the decoders.

use super::*;
use moepress_model::{Part, Projection};

/// The nearest bf16, ties to even, by the bits; `x` is exact and far from the largest.
fn bf16(x: f64) -> f32 {
    let bits = (x as f32).to_bits();
    let up = u32::from(bits & 0xffff > 0x8000 || (bits & 0xffff == 0x8000 && bits & 0x1_0000 != 0));
    f32::from_bits(((bits >> 16) + up) << 16)
}

fn e4m3(code: u8) -> f64 {
    let (sign, exponent, mantissa) = (code >> 7, i32::from(code >> 3) & 15, f64::from(code & 7) / 8.0);
    let magnitude = match exponent {
        0 => mantissa * (2f64).powi(-6),
        _ => (1.0 + mantissa) * (2f64).powi(exponent - 7),
    };
    if sign == 1 { -magnitude } else { magnitude }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn scales(state: &mut u64, count: usize) -> Vec<f32> {
    (0..count).map(|_| f32::from_bits(0x3c00_0000 | (random(state) as u32 & 0x01ff_ffff))).collect()
}

/// All codes but the two that are NaN, in random order.
fn codes(state: &mut u64, count: usize) -> Vec<u8> {
    let code = |_| match random(state) as u8 {
        0x7f | 0xff => 0x80,
        code => code,
    };
    (0..count).map(code).collect()
}

/// Gives every matrix of attention and experts FP8 blocks; returns what they stand for, by name.
fn fp8(model: &mut Model) -> BTreeMap<String, Vec<f32>> {
    let mut expected = BTreeMap::new();
    let mut state = 1;
    let names: Vec<String> = model.tensors.keys().filter(|name| name.contains("_proj")).cloned().collect();
    for name in names {
        let &[rows, cols] = &model.tensors[&name].shape[..] else { unreachable!() };
        let (down, across) = (rows.div_ceil(128), cols.div_ceil(128));
        let (codes, scales) = (codes(&mut state, rows * cols), scales(&mut state, down * across));
        let weight = |i: usize| {
            let scale = scales[i / cols / 128 * across + i % cols / 128];
            bf16(e4m3(codes[i]) * f64::from(scale))
        };
        expected.insert(name.clone(), (0..rows * cols).map(weight).collect());
        model.insert(&format!("{name}_scale_inv"), RawDtype::F32, &[down, across], floats(&scales));
        model.insert(&name, RawDtype::F8_E4M3, &[rows, cols], codes);
    }
    expected
}

/// Sizes are those of the files, and so many tensors are said to have that format.
fn counted_on_disk(model: &Model, checkpoint: &Checkpoint, format: &str, count: usize) {
    let tensors = checkpoint.spec().tensors();
    let found: u64 = tensors.iter().map(|&tensor| checkpoint.disk_bytes(tensor)).sum();
    assert_eq!(found, model.tensors.values().map(|raw| raw.bytes.len() as u64).sum::<u64>());
    assert!(found < checkpoint.spec().total_bytes());
    let formats = tensors.iter().filter_map(|&tensor| checkpoint.disk_format(tensor));
    assert_eq!(formats.filter(|found| found == format).count(), count);
}

const Q: &str = "model.layers.0.self_attn.q_proj.weight";
const Q_SCALES: &str = "model.layers.0.self_attn.q_proj.weight_scale_inv";

#[test]
fn fp8_blocks_are_codes_times_scales() {
    let mut model = Model::new(qwen(130, 257), noise);
    let expected = fp8(&mut model);
    model.set("quantization_config", json!({"quant_method": "fp8", "weight_block_size": [128, 128]}));
    let (_dir, checkpoint) = model.open();
    let checkpoint = checkpoint.unwrap();
    assert_eq!(checkpoint.notes(), ["weights are stored in FP8 blocks and are read as bf16"]);
    counted_on_disk(&model, &checkpoint, "fp8", 2 * (4 + 3 * 3));
    let all = read(&checkpoint).unwrap();
    let family = family(Config(&model.config)).unwrap();
    let mut seen = 0;
    for (&tensor, stored) in &all {
        assert_eq!(stored.format().to_string(), "bf16", "{tensor}");
        if let Some(expected) = expected.get(&(family.places)(tensor)[0].name) {
            assert_eq!(&stored.to_f32(), expected, "{tensor}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2 * (4 + 3 * 3));
}

#[test]
fn every_fp8_code_and_bf16_scales() {
    let mut model = Model::new(qwen(16, 4), noise);
    let codes: Vec<u8> = (0..=255).map(|code| if code & 0x7f == 0x7f { 0 } else { code }).collect();
    model.insert(Q, RawDtype::F8_E4M3, &[16, 16], codes.clone());
    model.insert(Q_SCALES, RawDtype::BF16, &[1, 1], vec![0x80, 0x3f]);
    let q = Tensor::Layer(0, Part::Attention(moepress_model::Map::Query));
    let values = model.read()[&q].to_f32();
    for (code, value) in codes.iter().zip(values) {
        assert_eq!(f64::from(value), e4m3(*code), "{code:#x}");
    }
    assert_eq!([0x7e, 0x08, 0x01, 0x80].map(e4m3), [448.0, 2f64.powi(-6), 2f64.powi(-9), -0.0]);
    for code in [0x7f, 0xff] {
        let mut model = model.clone();
        model.tensor(Q).bytes[37] = code;
        model.unreadable(&[Q, "element 37 is NaN"]);
    }
}

#[test]
fn fp8_blocks_of_fused_experts() {
    let mut model = Model::new(qwen(130, 70), noise);
    let mut state = 5;
    let (codes, scales) = (codes(&mut state, 3 * 140 * 130), scales(&mut state, 3 * 2 * 2));
    let (name, scale_name) =
        ("model.layers.1.mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.gate_up_proj_scale_inv");
    model.insert(name, RawDtype::F8_E4M3, &[3, 140, 130], codes.clone());
    model.insert(scale_name, RawDtype::F32, &[3, 2, 2], floats(&scales));
    let own = |expert: usize, up: &str| format!("model.layers.1.mlp.experts.{expert}.{up}_proj.weight");
    for expert in 0..3 {
        model.tensors.remove(&own(expert, "gate"));
        model.tensors.remove(&own(expert, "up"));
    }
    let all = model.read();
    for (i, code) in codes.iter().enumerate() {
        let (expert, row, col) = (i / 130 / 140, i / 130 % 140, i % 130);
        let scale = scales[expert * 4 + row / 128 * 2 + col / 128];
        let projection = if row < 70 { Projection::Gate } else { Projection::Up };
        let part = Part::Expert { expert, segment: 0, projection };
        if row % 7 == 0 && col % 5 == 0 || (126..130).contains(&col) {
            let mut line = vec![0.0; 130];
            all[&Tensor::Layer(1, part)].row_to_f32(row % 70, &mut line);
            assert_eq!(line[col], bf16(e4m3(*code) * f64::from(scale)), "{expert} {row} {col}");
        }
    }
    model.tensor(scale_name).shape = vec![3, 4, 1];
    model.refused(&[scale_name, "[3, 4, 1] instead of F32 [3, 2, 2]"]);
}

#[test]
fn fp8_blocks_that_are_none() {
    let mut model = Model::new(qwen(16, 4), noise);
    fp8(&mut model);
    let change = |change: fn(&mut Model)| {
        let mut model = model.clone();
        change(&mut model);
        model
    };
    change(|m| drop(m.tensors.remove(Q_SCALES))).refused(&[Q_SCALES, "missing"]);
    change(|m| m.insert(Q_SCALES, RawDtype::F32, &[1], vec![0; 4]))
        .refused(&[Q_SCALES, "instead of F32 [1, 1]"]);
    change(|m| m.insert(Q_SCALES, RawDtype::F32, &[2, 1], vec![0; 8])).refused(&[Q_SCALES, "[2, 1]"]);
    change(|m| m.insert(Q_SCALES, RawDtype::U8, &[1, 1], vec![1])).refused(&[Q_SCALES, "F32 or BF16"]);
    change(|m| m.tensor(Q).shape = vec![256]).refused(&[Q, "[256] instead of"]);
    change(|m| m.insert("model.norm.weight", RawDtype::F8_E4M3, &[16], vec![0; 16]))
        .refused(&["model.norm.weight", "only a matrix"]);
    change(|m| m.insert(Q, RawDtype::F8_E5M2, &[16, 16], vec![0; 256])).refused(&[Q, "dtype F8_E5M2"]);
    // Scales of a matrix that has none.
    let plain = Model::new(qwen(16, 4), noise).tensors[Q].clone();
    let mut other = model.clone();
    other.tensors.insert(Q.into(), plain);
    other.refused(&[Q_SCALES, "is not a tensor of the qwen3_moe model"]);
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let mut other = model.clone();
        other.tensor(Q_SCALES).bytes = floats(&[scale]);
        other.unreadable(&[Q_SCALES, &format!("element 0 is {scale}; a scale must be a number above 0")]);
    }
    let mut other = model.clone();
    other.tensor(Q_SCALES).bytes = floats(&[1e38]);
    other.tensor(Q).bytes.fill(1);
    other.tensor(Q).bytes[9] = 0x7e;
    other.unreadable(&[Q, "element 9 of data is not finite"]);
    for (key, value) in
        [("weight_block_size", json!([64, 64])), ("fmt", json!("e5m2")), ("quant_method", json!("gptq"))]
    {
        let mut other = model.clone();
        let mut config = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
        config[key] = value;
        other.set("quantization_config", config);
        other.refused(&["config.json", &format!("quantization_config.{key}")]);
    }
}

const E2M1: [f64; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// A small gpt-oss whose experts are in MXFP4 blocks.
fn gpt_oss() -> Model {
    let golden = Model::golden("gpt_oss");
    let mut model = golden;
    model.set("intermediate_size", 32).set("quantization_config", json!({"quant_method": "mxfp4"}));
    let mut state = 9;
    for layer in 0..2 {
        let at = format!("model.layers.{layer}.mlp.experts");
        for (name, rows, cols) in [("gate_up_proj", 64, 64), ("down_proj", 64, 32)] {
            model.tensors.remove(&format!("{at}.{name}")).unwrap();
            let blocks = (0..8 * rows * cols / 2).map(|_| random(&mut state) as u8).collect();
            // Every scale that leaves all codes within the range of bf16.
            let scales = (0..8 * rows * cols / 32).map(|i| (i % 253) as u8).collect();
            model.insert(&format!("{at}.{name}_blocks"), RawDtype::U8, &[8, rows, cols / 32, 16], blocks);
            model.insert(&format!("{at}.{name}_scales"), RawDtype::U8, &[8, rows, cols / 32], scales);
        }
        let bias = noise(&[8, 64]);
        model.tensors.insert(format!("{at}.gate_up_proj_bias"), bias);
    }
    model
}

const BLOCKS: &str = "model.layers.1.mlp.experts.gate_up_proj_blocks";
const SCALES: &str = "model.layers.1.mlp.experts.gate_up_proj_scales";

#[test]
fn mxfp4_blocks_are_codes_times_powers_of_two() {
    let model = gpt_oss();
    let (_dir, checkpoint) = model.open();
    let checkpoint = checkpoint.unwrap();
    assert_eq!(checkpoint.notes(), ["weights are stored in MXFP4 blocks and are read as bf16"]);
    counted_on_disk(&model, &checkpoint, "mxfp4", 2 * 8 * 3);
    let all = read(&checkpoint).unwrap();
    let mut seen = [false; 16];
    let mut weight = |name: &str, expert: usize, row: usize, col: usize, cols: usize| {
        let at = (expert * 64 + row) * cols + col;
        let byte = model.tensors[&format!("model.layers.1.mlp.experts.{name}_blocks")].bytes[at / 2];
        let code = if at.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
        seen[usize::from(code)] = true;
        let scale = model.tensors[&format!("model.layers.1.mlp.experts.{name}_scales")].bytes[at / 32];
        E2M1[usize::from(code)] * 2f64.powi(i32::from(scale) - 127)
    };
    for expert in 0..8 {
        let part =
            |projection| all[&Tensor::Layer(1, Part::Expert { expert, segment: 0, projection })].to_f32();
        let (gate, up, down) = (part(Projection::Gate), part(Projection::Up), part(Projection::Down));
        for (row, col) in (0..64).flat_map(|row| (0..64).map(move |col| (row, col))) {
            let found = if row % 2 == 0 { gate[row / 2 * 64 + col] } else { up[row / 2 * 64 + col] };
            assert_eq!(f64::from(found), weight("gate_up_proj", expert, row, col, 64));
            if col < 32 {
                assert_eq!(f64::from(down[row * 32 + col]), weight("down_proj", expert, row, col, 32));
            }
        }
    }
    assert_eq!(seen, [true; 16]);
}

#[test]
fn mxfp4_blocks_that_are_none() {
    let change = |change: fn(&mut Model)| {
        let mut model = gpt_oss();
        change(&mut model);
        model
    };
    change(|m| drop(m.tensors.remove(SCALES))).refused(&[SCALES, "missing"]);
    change(|m| drop(m.tensors.remove(BLOCKS))).refused(&[
        "model.layers.1.mlp.experts.gate_up_proj\"",
        "nor is there",
        "gate_up_proj_blocks",
    ]);
    change(|m| m.tensor(SCALES).shape = vec![8, 2, 64])
        .refused(&[SCALES, "[8, 2, 64] instead of U8 [8, 64, 2]"]);
    change(|m| m.tensor(BLOCKS).shape = vec![8, 64, 32]).refused(&[BLOCKS, "instead of U8 [8, 64, 2, 16]"]);
    change(|m| m.tensor(BLOCKS).dtype = RawDtype::I8).refused(&[BLOCKS, "I8 [8, 64, 2, 16]"]);
    change(|m| {
        let whole = noise(&[8, 64, 64]);
        m.tensors.insert("model.layers.1.mlp.experts.gate_up_proj".into(), whole);
    })
    .refused(&["gate_up_proj\"", "gate_up_proj_blocks\" holds the same weights"]);
    // 48 columns are one block and a half.
    let mut model = Model::golden("gpt_oss");
    model.tensors.remove("model.layers.0.mlp.experts.down_proj");
    model.insert(
        "model.layers.0.mlp.experts.down_proj_blocks",
        RawDtype::U8,
        &[8, 64, 1, 24],
        vec![0; 8 * 64 * 24],
    );
    model.refused(&["down_proj_blocks", "rows of [64, 48] are not whole blocks of 32"]);
    // Row 5 of the up projection of expert 3 is row 11 of its block.
    let at = (3 * 64 + 11) * 2 + 1;
    let mut model = gpt_oss();
    model.tensor(SCALES).bytes[at] = 255;
    model.unreadable(&[SCALES, "expert 3: element 11 is NaN (255)"]);
    for (scale, code, fits) in
        [(254, 3, true), (254, 4, false), (253, 5, true), (253, 6, false), (252, 7, true), (254, 15, false)]
    {
        let mut model = gpt_oss();
        model.tensor(SCALES).bytes[at] = scale;
        model.tensor(BLOCKS).bytes[at * 16..][..16].fill(code);
        match fits {
            true => drop(model.read()),
            false => model.unreadable(&[BLOCKS, "expert 3: element 352 of data is not finite"]),
        }
    }
}
