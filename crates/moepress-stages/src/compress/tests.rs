//! The budget on the toy model.

use super::*;
use crate::evidence::assumed;
use crate::toy::{stage, toy};
use moepress_model::Edit;
use moepress_quant::formats::{Rung, half_power};
use moepress_quant::{Code, Format, Grouped};
use moepress_recipe::{BelowMinTokens, Coverage};
use moepress_stats::{Ladders, Of, Quantity, RoundingCosts, RunLadder, Statistics};

fn rung(exponent: i32, bytes: u64, cost: f64) -> Rung {
    let format = Grouped::new(Code::Int(4), Grouped::ROW, true);
    Rung { format, step: half_power(exponent), bytes, cost }
}

/// Experts of two runs of three atoms (48 bytes a matrix); the second matters a tenth as much, and expert 3 a hundredth of
/// the others.
fn evidence() -> (Statistics, RoundingCosts) {
    let (mut stats, mut ladders) = (Statistics::default(), Ladders::default());
    for layer in 0..2 {
        stats.add(Of::Layer(layer), Quantity::Tokens, vec![9.0; 4]).unwrap();
        for expert in 0..4 {
            let run = |atoms: [usize; 3], weight: f64| RunLadder {
                atoms: atoms.to_vec(),
                dropped: 9.0 * weight,
                rungs: [(); 3].map(|()| {
                    vec![rung(-4, 12, 0.1 * weight), rung(-2, 9, 0.4 * weight), rung(0, 6, 1.6 * weight)]
                }),
            };
            let weight = if expert == 3 { 0.01 } else { 1.0 };
            ladders.runs.insert((layer, expert), vec![run([5, 0, 2], weight), run([1, 3, 4], 0.1 * weight)]);
        }
    }
    (stats, RoundingCosts { ladders, ..RoundingCosts::default() })
}

fn decide(yaml: &str, coverage: Coverage) -> Result<Decision, String> {
    let (spec, (stats, costs)) = (toy(), evidence());
    let stage = stage(yaml);
    stage.check(&spec).map_err(|e| e.to_string())?;
    stage
        .decide(&Evidence { costs: &costs, coverage, ..Evidence::new(&spec, &stats) })
        .map_err(|e| e.to_string())
}

#[test]
fn the_planned_size_keeps_to_the_budget() {
    let bytes = |ratio: f64| {
        let decision = decide(
            &format!("compress: {{ratio: {ratio}, classes: [experts], align: 3}}"),
            Coverage::default(),
        );
        let spec = toy().after(&decision.unwrap().edits).unwrap();
        spec.bytes_by_class()[&Class::Experts].1
    };
    // 8 experts of 2 runs of 3 matrices of 48 bytes.
    for ratio in [0.05, 0.1, 0.15, 0.2, 0.3, 0.6] {
        let (found, allowed) = (bytes(ratio), ratio * 2304.0);
        assert!(found as f64 <= allowed && found as f64 > allowed - 110.0, "{ratio}: {found} of {allowed}");
    }
    assert_eq!(bytes(1.0), 2304);
}

#[test]
fn what_matters_least_goes_first_and_formats_fall() {
    let decision =
        decide("compress: {ratio: 0.12, classes: [experts], align: 3}", Coverage::default()).unwrap();
    let kept = |expert| {
        decision.edits.iter().find_map(|edit| match edit {
            Edit::KeepAtoms { layer: 0, expert: e, atoms } if *e == expert => Some(atoms.clone()),
            _ => None,
        })
    };
    assert_eq!(kept(0).unwrap()[..3], [5, 0, 2]);
    assert!(kept(3).unwrap().len() < kept(0).unwrap().len());
    let refits = decision.edits.iter().filter(|edit| matches!(edit, Edit::Refit { .. })).count();
    assert!(refits > 0);
    let steps = |segment| {
        decision.edits.iter().find_map(|edit| match edit {
            Edit::Encode {
                tensor: Tensor::Layer(0, Part::Expert { expert: 0, segment: s, projection: Projection::Gate }),
                solver: moepress_model::Solver::Within { step, .. },
                ..
            } if *s == segment => Some(*step),
            _ => None,
        })
    };
    assert!(steps(1).is_none_or(|second| steps(0).unwrap() < second));
    let again = decide("compress: {ratio: 0.12, classes: [experts], align: 3}", Coverage::default()).unwrap();
    assert_eq!(again, decision);
}

#[test]
fn runs_that_are_alike_are_one_segment() {
    let (spec, (stats, mut costs)) = (toy(), evidence());
    for runs in costs.ladders.runs.values_mut() {
        let first = runs[0].clone();
        runs[1] = RunLadder { atoms: runs[1].atoms.clone(), ..first };
    }
    let evidence = Evidence { costs: &costs, ..Evidence::new(&spec, &stats) };
    let edits =
        stage("compress: {ratio: 0.1875, classes: [experts], align: 3}").decide(&evidence).unwrap().edits;
    let after = spec.after(&edits).unwrap();
    assert_eq!(after.moe(0).unwrap().experts[0].segments.len(), 1);
    assert_eq!(after.moe(0).unwrap().experts[0].width(), 6);
}

#[test]
fn every_class_takes_part_in_a_plan() {
    let spec = toy();
    for yaml in ["compress: {bpw: 6}", "compress: {budget: 2200}", "compress: {ratio: 0.4}"] {
        let stage = stage(yaml);
        stage.check(&spec).unwrap();
        let assumed = assumed(&spec, &stage.needs(), &[]).unwrap();
        let evidence = assumed.evidence(&spec, &[]);
        let after = spec.after(&stage.decide(&evidence).unwrap().edits).unwrap();
        assert!(after.total_bytes() < spec.total_bytes(), "{yaml}");
        let plain = |tensor: &Tensor| matches!(after.format(*tensor), Some(Format::Plain(_)));
        let rounded = after.tensors().into_iter().filter(|tensor| !plain(tensor));
        assert!(rounded.map(Tensor::class).collect::<std::collections::BTreeSet<_>>().len() > 1, "{yaml}");
    }
}

#[test]
fn coverage_pins_and_drops() {
    let decided = |below| {
        let coverage = Coverage { min_tokens: 100, below };
        decide("compress: {ratio: 0.99, classes: [experts], align: 3}", coverage)
    };
    assert!(decided(BelowMinTokens::Keep).unwrap_err().contains("raise it"));
    let dropped = decided(BelowMinTokens::Prune).unwrap();
    let empty = |edit: &&Edit| matches!(edit, Edit::KeepAtoms { atoms, .. } if atoms.is_empty());
    assert_eq!(dropped.edits.iter().filter(empty).count(), 8);
    assert!(dropped.notes.iter().any(|note| note.contains("were dropped")), "{:?}", dropped.notes);
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |yaml: &str| decide(yaml, Coverage::default()).unwrap_err();
    assert!(refused("compress: {budget: 700, classes: [experts]}").contains("smallest choices"));
    assert!(refused("compress: {ratio: 0.5, classes: [dense_mlp]}").contains("no matrices of these classes"));
    let cut = toy().after(&[Edit::CutSegments { layer: 0, expert: 0, widths: vec![2, 4] }]).unwrap();
    let error = stage("compress: {ratio: 0.5}").check(&cut).unwrap_err().to_string();
    assert!(error.contains("cut into segments"), "{error}");
}
