use crate::evidence::assumed;
use crate::toy::{decide, decide_on, grouped, stage, toy};
use moepress_model::{Edit, Group, GroupRank, ModelSpec};
use moepress_recipe::{BelowMinTokens, Coverage};
use moepress_stats::{Needs, Of, Quantity, Statistics};

fn stats() -> Statistics {
    let mut stats = Statistics::default();
    for layer in 0..2 {
        stats.add(Of::Layer(layer), Quantity::Tokens, vec![2.0, 9.0, 0.0, 4.0]).unwrap();
        stats.add(Of::Layer(layer), Quantity::GateNormSum, vec![16.4214, 9.0, 0.0, 4.0]).unwrap();
    }
    stats
}

#[test]
fn the_lowest_scores_go_and_ties_stay_in_order() {
    // REAP means 8.21, 1, 0 (unreached), 1.
    let reap = decide("prune_experts: {method: reap, ratio: 0.5}", &stats());
    assert_eq!(reap.edits[0], Edit::KeepExperts { layer: 0, experts: vec![0, 1] });
    assert!(reap.notes[0].contains("2 experts were reached by no calibration token"));
    let frequency = decide("prune_experts: {method: frequency, ratio: 0.5}", &stats());
    assert_eq!(frequency.edits[1], Edit::KeepExperts { layer: 1, experts: vec![1, 3] });
    assert!(decide("prune_experts: {ratio: 0.2}", &stats()).edits.is_empty());
    assert!(toy().after(&reap.edits).is_ok());
}
#[test]
fn the_policy_for_too_few_tokens_decides_who_may_go() {
    // Frequencies 2, 9, 0, 4.
    let kept = |ratio: f64, min_tokens, below| {
        let yaml = format!("prune_experts: {{method: frequency, ratio: {ratio}}}");
        let decision = decide_on(&toy(), &yaml, &stats(), Coverage { min_tokens, below })?;
        match &decision.edits[0] {
            Edit::KeepExperts { experts, .. } => Ok((experts.clone(), decision.notes)),
            other => Err(format!("{other:?}")),
        }
    };
    let experts = |ratio, min, below| kept(ratio, min, below).unwrap().0;
    assert_eq!(experts(0.25, 3, BelowMinTokens::Rank), [0, 1, 3]);
    assert_eq!(experts(0.25, 1, BelowMinTokens::Keep), [1, 2, 3]);
    assert_eq!(experts(0.5, 3, BelowMinTokens::Keep), [0, 2]);
    assert_eq!(experts(0.5, 5, BelowMinTokens::Prune), [1, 3]);
    let (_, notes) = kept(0.5, 3, BelowMinTokens::Keep).unwrap();
    assert!(notes.len() == 2 && notes.iter().all(|note| note.contains("were kept")), "{notes:?}");
    let error = kept(0.5, 5, BelowMinTokens::Keep).unwrap_err();
    assert!(error.starts_with("r.yaml:4:") && error.contains("only 1 may go"), "{error}");
}

#[test]
fn an_expert_without_a_finite_score_of_its_own_is_never_ranked_by_one() {
    // REAP's own best expert, but too few tokens to believe it.
    let coverage = Coverage { min_tokens: 3, below: BelowMinTokens::Prune };
    let decision = decide_on(&toy(), "prune_experts: {ratio: 0.5}", &stats(), coverage).unwrap();
    assert_eq!(decision.edits[0], Edit::KeepExperts { layer: 0, experts: vec![1, 3] });
}

fn frequencies(spec: &ModelSpec, tokens: &[f64]) -> Statistics {
    let mut stats = Statistics::default();
    for (layer, _) in spec.moe_layers() {
        stats.add(Of::Layer(layer), Quantity::Tokens, tokens.to_vec()).unwrap();
    }
    stats
}

#[test]
fn groups_of_a_router_stay_of_one_size() {
    let spec = grouped();
    let stats = frequencies(&spec, &[9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0, 0.0, 9.0, 0.0, 9.0]);
    let decide = |ratio: f64| {
        let yaml = format!("prune_experts: {{method: frequency, ratio: {ratio}}}");
        decide_on(&spec, &yaml, &stats, Coverage::default())
    };
    // Five are asked for, three groups give one each: 3, 4, and 10, the later of equals.
    let decision = decide(0.42).unwrap();
    let experts = vec![0, 1, 2, 5, 6, 7, 8, 9, 11];
    assert_eq!(decision.edits[0], Edit::KeepExperts { layer: 0, experts });
    assert!(
        decision.notes[0].starts_with("4 experts fewer were removed than asked for"),
        "{:?}",
        decision.notes
    );
    let after = spec.after(&decision.edits).unwrap();
    assert_eq!(after.moe(0).unwrap().router.len(), 9);
    let decision = decide(0.5).unwrap();
    let experts = vec![0, 1, 6, 7, 9, 11];
    assert_eq!(decision.edits[0], Edit::KeepExperts { layer: 0, experts });
    assert_eq!(decision.notes.len(), 1, "{:?}", decision.notes);
    assert!(spec.after(&decision.edits).is_ok());
    assert!(decide(0.2).unwrap().edits.is_empty());
    // One expert per group cannot be ranked by its two best.
    let error = decide(0.75).unwrap_err();
    assert!(error.contains("2 of 3 equal groups, which needs 6 experts at least"), "{error}");
}

#[test]
fn routers_keep_what_they_choose_from() {
    let mut spec = grouped();
    for layer in &mut spec.layers {
        if let moepress_model::Mlp::Moe(moe) = &mut layer.mlp {
            moe.routing.top_k = 4;
            moe.routing.groups.iter_mut().for_each(|groups| {
                groups.kept = 1;
                groups.rank = GroupRank::Largest;
            });
        }
    }
    let check = |ratio: f64| stage(&format!("prune_experts: {{ratio: {ratio}}}")).check(&spec);
    assert!(check(0.24).is_ok());
    assert!(check(0.25).unwrap_err().to_string().contains("1 of 3 equal groups, which needs 12 experts"));
}

#[test]
fn merging_leaves_the_rows_of_groups_and_pruning_after_it_is_refused() {
    let spec = grouped();
    let group = |members: &[usize]| {
        let weights = vec![1.0 / members.len() as f64; members.len()];
        Group { members: members.to_vec(), weights }
    };
    let groups = [vec![group(&[0, 5, 11])], (1..11).filter(|e| *e != 5).map(|e| group(&[e])).collect()];
    let merged =
        spec.after(&[Edit::MergeExperts { layer: 0, groups: groups.concat(), align: true }]).unwrap();
    let moe = merged.moe(0).unwrap();
    assert_eq!((moe.router.len(), moe.experts.len()), (12, 10));
    let error = stage("prune_experts: {ratio: 0.25}").check(&merged).unwrap_err().to_string();
    assert!(error.contains("put this stage before merge_experts"), "{error}");
    let stage = stage("merge_experts: {ratio: 0.5}");
    stage.check(&spec).unwrap();
    let assumed = assumed(&spec, &Needs::default(), &[]).unwrap();
    let after = spec.after(&stage.decide(&assumed.evidence(&spec, &[])).unwrap().edits).unwrap();
    assert!(after.moe_layers().all(|(_, moe)| moe.router.len() == 12));
    assert_eq!(after.moe_layers().map(|(_, moe)| moe.experts.len()).sum::<usize>(), 12);
}

#[test]
fn methods_rank_by_their_sums_and_means() {
    // Per expert: tokens 2, 9, 0, 4; gates 1, 0.9, 0, 3; norms 18, 9, 0, 8; gated norms 16.42, 9, 0, 4.
    let mut stats = stats();
    for layer in 0..2 {
        stats.add(Of::Layer(layer), Quantity::GateSum, vec![1.0, 0.9, 0.0, 3.0]).unwrap();
        stats.add(Of::Layer(layer), Quantity::NormSum, vec![8.0, 9.0, 0.0, 6.0]).unwrap();
    }
    let kept = |keys: &str| match &decide(&format!("prune_experts: {{ratio: 0.5, {keys}}}"), &stats).edits[0]
    {
        Edit::KeepExperts { experts, .. } => experts.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(kept("method: reap"), [0, 1]);
    assert_eq!(kept("method: frequency"), [1, 3]);
    assert_eq!(kept("method: weighted_frequency"), [0, 3]);
    assert_eq!(kept("method: ean"), [0, 1]);
    assert_eq!(kept("method: ean, over_tokens: sum"), [0, 1]);
    assert_eq!(kept("method: ean, over_tokens: mean"), [0, 3]);
}

#[test]
fn reap_is_the_mean_of_gate_times_norm() {
    // Outputs (3, 4) and (5, 12) with gates σ(1) and σ(4).
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let sum = 5.0 * sigmoid(1.0) + 13.0 * sigmoid(4.0);
    let mut stats = Statistics::default();
    stats.add(Of::Layer(0), Quantity::Tokens, vec![2.0]).unwrap();
    stats.add(Of::Layer(0), Quantity::GateNormSum, vec![sum]).unwrap();
    let spec = toy();
    let evidence = crate::Evidence::new(&spec, &stats);
    let score = super::reap::score(&evidence, 0).unwrap()[0];
    assert!((score - 8.2107).abs() < 5e-5, "{score}");
}

fn per_layer_frequencies(tokens: [&[f64]; 2]) -> Statistics {
    let mut stats = Statistics::default();
    for (layer, tokens) in tokens.into_iter().enumerate() {
        stats.add(Of::Layer(layer), Quantity::Tokens, tokens.to_vec()).unwrap();
    }
    stats
}

fn lists(edits: &[Edit]) -> Vec<(usize, Vec<usize>)> {
    let list = |edit: &Edit| match edit {
        Edit::KeepExperts { layer, experts } => (*layer, experts.clone()),
        other => panic!("{other:?}"),
    };
    edits.iter().map(list).collect()
}

#[test]
fn globally_the_least_shares_go_down_to_the_floor() {
    // Shares 1/16, 5/16, 6/16, 4/16 and 10, 25, 30, 35 of 100.
    let stats = per_layer_frequencies([&[1.0, 5.0, 6.0, 4.0], &[100.0, 250.0, 300.0, 350.0]]);
    let kept = |keys: &str| {
        lists(
            &decide(&format!("prune_experts: {{method: frequency, ranking: global, {keys}}}"), &stats).edits,
        )
    };
    assert_eq!(kept("ratio: 0.125"), [(0, vec![1, 2, 3])]);
    assert_eq!(kept("ratio: 0.25"), [(0, vec![1, 2, 3]), (1, vec![1, 2, 3])]);
    // 4/16 and 25/100 are equal, and so is what both layers have lost: the later goes.
    assert_eq!(kept("ratio: 0.375"), [(0, vec![1, 2, 3]), (1, vec![2, 3])]);
    let skewed = per_layer_frequencies([&[1.0, 1.0, 1.0, 97.0], &[25.0; 4]]);
    let kept = |keys: &str| {
        let yaml = format!("prune_experts: {{method: frequency, ranking: global, ratio: 0.25{keys}}}");
        lists(&decide(&yaml, &skewed).edits)
    };
    assert_eq!(kept(""), [(0, vec![0, 3])]);
    assert_eq!(kept(", floor: 3"), [(0, vec![0, 1, 3]), (1, vec![0, 1, 2])]);
}

#[test]
fn a_global_ratio_that_floors_do_not_allow_is_refused() {
    let stage = |keys: &str| stage(&format!("prune_experts: {{method: frequency, ranking: global, {keys}}}"));
    assert!(stage("ratio: 0.5").check(&toy()).is_ok());
    for (keys, wanted) in [
        ("ratio: 0.625", "takes 5 of 8 experts, but with what routers choose from only 4 may go"),
        ("ratio: 0.375, floor: 3", "with a floor of 3"),
        ("ratio: 0.25, floor: 9", "only 0 may go"),
    ] {
        let error = stage(keys).check(&toy()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{keys}: {error}");
    }
    let skewed = per_layer_frequencies([&[9.0, 9.0, 9.0, 9.0], &[1.0, 0.0, 0.0, 1.0]]);
    let coverage = Coverage { min_tokens: 2, below: BelowMinTokens::Keep };
    let yaml = "prune_experts: {method: frequency, ranking: global, ratio: 0.5}";
    let error = decide_on(&toy(), yaml, &skewed, coverage).unwrap_err();
    assert!(error.contains("takes 4 of 8 experts, but only 2 may go while"), "{error}");
    let unreached = decide_on(&toy(), yaml.replace("0.5", "0.25").as_str(), &skewed, Coverage::default());
    assert_eq!(lists(&unreached.unwrap().edits), [(1, vec![0, 3])]);
}

#[test]
fn globally_groups_of_a_router_stay_of_one_size_too() {
    let spec = grouped();
    let busy: Vec<f64> = (0..12).map(|e| 20.0 + f64::from(e)).collect();
    let idle: Vec<f64> = (0..12).map(|e| f64::from(e % 4) * f64::from(e % 4) * 10.0).collect();
    let stats = per_layer_frequencies([&busy, &idle]);
    // Ten are asked for; every round takes three.
    let yaml = "prune_experts: {method: frequency, ranking: global, ratio: 0.42}";
    let decision = decide_on(&spec, yaml, &stats, Coverage::default()).unwrap();
    assert_eq!(
        lists(&decision.edits),
        [(0, vec![1, 2, 3, 5, 6, 7, 9, 10, 11]), (1, vec![2, 3, 6, 7, 10, 11])]
    );
    assert!(decision.notes[0].starts_with("1 expert fewer was removed"), "{:?}", decision.notes);
    assert!(spec.after(&decision.edits).is_ok());
}
