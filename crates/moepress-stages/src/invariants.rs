//! What every method must respect, whichever it is: names of experts mean nothing, the same text twice is the same
//! text, an expert that no token reached is no number, and of equals the first stays.

use crate::evidence::Evidence;
use crate::toy::{stage, toy};
use crate::{assign_bits, merge_experts, prune_atoms, prune_experts};
use moepress_model::{Edit, ModelSpec, Part, Tensor};
use moepress_stats::{Of, Quantity, RoundingCosts, Statistics, WeightStatistics};
use std::collections::BTreeSet;

const FORMATS: &str = "formats: [int2, int8], group: 32, bytes: 2700";
const TEXTS: [&str; 2] = ["novel", "code"];

/// At least one recipe line for every method of every stage.
fn methods() -> Vec<String> {
    let stages = [
        ("merge_experts", merge_experts::names(), "ratio: 0.5"),
        ("prune_experts", prune_experts::names(), "ratio: 0.5"),
        ("prune_atoms", prune_atoms::names(), "ratio: 0.5"),
        ("assign_bits", assign_bits::names(), FORMATS),
    ];
    let keys = |stage: &str, method: &str| -> &'static [&'static str] {
        match (stage, method) {
            ("merge_experts", "m_smoe") => {
                &["", ", dominant: per_layer", ", grouping: outputs", ", grouping: weights"]
            }
            ("merge_experts", _) => &["", ", linkage: complete", ", linkage: ward", ", grouping: weights"],
            ("prune_experts", "tcess") => &[", task: code", ", task: code, score: gate, ranking: global"],
            ("prune_experts", "reap") => &["", ", over_tokens: sum", ", protect: super", ", ranking: global"],
            ("prune_experts", _) => &["", ", ranking: global"],
            ("prune_atoms", "heapr") => &["", ", score: decoupled", ", ranking: per_layer, align: 2"],
            ("prune_atoms", _) => &["", ", ranking: per_expert"],
            ("assign_bits", "mc_moe") => &["", ", at_least_one: [int2, int8]", ", gamma: 2"],
            _ => &[""],
        }
    };
    let mut lines = vec![];
    for (stage, names, common) in stages {
        for name in names {
            let line = |keys: &&str| format!("{stage}: {{method: {name}, {common}{keys}}}");
            lines.extend(keys(stage, name).iter().map(line));
        }
    }
    assert!(lines.len() > 25);
    lines
}

/// Everything that can be measured of a model.
#[derive(Clone, Default)]
struct Measured {
    stats: Statistics,
    costs: RoundingCosts,
    weights: WeightStatistics,
}

/// What is measured of something with these indices, a number above 0 that is the same for the same indices.
type Value = dyn Fn(&[usize]) -> f64;
/// What an expert of a layer is called in the model it is compared with.
type Original = dyn Fn(usize, usize) -> usize;

/// Multiples of 1/64 up to 16, so that sums and products of a few are exact in whatever order.
fn random(indices: &[usize]) -> f64 {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for &index in indices {
        state = (state ^ index as u64).wrapping_mul(6364136223846793005).rotate_left(29) ^ (state >> 17);
    }
    ((state >> 40) % 1024 + 1) as f64 / 64.0
}

fn measure(
    spec: &ModelSpec,
    value: &Value,
    original: &Original,
    reached: &dyn Fn(usize, usize) -> bool,
) -> Measured {
    let mut found = Measured::default();
    let mut add = |of, quantity: Quantity, values| found.stats.add(of, quantity, values).unwrap();
    add(Of::Model, Quantity::Tokens, vec![64.0]);
    add(Of::Model, Quantity::TextTokens, vec![32.0, 32.0]);
    for (layer, moe) in spec.moe_layers() {
        let experts = moe.experts.len();
        let name = |expert| original(layer, expert);
        let all = || (0..experts).map(name);
        use Quantity::{AnyOutputSum, AtomCoupled, AtomEnergy, AtomGradient};
        use Quantity::{
            Cosine, GateNormSum, GateSum, NormSum, OutputMax, RouterGram, TextGates, TextLogits, Tokens,
        };
        for quantity in [Tokens, GateSum, NormSum, GateNormSum, OutputMax] {
            let of = |e| if reached(layer, e) { value(&[quantity as usize, layer, e]) } else { 0.0 };
            // Tokens are whole.
            let of = |e| if quantity == Tokens { (64.0 * of(e)).round() } else { of(e) };
            add(Of::Layer(layer), quantity, all().map(of).collect());
        }
        // Grams of vectors of five numbers.
        let gram = |what: usize| -> Vec<f64> {
            let vector = |e: usize| [0, 1, 2, 3, 4].map(|i| value(&[what, layer, e, i]));
            let dot = |a: usize, b: usize| vector(a).iter().zip(vector(b)).map(|(x, y)| x * y).sum::<f64>();
            all().flat_map(|a| all().map(move |b| dot(a, b))).collect()
        };
        add(Of::Layer(layer), RouterGram, gram(100));
        add(Of::Layer(layer), Cosine, vec![value(&[Cosine as usize, layer])]);
        let by_text = |quantity: Quantity, places: usize| -> Vec<f64> {
            let place = |place: usize| all().map(move |e| (place, e));
            let of = |(place, e)| {
                if reached(layer, e) { value(&[quantity as usize, layer, place, e]) } else { 0.0 }
            };
            (0..TEXTS.len() * places).flat_map(place).map(of).collect()
        };
        add(Of::Layer(layer), TextLogits, by_text(TextLogits, moe.routing.top_k));
        add(Of::Layer(layer), TextGates, by_text(TextGates, 1));
        for expert in 0..experts {
            let (of, e) = (Of::Expert(layer, expert), name(expert));
            let vector = |quantity: Quantity, len: usize| -> Vec<f64> {
                (0..len).map(|i| value(&[quantity as usize, layer, e, i])).collect()
            };
            add(of, AnyOutputSum, vector(AnyOutputSum, spec.hidden));
            if !reached(layer, e) {
                continue;
            }
            for quantity in [AtomEnergy, AtomGradient, AtomCoupled] {
                add(of, quantity, vector(quantity, moe.experts[expert].width()));
            }
            for (format, scale) in [("int2-g32", 16.0), ("int8-g32", 1.0)] {
                let of = Of::Rounded(layer, expert, format.parse().unwrap());
                add(of, Quantity::OutputError, vec![scale * value(&[200, layer, e])]);
            }
        }
        found.weights.grams.insert(layer, gram(300));
    }
    for tensor in spec.tensors() {
        let (renamed, part) = match tensor {
            Tensor::Layer(layer, part) => {
                let part = part.expert().map_or(part, |e| part.of_expert(original(layer, e)));
                (format!("{}", Tensor::Layer(layer, part)), Some(part))
            }
            other => (other.to_string(), None),
        };
        let name = renamed.bytes().map(usize::from).collect::<Vec<_>>();
        let unreached = matches!((tensor, part), (Tensor::Layer(l, Part::Expert { .. }), Some(p))
            if p.expert().is_some_and(|e| !reached(l, e)));
        for (format, scale) in [("int2-g32", 16.0), ("int8-g32", 1.0)] {
            let cost = if unreached { 0.0 } else { scale * value(&name) };
            found.costs.formats.insert((tensor, format.parse().unwrap()), cost);
        }
        found.weights.outliers.insert(tensor, value(&name));
    }
    found
}

fn decide(line: &str, spec: &ModelSpec, measured: &Measured) -> crate::Decision {
    let texts = TEXTS.map(str::to_owned);
    let Measured { stats, costs, weights } = measured;
    let evidence = Evidence { costs, weights, texts: &texts, ..Evidence::new(spec, stats) };
    let stage = stage(line);
    stage.check(spec).unwrap();
    stage.decide(&evidence).unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// What edits do to the experts of the original, whatever these are called.
fn meaning(edits: &[Edit], original: &Original) -> BTreeSet<String> {
    let sorted = |layer: usize, experts: &[usize]| {
        experts.iter().map(|&e| original(layer, e)).collect::<BTreeSet<_>>()
    };
    let mean = |edit: &Edit| match edit {
        Edit::KeepExperts { layer, experts } => format!("{layer} keeps {:?}", sorted(*layer, experts)),
        Edit::KeepAtoms { layer, expert, atoms } => {
            format!("{layer} {} keeps {atoms:?}", original(*layer, *expert))
        }
        Edit::MergeExperts { layer, groups, .. } => {
            let group = |g: &moepress_model::Group| {
                let weights = g.members.iter().zip(&g.weights);
                let weights: BTreeSet<String> =
                    weights.map(|(&e, w)| format!("{}: {w}", original(*layer, e))).collect();
                format!("{weights:?}")
            };
            format!("{layer} merges {:?}", groups.iter().map(group).collect::<BTreeSet<_>>())
        }
        Edit::Assign { tensor: Tensor::Layer(layer, part), format } => {
            let part = part.expert().map_or(*part, |e| part.of_expert(original(*layer, e)));
            format!("{} {format}", Tensor::Layer(*layer, part))
        }
        other => format!("{other:?}"),
    };
    edits.iter().map(mean).collect()
}

fn everything(_: usize, _: usize) -> bool {
    true
}

fn as_it_is(_: usize, expert: usize) -> usize {
    expert
}

#[test]
fn what_experts_are_called_decides_nothing() {
    let orders = [[2, 0, 3, 1], [1, 3, 2, 0]];
    let renamed = move |layer: usize, expert: usize| orders[layer][expert];
    let unreached = |layer: usize, expert: usize| (layer, expert) != (0, 2);
    for reached in [&everything as &dyn Fn(usize, usize) -> bool, &unreached] {
        let plain = measure(&toy(), &random, &as_it_is, reached);
        let other = measure(&toy(), &random, &renamed, reached);
        for line in methods() {
            let wanted = meaning(&decide(&line, &toy(), &plain).edits, &as_it_is);
            let found = meaning(&decide(&line, &toy(), &other).edits, &renamed);
            assert_eq!(found, wanted, "{line}");
            assert!(!wanted.is_empty(), "{line}");
        }
    }
}

#[test]
fn the_same_text_twice_and_parts_in_any_order_decide_the_same() {
    let second = |indices: &[usize]| random(&[indices, &[7]].concat());
    let [a, b] = [&random as &Value, &second].map(|value| measure(&toy(), value, &as_it_is, &everything));
    let sum = |a: &Measured, b: &Measured| {
        let mut sum = a.clone();
        sum.stats.merge(b.stats.clone()).unwrap();
        sum
    };
    for line in methods() {
        let edits = |measured: &Measured| decide(&line, &toy(), measured).edits;
        assert_eq!(edits(&sum(&a, &a)), edits(&a), "{line}");
        let of_sum = |stats| edits(&Measured { stats, ..a.clone() });
        assert_eq!(of_sum(sum(&b, &a).stats), of_sum(sum(&a, &b).stats), "{line}");
    }
}

#[test]
fn experts_that_no_token_reached_are_decided_on_like_any() {
    let some = |layer: usize, expert: usize| (layer, expert) != (0, 2) && (layer, expert) != (1, 0);
    let one_layer = |layer: usize, _: usize| layer == 0;
    let none = |_: usize, _: usize| false;
    for reached in [&some as &dyn Fn(usize, usize) -> bool, &one_layer, &none] {
        let measured = measure(&toy(), &random, &as_it_is, reached);
        for line in methods() {
            let decision = decide(&line, &toy(), &measured);
            let after = toy().after(&decision.edits);
            assert!(after.is_ok(), "{line}: {after:?}");
            let words = format!("{decision:?}");
            assert!(!words.contains("NaN") && !words.contains("inf,"), "{line}: {words}");
        }
    }
}

#[test]
fn unreached_experts_are_the_first_to_go() {
    let reached = |layer: usize, expert: usize| (layer, expert) != (0, 0) && (layer, expert) != (1, 1);
    let measured = measure(&toy(), &random, &as_it_is, &reached);
    for line in methods().into_iter().filter(|line| line.starts_with("prune")) {
        // Per expert, every expert loses atoms alike; what is protected stays.
        if line.contains("per_expert") || line.contains("protect") {
            continue;
        }
        for edit in decide(&line, &toy(), &measured).edits {
            match edit {
                Edit::KeepExperts { layer, experts } => assert!(!experts.contains(&layer), "{line}"),
                Edit::KeepAtoms { layer, expert, atoms } if expert == layer => {
                    assert!(atoms.is_empty(), "{line}: {layer} {atoms:?}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn of_equals_the_first_stay() {
    let equal = measure(&toy(), &|_: &[usize]| 1.0, &as_it_is, &everything);
    for line in methods() {
        let edits = decide(&line, &toy(), &equal).edits;
        let mut atoms = vec![vec![(0..6).collect::<Vec<_>>(); 4]; 2];
        for edit in &edits {
            match edit {
                Edit::KeepExperts { experts, .. } => {
                    assert!(experts.iter().copied().eq(0..experts.len()), "{line}: {experts:?}");
                }
                Edit::MergeExperts { groups, .. } => {
                    // The first group takes all that is left over.
                    let leads: Vec<usize> = groups.iter().map(|group| group.members[0]).collect();
                    assert!(leads.is_sorted() && groups[0].members.is_sorted(), "{line}: {groups:?}");
                    assert!(groups[0].members.starts_with(&[0]), "{line}: {groups:?}");
                }
                Edit::KeepAtoms { layer, expert, atoms: kept } => {
                    atoms[*layer][*expert].clone_from(kept);
                }
                Edit::Assign { .. } => {}
                other => panic!("{line}: {other:?}"),
            }
        }
        if line.starts_with("prune_atoms") {
            for kept in atoms.concat() {
                assert!(kept.iter().copied().eq(0..kept.len()), "{line}: {kept:?}");
            }
            let widths = atoms.concat().into_iter().map(|kept| kept.len());
            assert!(widths.is_sorted_by(|a, b| a >= b) || line.contains("per_"), "{line}");
        }
    }
}
