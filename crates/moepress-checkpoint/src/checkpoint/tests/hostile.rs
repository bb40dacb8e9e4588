//! Configurations and weights that no model has; the numbers are rows of the table of malformed inputs.

use super::*;
use moepress_model::{Part, Projection};

const GATE: &str = "model.layers.1.mlp.experts.5.gate_proj.weight";
const ROUTER: &str = "model.layers.1.mlp.gate.weight";

#[test]
fn row_13_empty_weights() {
    for name in [GATE, ROUTER, "model.norm.weight", "model.embed_tokens.weight"] {
        let mut model = Model::golden("qwen3_moe");
        let shape = [&[0], &model.tensors[name].shape[1..]].concat();
        model.insert(name, RawDtype::BF16, &shape, vec![]);
        model.refused(&[name, &format!("BF16 {shape:?} instead of")]);
    }
}

#[test]
fn row_20_configurations() {
    let model = Model::golden("qwen3_moe");
    let dir = tempfile::tempdir().unwrap();
    let refused = |words: &[&str]| named(&Checkpoint::open(&files(), dir.path()).err().unwrap(), words);
    model.write(dir.path());
    let config = dir.path().join("config.json");
    fs::remove_file(&config).unwrap();
    refused(&["config.json: file: missing"]);
    for (text, reason) in
        [("", "EOF"), ("{", "EOF"), ("[]", "invalid type"), ("\"\\ud800\"", ""), ("{}{}", "trailing")]
    {
        fs::write(&config, text).unwrap();
        refused(&["config.json: JSON", reason]);
    }
    fs::write(&config, "{}").unwrap();
    refused(&["config.json: field `model_type`: is missing"]);
    fs::File::create(&config).unwrap().set_len(1 << 30).unwrap();
    refused(&["config.json: file: 1073741824 bytes, more than the 1048576"]);
    for value in [json!("16"), json!(1e9), json!(-1), json!(3.5), json!([16]), json!(0), json!(u64::MAX)] {
        let mut model = model.clone();
        model.config.remove("num_local_experts");
        model.set("num_experts", value.clone());
        model.refused(&["config.json: field `num_experts`: is ", "must be an integer from 1 to 16384"]);
    }
    let mut model = model;
    model.config.remove("num_local_experts");
    model.set("num_experts", Value::Null);
    model.refused(&["num_experts", "is missing"]);
}

#[test]
fn row_21_experts_too_few_or_too_many() {
    let model = Model::golden("qwen3_moe");
    let mut fewer = model.clone();
    fewer.tensors.retain(|name, _| !name.contains("layers.1.mlp.experts.15."));
    fewer.refused(&["model.layers.1.mlp.experts.15.gate_proj.weight", "missing"]);
    let mut more = model.clone();
    more.insert("model.layers.0.mlp.experts.16.up_proj.weight", RawDtype::BF16, &[1], vec![0; 2]);
    more.refused(&["model.layers.0.mlp.experts.16.up_proj.weight", "is not a tensor of the qwen3_moe model"]);
    let mut without = model;
    without.tensors.remove(ROUTER);
    without.refused(&[ROUTER, "missing"]);
}

#[test]
fn row_22_experts_per_token() {
    for value in [0, 17] {
        let mut model = Model::golden("qwen3_moe");
        model.set("num_experts_per_tok", value);
        model.refused(&["config.json: field `num_experts_per_tok", "must be an integer from 1 to 16"]);
    }
}

#[test]
fn row_23_sizes() {
    let cases = [
        ("hidden_size", json!(0), "hidden_size"),
        ("num_key_value_heads", json!(3), "4 query heads are not a multiple of 3"),
        ("num_key_value_heads", json!(5), "num_key_value_heads"),
        ("num_hidden_layers", json!(1_000_000_000), "num_hidden_layers"),
        ("num_hidden_layers", json!(u64::MAX), "num_hidden_layers"),
        ("head_dim", json!(31), "partial_rotary_factor"),
        ("vocab_size", json!(1u64 << 40), "vocab_size"),
    ];
    for (key, value, word) in cases {
        let mut model = Model::golden("qwen3_moe");
        model.set(key, value);
        model.refused(&["config.json", word]);
    }
}

#[test]
fn row_24_shapes() {
    for (name, shape) in [
        (ROUTER, vec![64, 16]),
        (ROUTER, vec![8, 128]),
        (GATE, vec![64, 48]),
        (GATE, vec![24, 128]),
        ("model.layers.0.self_attn.q_norm.weight", vec![2, 16]),
    ] {
        let mut model = Model::golden("qwen3_moe");
        model.tensor(name).shape = shape.clone();
        model.refused(&[name, &format!("BF16 {shape:?} instead of BF16 [")]);
    }
}

#[test]
fn row_25_weights_that_are_no_numbers() {
    for bits in [0x7fc0u16, 0xffc1, 0x7f80, 0xff80] {
        let mut model = Model::golden("qwen3_moe");
        model.tensor(GATE).bytes[2 * 777..][..2].copy_from_slice(&bits.to_le_bytes());
        model.unreadable(&["model.safetensors", GATE, "element 777 of data is not finite"]);
    }
    // Zeros and subnormals are numbers.
    for bits in [0u16, 0x8000, 0x0001] {
        let mut model = Model::golden("qwen3_moe");
        model.tensor(GATE).bytes = [bits.to_le_bytes(); 48 * 64].concat();
        let part = Part::Expert { expert: 5, segment: 0, projection: Projection::Gate };
        let value = f32::from_bits(u32::from(bits) << 16);
        assert_eq!(model.read()[&Tensor::Layer(1, part)].to_f32(), [value; 48 * 64]);
    }
}

#[test]
fn row_26_the_largest_numbers() {
    let mut model = Model::golden("qwen3_moe");
    model.tensor(GATE).bytes = [0x7f7fu16.to_le_bytes(); 48 * 64].concat();
    let part = Part::Expert { expert: 5, segment: 0, projection: Projection::Gate };
    let read = model.read()[&Tensor::Layer(1, part)].to_f32();
    assert!(read.iter().all(|w| *w == f32::from_bits(0x7f7f_0000)));
}

#[test]
fn row_28_pickles() {
    let model = Model::golden("mixtral");
    let (dir, _) = model.open();
    fs::rename(dir.path().join("model.safetensors"), dir.path().join("pytorch_model.bin")).unwrap();
    named(&Checkpoint::open(&files(), dir.path()).err().unwrap(), &["safetensors required"]);
}

/// What a configuration describes, with every number that is computed from it; or the field that is wrong.
fn describe(config: &Map<String, Value>) -> Result<u64, String> {
    let family = family(Config(config)).map_err(|e| e.to_string())?;
    let spec = (family.spec)(Config(config)).map_err(|e| e.to_string())?;
    spec.validate().map_err(|e| e.to_string())?;
    super::super::carried::extra_layers(Config(config)).map_err(|e| e.to_string())?;
    let places = spec.tensors().into_iter().flat_map(family.places).count();
    assert!(places >= spec.tensors().len());
    Ok(spec.total_bytes())
}

/// Every key of every family, with values that parsers break on: a description or the field that is wrong, never
/// a panic.
#[test]
fn any_value_of_any_key_is_read_or_refused() {
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(3),
        json!(0.3),
        json!(1e-320),
        json!(1e300),
        json!(u64::MAX),
        json!(1u64 << 53),
        json!("x"),
        json!(""),
        json!([]),
        json!([1, 1e308]),
        json!({}),
        json!({"rope_type": "yarn", "rope_theta": 1e300, "factor": 1e300}),
        json!({"quant_method": "fp8"}),
    ];
    let mut described = 0;
    for family in FAMILIES {
        let model = Model::golden(family.model_type);
        let mut try_with = |config: &Map<String, Value>| match describe(config) {
            Ok(bytes) => described += usize::from(bytes > 0),
            Err(line) => assert!(!line.is_empty() && !line.contains('\n'), "{line:?}"),
        };
        for key in model.config.keys().chain([&"quantization_config".to_owned(), &"rope_scaling".to_owned()])
        {
            for value in &values {
                let mut config = model.config.clone();
                config.insert(key.clone(), value.clone());
                try_with(&config);
            }
        }
        let Some(Value::Object(rope)) = model.config.get("rope_parameters") else { continue };
        for (key, value) in rope.keys().flat_map(|key| values.iter().map(move |value| (key, value))) {
            let mut config = model.config.clone();
            config["rope_parameters"][key] = value.clone();
            try_with(&config);
        }
    }
    assert!(described > 1000, "{described}");
}
