//! Manifests that no run has written.

use super::carried::compact;
use super::*;
use crate::mutate::mutated;

/// Paths to all values, one of those that differ in indices alone.
fn paths(value: &Value, at: &str, found: &mut BTreeMap<String, String>) {
    let shape: String = at.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    if found.contains_key(&shape) {
        return;
    }
    found.insert(shape, at.to_owned());
    let child = |key: &str| format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| paths(value, &child(key), found)),
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(index, value)| paths(value, &child(&index.to_string()), found));
        }
        _ => {}
    }
}

#[test]
fn any_value_in_any_place_is_read_or_refused() {
    let values = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(1u64 << 40),
        json!(u64::MAX),
        json!(0.5),
        json!(1e300),
        json!(""),
        json!("int4-g32"),
        json!("../x"),
        json!([]),
        json!([0, 0]),
        json!({}),
    ];
    let (mut state, mut opened, mut refused) = (5, 0, 0);
    for name in ["qwen3_moe", "deepseek_v3", "gpt_oss"] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        compact(&Checkpoint::open(&files(), &golden(name)).unwrap(), false, &out);
        let bytes = fs::read(out.join("moepress.json")).unwrap();
        let whole: Value = serde_json::from_slice(&bytes).unwrap();
        let mut places = BTreeMap::new();
        paths(&whole, "", &mut places);
        assert!(places.len() > 60, "{}", places.len());
        let mut open = |manifest: &[u8]| {
            fs::write(out.join("moepress.json"), manifest).unwrap();
            match Checkpoint::open(&files(), &out) {
                // Whatever the model is said to be: its weights are read or refused.
                Ok(checkpoint) => drop(read(&checkpoint).inspect(|_| opened += 1)),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::BadInput, "{error}");
                    assert!(!error.to_string().contains('\n'), "{error}");
                    refused += 1;
                }
            }
        };
        for (place, value) in places.values().flat_map(|place| values.iter().map(move |value| (place, value)))
        {
            let mut manifest = whole.clone();
            *manifest.pointer_mut(place).unwrap() = value.clone();
            open(manifest.to_string().as_bytes());
        }
        (0..300).for_each(|_| open(&mutated(&bytes, &mut state)));
    }
    assert!(opened > 100 && refused > 1000, "{opened} opened, {refused} refused");
}
