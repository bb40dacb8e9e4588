use crate::evidence::{Evidence, assumed};
use crate::toy::{decide_on, stage, toy};
use moepress_model::{Edit, Part, Tensor};
use moepress_quant::Format;
use moepress_recipe::Coverage;
use moepress_stats::{Of, Quantity, Statistics, WeightStatistics};

fn formats_of(edits: &[Edit]) -> Vec<(Tensor, String)> {
    let assigned = |edit: &Edit| match edit {
        Edit::Assign { tensor, format } => (*tensor, format.to_string()),
        other => panic!("{other:?}"),
    };
    edits.iter().map(assigned).collect()
}

/// Layer and index of the experts whose matrices all have that format.
fn experts_in(edits: &[Edit], format: &str) -> Vec<(usize, usize)> {
    let all = formats_of(edits);
    let place = |tensor: &Tensor| match tensor {
        Tensor::Layer(layer, Part::Expert { expert, .. }) => (*layer, *expert),
        other => panic!("{other}"),
    };
    let mut places: Vec<_> = all.iter().filter(|(_, f)| f == format).map(|(t, _)| place(t)).collect();
    let per_expert = places.len() / 3;
    places.dedup();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), per_expert, "an expert has one format");
    places
}

#[test]
fn every_method_keeps_the_budget_and_uses_it() {
    let spec = toy();
    for (method, formats) in [
        ("loss_aware", "ternary, int2, int4, int8"),
        ("mc_moe", "ternary, int2, int4, int8"),
        ("frequency", "int2, int8"),
        ("outlier", "int8, int2"),
        ("block", "int2, int8"),
    ] {
        for bytes in [2250, 2400, 2600, 2900] {
            let stage = stage(&format!(
                "assign_bits: {{method: {method}, bytes: {bytes}, formats: [{formats}], group: 32}}"
            ));
            stage.check(&spec).unwrap();
            let assumed = assumed(&spec, &stage.needs(), &[]).unwrap();
            let decision = stage.decide(&assumed.evidence(&spec, &[])).unwrap();
            let after = spec.after(&decision.edits).unwrap().total_bytes();
            // A layer is the least that `block` raises.
            let least = if method == "block" { 700 } else { 200 };
            assert!(after <= bytes && after + least > bytes, "{method}: {after} of {bytes}");
            assert!(decision.notes[0].contains(&format!("{after} of {bytes} bytes")), "{:?}", decision.notes);
        }
    }
    let message =
        stage("assign_bits: {bytes: 900, formats: [ternary]}").check(&spec).unwrap_err().to_string();
    assert!(message.contains("smallest formats need"), "{message}");
}

/// The budget under which `raised` experts of the toy, and no more, fit in int8 beside the others in int2.
fn budget(raised: u64) -> u64 {
    let bytes = |format: &str| {
        let format: Format = format.parse().unwrap();
        2 * format.stored_bytes(6, 8) + format.stored_bytes(8, 6)
    };
    let spec = toy();
    let experts: u64 = spec
        .tensors()
        .into_iter()
        .filter(|t| matches!(t, Tensor::Layer(_, Part::Expert { .. })))
        .map(|t| spec.stored_bytes(t))
        .sum();
    spec.total_bytes() - experts + raised * bytes("int8-g32") + (8 - raised) * bytes("int2-g32")
}

#[test]
fn the_most_used_of_every_layer_are_raised_first() {
    let mut stats = Statistics::default();
    stats.add(Of::Layer(0), Quantity::Tokens, vec![5.0, 9.0, 7.0, 7.0]).unwrap();
    stats.add(Of::Layer(1), Quantity::Tokens, vec![500.0, 0.0, 400.0, 600.0]).unwrap();
    let raised = |count: u64| {
        let bytes = budget(count);
        let yaml =
            format!("assign_bits: {{method: frequency, bytes: {bytes}, formats: [int2, int8], group: 32}}");
        let edits = decide_on(&toy(), &yaml, &stats, Coverage::default()).unwrap().edits;
        experts_in(&edits, "int8-g32")
    };
    assert_eq!(raised(0), []);
    assert_eq!(raised(1), [(0, 1)]);
    assert_eq!(raised(2), [(0, 1), (1, 3)]);
    assert_eq!(raised(3), [(0, 1), (0, 2), (1, 3)]);
    assert_eq!(raised(6), [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]);
}

#[test]
fn layers_that_turn_the_hidden_states_are_raised_first() {
    let mut stats = Statistics::default();
    for (layer, cosine) in [(0, 9.5), (1, 8.0)] {
        stats.add(Of::Layer(layer), Quantity::Cosine, vec![cosine]).unwrap();
    }
    let bytes = budget(5);
    let yaml = format!("assign_bits: {{method: block, bytes: {bytes}, formats: [int2, int8], group: 32}}");
    let decision = decide_on(&toy(), &yaml, &stats, Coverage::default()).unwrap();
    assert_eq!(experts_in(&decision.edits, "int8-g32"), [(1, 0), (1, 1), (1, 2), (1, 3)]);
    assert!(decision.notes[1].contains("1 of 2 layers in int8-g32"), "{:?}", decision.notes);
}

#[test]
fn matrices_with_outliers_are_raised_first() {
    let (spec, stats) = (toy(), Statistics::default());
    let experts: Vec<Tensor> = spec
        .tensors()
        .into_iter()
        .filter(|tensor| matches!(tensor, Tensor::Layer(_, Part::Expert { .. })))
        .collect();
    let weights = WeightStatistics {
        outliers: experts.iter().enumerate().map(|(i, &tensor)| (tensor, (i * 7 % 24) as f64)).collect(),
        ..Default::default()
    };
    let bytes = budget(0) + 2 * 36;
    let stage =
        stage(&format!("assign_bits: {{method: outlier, bytes: {bytes}, formats: [int8, int2], group: 32}}"));
    assert!(stage.needs().is_empty(), "no text");
    let evidence = Evidence { weights: &weights, ..Evidence::new(&spec, &stats) };
    let edits = stage.decide(&evidence).unwrap().edits;
    let raised: Vec<Tensor> =
        formats_of(&edits).into_iter().filter(|(_, f)| f == "int8-g32").map(|(t, _)| t).collect();
    // 7 i mod 24 is 23 at i = 17, 22 at 10.
    assert_eq!(raised, [experts[17], experts[10]]);
}

/// Tokens, gates and errors in int2 and int4 of the experts of both layers.
fn measured() -> Statistics {
    let mut stats = Statistics::default();
    for layer in 0..2 {
        stats.add(Of::Layer(layer), Quantity::Tokens, vec![4.0, 4.0, 8.0, 0.0]).unwrap();
        stats.add(Of::Layer(layer), Quantity::GateSum, vec![1.0, 4.0, 3.0, 0.0]).unwrap();
        for (expert, errors) in [[100.0, 1.0], [16.0, 1.0], [36.0, 25.0]].into_iter().enumerate() {
            for (format, error) in ["int2-g32", "int8-g32"].into_iter().zip(errors) {
                let of = Of::Rounded(layer, expert, format.parse().unwrap());
                stats.add(of, Quantity::OutputError, vec![error]).unwrap();
            }
        }
    }
    stats
}

#[test]
fn mc_moe_weighs_errors_by_usage() {
    let raised = |count: u64, keys: &str| {
        let bytes = budget(2 * count);
        let formats = "formats: [int8, int2], group: 32";
        let yaml = format!("assign_bits: {{method: mc_moe, bytes: {bytes}, {formats}{keys}}}");
        let edits = decide_on(&toy(), &yaml, &measured(), Coverage::default()).unwrap().edits;
        let raised = experts_in(&edits, "int8-g32");
        let of_layer = |wanted| raised.iter().filter(move |(l, _)| *l == wanted).map(|(_, e)| *e);
        assert!(of_layer(0).eq(of_layer(1)));
        of_layer(0).collect::<Vec<_>>()
    };
    // Raising saves φ w^1.5 (ε₂ − ε₈) = ¼ (⅛)^1.5 · 9 = 0.10, ¼ (½)^1.5 · 3 = 0.27, ½ (⅜)^1.5 · 1 = 0.11.
    assert_eq!(raised(1, ""), [1]);
    assert_eq!(raised(2, ""), [1, 2]);
    // The unreached expert saves nothing and is raised by nobody's choice.
    assert_eq!(raised(4, ""), [0, 1, 2]);
    // γ = 2 weighs 99, 15 and 11: 1.09, 1.33, 1.26. Without w: 24.75, 3.75, 5.5.
    assert_eq!(raised(1, ", gamma: 2"), [1]);
    assert_eq!(raised(1, ", gamma: 2, beta: 0"), [0]);
    assert_eq!(raised(2, ", gamma: 2, beta: 0"), [0, 2]);
    assert_eq!(raised(1, ", alpha: 0, beta: 0"), [0]);
}

#[test]
fn mc_moe_can_demand_formats() {
    let decide = |bytes: u64, keys: &str| {
        let formats = "formats: [int2, int8], group: 32";
        let yaml = format!("assign_bits: {{method: mc_moe, bytes: {bytes}, {formats}, {keys}}}");
        decide_on(&toy(), &yaml, &measured(), Coverage::default()).map(|decision| decision.edits)
    };
    let edits = decide(budget(8), "at_least_one: [int2]").unwrap();
    // Only the unreached expert costs nothing in int2, and it is there anyhow.
    assert_eq!(experts_in(&edits, "int2-g32"), [(0, 3), (1, 3)]);
    let error = decide(budget(0), "at_least_one: [int8]").unwrap_err();
    assert!(error.contains("bytes: layer 0: leaves no room for an expert in each"), "{error}");
}
