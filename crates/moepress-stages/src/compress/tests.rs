//! The budget on the toy model.

use super::*;
use crate::evidence::assumed;
use crate::toy::{stage, toy};
use moepress_quant::formats::{Rung, half_power};
use moepress_quant::{Code, Format, Grouped};
use moepress_recipe::{BelowMinTokens, Coverage};
use moepress_stats::{Ladders, Merger, Of, Quantity, RoundingCosts, RunLadder, Statistics};

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

/// Two experts with these runs as one, at an extra cost of each run.
fn merger(first: &[RunLadder], second: &[RunLadder], mean: f64) -> Merger {
    let both = |(a, b): (&RunLadder, &RunLadder)| {
        let add = |(a, b): (&Rung, &Rung)| Rung { cost: a.cost + b.cost, ..*a };
        let rungs = [0, 1, 2].map(|at| a.rungs[at].iter().zip(&b.rungs[at]).map(add).collect());
        RunLadder { atoms: a.atoms.clone(), dropped: a.dropped + b.dropped, rungs }
    };
    let runs: Vec<RunLadder> = first.iter().zip(second).map(both).collect();
    Merger { weights: [0.25, 0.75], mean: vec![mean; runs.len()], runs }
}

#[test]
fn experts_that_are_alike_become_one() {
    let (spec, (stats, mut costs)) = (toy(), evidence());
    let runs = costs.ladders.runs.clone();
    let pair = |a: usize, b: usize, mean: f64| ((0, a, b), merger(&runs[&(0, a)], &runs[&(0, b)], mean));
    costs.ladders.mergers.extend([pair(0, 2, 1e-4), pair(0, 1, 3.0), pair(1, 2, 0.2)]);
    let decide = |keys: &str, coverage: Coverage| {
        let stage = stage(&format!("compress: {{ratio: 0.12, classes: [experts], align: 3{keys}}}"));
        stage.decide(&Evidence { costs: &costs, coverage, ..Evidence::new(&spec, &stats) }).unwrap()
    };
    let (apart, merged) = (decide(", merge: false", Coverage::default()), decide("", Coverage::default()));
    assert!(merged.predicted < apart.predicted, "{merged:?}");
    assert!(
        merged.notes.iter().any(|note| note.contains("1 of 3 pairs") && note.contains("0.0+2")),
        "{:?}",
        merged.notes
    );
    let Edit::MergeExperts { layer: 0, groups, align: true } = &merged.edits[0] else { panic!("{merged:?}") };
    assert_eq!(
        groups.iter().map(|group| group.members.clone()).collect::<Vec<_>>(),
        [vec![0, 2], vec![1], vec![3]]
    );
    assert_eq!(groups[0].weights, [0.25, 0.75]);
    let after = spec.after(&merged.edits).unwrap();
    assert_eq!(after.moe(0).unwrap().router, [0, 1, 0, 2]);
    let (found, allowed) = (after.bytes_by_class()[&Class::Experts].1, 0.12 * 2304.0);
    assert!(found as f64 <= allowed && found as f64 > allowed - 110.0, "{found} of {allowed}");
    // Other experts have moved up: what mattered least is now the third.
    let kept = |expert: usize| {
        merged.edits.iter().find_map(|edit| match edit {
            Edit::KeepAtoms { layer: 0, expert: e, atoms } if *e == expert => Some(atoms.len()),
            _ => None,
        })
    };
    assert!(kept(2) < kept(0) && kept(3).is_none(), "{:?}", merged.edits);
    // What stays or goes by policy is no candidate.
    let coverage = Coverage { min_tokens: 100, below: BelowMinTokens::Prune };
    assert!(!decide("", coverage).edits.iter().any(Edit::changes_routing));
}

#[test]
fn pairs_are_the_best_of_all() {
    let plain = || vec![144; 2];
    let runs = |expert: usize| {
        let of = |weight: f64| RunLadder {
            atoms: vec![0],
            dropped: 9.0 * weight,
            rungs: [(); 3].map(|()| {
                vec![rung(-4, 12, 0.1 * weight), rung(-2, 9, 0.4 * weight), rung(0, 6, 1.6 * weight)]
            }),
        };
        let weight = [1.0, 0.7, 2.0, 0.2, 1.1][expert];
        vec![of(weight), of(0.2 * weight)]
    };
    let all: Vec<Vec<RunLadder>> = (0..5).map(runs).collect();
    let candidate = |expert: usize, runs| Candidate {
        layer: 0,
        expert,
        with: None,
        runs,
        planned: Expert::new(runs, plain(), 2),
        fixed: None,
    };
    let experts: Vec<Candidate<'_>> = (0..5).map(|expert| candidate(expert, &all[expert][..])).collect();
    let mergers: Vec<(usize, usize, Merger)> =
        [(0, 1, 0.3), (0, 4, 0.2), (1, 2, 0.4), (2, 4, 0.9), (3, 4, 0.05)]
            .map(|(a, b, mean)| (a, b, merger(&all[a], &all[b], mean)))
            .into();
    let pairs: Vec<Candidate<'_>> = mergers
        .iter()
        .map(|(a, b, merger)| Candidate {
            with: Some((*b, merger.weights)),
            planned: Expert::new(&merger.runs, plain(), 2).of_means(&merger.mean),
            ..candidate(*a, &merger.runs[..])
        })
        .collect();
    let disjoint = |taken: &[&Candidate<'_>]| {
        let gone: Vec<usize> = taken.iter().flat_map(|pair| [pair.expert, pair.with.unwrap().0]).collect();
        (0..5).all(|expert| gone.iter().filter(|&&gone| gone == expert).count() < 2).then_some(gone)
    };
    let sets: Vec<Vec<&Candidate<'_>>> = (0..1 << pairs.len())
        .map(|set| (0..pairs.len()).filter(|at| set >> at & 1 == 1).map(|at| &pairs[at]).collect())
        .collect();
    let mut merged = 0;
    for budget in [20, 50, 80, 110, 150, 200, 300, 500] {
        let found = joins::spend(&experts, &pairs, &[], budget).unwrap();
        let (spent, price) = (&found.spent, found.spent.price);
        let (mut cheapest, mut most) = (f64::INFINITY, 0.0f64);
        for taken in &sets {
            let Some(gone) = disjoint(taken) else { continue };
            let (in_pairs, alone): (Vec<_>, Vec<_>) =
                experts.iter().partition(|of| gone.contains(&of.expert));
            let score = |of: &[&Candidate<'_>]| of.iter().map(|of| of.score(price)).sum::<f64>();
            most = most.max(score(&in_pairs) - score(taken));
            let market =
                Market { experts: alone.into_iter().chain(taken.iter().copied()).collect(), matrices: &[] };
            cheapest = cheapest.min(market.spend(budget, None).unwrap().cost);
        }
        assert!(spent.bytes <= budget && spent.cost <= found.apart);
        assert!(spent.bound <= cheapest + 1e-9, "{budget}: {} {cheapest}", spent.bound);
        let taken = joins::worth(&experts, &pairs, price);
        let saved: f64 = taken
            .iter()
            .map(|&at| {
                let members = [pairs[at].expert, pairs[at].with.unwrap().0];
                members.map(|expert| experts[expert].score(price)).iter().sum::<f64>()
                    - pairs[at].score(price)
            })
            .sum();
        // Taking the best pair first saves at least half of what could be.
        assert!(saved >= 0.5 * most - 1e-9 && saved <= most + 1e-9, "{budget}: {saved} of {most}");
        merged += spent.experts.iter().filter(|(of, _)| of.with.is_some()).count();
    }
    assert!(merged > 4, "{merged}");
}

#[test]
fn a_round_before_the_last_leaves_out_less_than_goes_in_the_end() {
    let (spec, (stats, costs)) = (toy(), evidence());
    let stage = stage("compress: {ratio: 0.1, classes: [experts], align: 3, rounds: 3}");
    assert_eq!(stage.rounds(), 3);
    let evidence = Evidence { costs: &costs, ..Evidence::new(&spec, &stats) };
    let atoms = |edits: &[Edit]| {
        let after = spec.after(edits).unwrap();
        after.moe_layers().flat_map(|(_, moe)| &moe.experts).map(|expert| expert.width()).sum::<usize>()
    };
    let left: Vec<usize> = [1, 2].map(|round| atoms(&stage.leave_out(&evidence, round).unwrap())).into();
    let last = atoms(&stage.decide(&evidence).unwrap().edits);
    assert!(left[0] >= left[1] && left[1] >= last && left[0] > last && left[1] < 48, "{left:?} {last}");
    assert_eq!(stage.leave_out(&evidence, 1).unwrap(), stage.leave_out(&evidence, 1).unwrap());
}
