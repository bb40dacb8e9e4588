use super::*;
use crate::toy::{decide, decide as plain, decide_on, toy};
use moepress_recipe::{BelowMinTokens, Coverage};
use moepress_stats::{Of, Quantity, Statistics};

fn stats() -> Statistics {
    let mut stats = Statistics::default();
    for layer in 0..2 {
        stats.add(Of::Layer(layer), Quantity::Tokens, vec![2.0, 4.0, 0.0, 1.0]).unwrap();
        for expert in 0..4 {
            let base = (layer * 40 + expert * 8) as f64;
            let values: Vec<f64> = (0..6).map(|atom| base + f64::from((atom * 5) % 6)).collect();
            for quantity in [Quantity::AtomEnergy, Quantity::AtomGradient, Quantity::AtomCoupled] {
                stats.add(Of::Expert(layer, expert), quantity, values.clone()).unwrap();
            }
        }
    }
    stats
}

fn widths(edits: &[Edit]) -> Vec<usize> {
    let spec = toy().after(edits).unwrap();
    spec.moe_layers()
        .flat_map(|(_, moe)| moe.experts.iter().map(moepress_model::Expert::width).collect::<Vec<_>>())
        .collect()
}

#[test]
fn keeps_exactly_the_share_and_loses_unreached_experts_first() {
    let decision = decide("prune_atoms: {ratio: 0.25, score: coupled}", &stats());
    let kept = widths(&decision.edits);
    assert_eq!(kept.iter().sum::<usize>(), 36);
    assert_eq!((kept[2], kept[6]), (0, 0));
    assert!(decision.notes[0].contains("0.2 1.2"), "{:?}", decision.notes);
    for (ratio, total) in [(0.0, 48), (0.3, 33), (0.99, 0)] {
        let decision = decide(&format!("prune_atoms: {{ratio: {ratio}}}"), &stats());
        assert_eq!(widths(&decision.edits).iter().sum::<usize>(), total);
    }
}

#[test]
fn ranking_scopes_hold_the_share_within_them() {
    let per_layer = widths(&decide("prune_atoms: {ratio: 0.5, ranking: per_layer}", &stats()).edits);
    assert_eq!(per_layer[..4].iter().sum::<usize>(), 12);
    let per_expert = widths(&decide("prune_atoms: {ratio: 0.5, ranking: per_expert}", &stats()).edits);
    assert_eq!(per_expert, [3; 8]);
    let aligned = widths(&decide("prune_atoms: {ratio: 0.4, align: 4}", &stats()).edits);
    assert!(aligned.iter().all(|w| [0, 2, 4, 6].contains(w)) && aligned.iter().sum::<usize>() <= 28);
}
#[test]
fn the_policy_for_too_few_tokens_decides_who_loses_atoms() {
    // Tokens 2, 4, 0, 1 in both layers.
    let decide = |yaml: &str, min_tokens, below| {
        let decision = decide_on(&toy(), yaml, &stats(), Coverage { min_tokens, below });
        decision.map(|decision| (widths(&decision.edits), decision.notes))
    };
    let (kept, notes) = decide("prune_atoms: {ratio: 0.5}", 2, BelowMinTokens::Keep).unwrap();
    assert_eq!(kept.iter().sum::<usize>(), 24);
    assert_eq!([kept[2], kept[3], kept[6], kept[7]], [6; 4]);
    assert!(notes.len() >= 2 && notes[..2].iter().all(|note| note.contains("kept all their atoms")));
    let (kept, _) = decide("prune_atoms: {ratio: 0.5}", 2, BelowMinTokens::Prune).unwrap();
    assert_eq!(kept, [6, 6, 0, 0, 6, 6, 0, 0]);
    let (ranked, notes) = decide("prune_atoms: {ratio: 0.5}", 2, BelowMinTokens::Rank).unwrap();
    assert_eq!(ranked, widths(&plain("prune_atoms: {ratio: 0.5}", &stats()).edits));
    assert!(notes[1].contains("0.3 1.3"), "{notes:?}");
    for (yaml, place) in [
        ("prune_atoms: {ratio: 0.6}", "for 19 atoms, but 24"),
        ("prune_atoms: {ratio: 0.6, ranking: per_layer}", "for 9 atoms in layer 0, but 12"),
        ("prune_atoms: {ratio: 0.1, ranking: per_expert}", "for 5 atoms in expert 2 of layer 0, but 6"),
    ] {
        let error = decide(yaml, 2, BelowMinTokens::Keep).unwrap_err();
        assert!(error.starts_with("r.yaml:4:") && error.contains(place), "{error}");
    }
}

#[test]
fn every_expert_keeps_its_floor() {
    let kept = |keys: &str| widths(&decide(&format!("prune_atoms: {{ratio: 0.5, {keys}}}"), &stats()).edits);
    // Without a floor 2 unreached experts and the least salient have nothing left.
    assert!(kept("floor: 0").contains(&0));
    let floored = kept("floor: 2");
    assert_eq!(floored.iter().sum::<usize>(), 24);
    assert!(floored.iter().all(|&width| width >= 2) && (floored[2], floored[6]) == (2, 2), "{floored:?}");
    // A floor is met in whole runs.
    assert!(kept("floor: 1, align: 3").iter().all(|&width| width >= 3));
    let error = decide_on(&toy(), "prune_atoms: {ratio: 0.5, floor: 4}", &stats(), Coverage::default());
    assert!(error.unwrap_err().contains("room for 24 atoms, but 32 must stay"));
}

#[test]
fn emptied_experts_stay_or_leave_the_router() {
    let decide = |keys: &str| decide(&format!("prune_atoms: {{ratio: 0.5{keys}}}"), &stats());
    let (kept, dropped) = (decide(""), decide(", empty: drop"));
    let spec = toy().after(&dropped.edits).unwrap();
    let experts = |spec: &ModelSpec| spec.moe_layers().map(|(_, moe)| moe.experts.len()).collect::<Vec<_>>();
    let empty = widths(&kept.edits).iter().filter(|&&width| width == 0).count();
    assert!(empty >= 3, "{:?}", widths(&kept.edits));
    assert!(kept.notes.iter().any(|note| note.contains("stay in the router and contribute zero")));
    // Layer 0 loses all it may: two rows are what its router chooses.
    assert_eq!(experts(&spec), [2, 3]);
    assert_eq!(spec.moe(0).unwrap().router.len(), 2);
    assert!(
        dropped.notes.iter().any(|note| note.starts_with("3 experts have no atoms left and were removed"))
    );
    let left = toy().after(&kept.edits).unwrap();
    let atoms = |spec: &ModelSpec| -> usize {
        spec.moe_layers().flat_map(|(_, moe)| moe.experts.iter().map(moepress_model::Expert::width)).sum()
    };
    assert_eq!(atoms(&spec), atoms(&left));
    assert!(crate::toy::stage("prune_atoms: {ratio: 0.5, empty: drop}").may_reroute());
    assert!(!crate::toy::stage("prune_atoms: {ratio: 0.5}").may_reroute());
}

#[test]
fn the_order_of_atoms_means_nothing() {
    // Distinct scores, so that no tie depends on the order.
    let order = [3, 5, 0, 1, 4, 2];
    let (mut straight, mut shuffled) = (Statistics::default(), Statistics::default());
    for layer in 0..2 {
        let of = Of::Layer(layer);
        straight.add(of, Quantity::Tokens, vec![2.0, 4.0, 0.0, 1.0]).unwrap();
        shuffled.add(of, Quantity::Tokens, vec![2.0, 4.0, 0.0, 1.0]).unwrap();
        for expert in 0..4 {
            let values: Vec<f64> =
                (0..6).map(|a| f64::from(1 + (a * 31 + expert * 17 + layer as i32 * 7) % 53)).collect();
            let moved: Vec<f64> = order.iter().map(|&atom| values[atom]).collect();
            straight.add(Of::Expert(layer, expert as usize), Quantity::AtomCoupled, values).unwrap();
            shuffled.add(Of::Expert(layer, expert as usize), Quantity::AtomCoupled, moved).unwrap();
        }
    }
    let [straight, shuffled] = [straight, shuffled]
        .map(|stats| decide("prune_atoms: {ratio: 0.4, ranking: per_layer}", &stats).edits);
    assert_eq!(straight.len(), shuffled.len());
    for (straight, shuffled) in straight.iter().zip(&shuffled) {
        let (Edit::KeepAtoms { atoms, expert, .. }, Edit::KeepAtoms { atoms: moved, .. }) =
            (straight, shuffled)
        else {
            panic!("{straight:?}")
        };
        let mut back: Vec<usize> = moved.iter().map(|&atom| order[atom]).collect();
        back.sort_unstable();
        assert!(*expert == 2 || back == *atoms, "{straight:?} {shuffled:?}");
    }
}
