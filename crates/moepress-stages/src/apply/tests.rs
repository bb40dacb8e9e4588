use super::*;
use crate::toy::toy;
use moepress_quant::Dtype;

fn weights(seed: u32) -> LayerWeights {
    let spec = toy();
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let stored = |part| {
        let shape = spec.shape(Tensor::Layer(0, part)).unwrap();
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
        (part, Stored::Plain(Plain::from_f32(Dtype::Bf16, shape, &values)))
    };
    spec.parts(0).into_iter().map(stored).collect()
}

fn expert(expert: usize, projection: Projection) -> Part {
    Part::Expert { expert, segment: 0, projection }
}

fn plain(weights: &LayerWeights, part: Part) -> &Plain {
    match &weights[&part] {
        Stored::Plain(plain) => plain,
        Stored::Packed(_) | Stored::Factored(_) => panic!("not plain"),
    }
}

#[test]
fn keeping_everything_changes_no_byte() {
    let edits = [
        Edit::KeepAtoms { layer: 0, expert: 1, atoms: (0..6).collect() },
        Edit::KeepExperts { layer: 0, experts: vec![0, 1, 2, 3] },
    ];
    assert_eq!(apply(&toy(), 0, weights(1), &edits).unwrap(), weights(1));
    assert_eq!(apply(&toy(), 0, weights(1), &[]).unwrap(), weights(1));
}

#[test]
fn merging_recovers_a_shuffled_expert() {
    let mut weights = weights(2);
    let order = [3, 5, 0, 1, 4, 2];
    for projection in Projection::ALL {
        let source = plain(&weights, expert(0, projection)).clone();
        let shuffled = match projection {
            Projection::Down => columns(&source, &order),
            _ => rows(&source, &order),
        };
        weights.insert(expert(2, projection), Stored::Plain(shuffled));
    }
    let group =
        |members: &[usize], weights: &[f64]| Group { members: members.to_vec(), weights: weights.to_vec() };
    let groups = vec![group(&[0, 2], &[0.25, 0.75]), group(&[1], &[1.0]), group(&[3], &[1.0])];
    let edit = Edit::MergeExperts { layer: 0, groups, align: true };
    let merged = apply(&toy(), 0, weights.clone(), &[edit]).unwrap();
    for projection in Projection::ALL {
        assert_eq!(merged[&expert(0, projection)], weights[&expert(0, projection)]);
        assert_eq!(merged[&expert(1, projection)], weights[&expert(1, projection)]);
        assert_eq!(merged[&expert(2, projection)], weights[&expert(3, projection)]);
    }
}

#[test]
fn merging_without_alignment_is_the_weighted_mean() {
    let weights = weights(3);
    let groups = vec![Group { members: vec![1, 0, 2, 3], weights: vec![0.5, 0.25, 0.25, 0.0] }];
    let merged =
        apply(&toy(), 0, weights.clone(), &[Edit::MergeExperts { layer: 0, groups, align: false }]).unwrap();
    let value = |weights: &LayerWeights, e| plain(weights, expert(e, Projection::Up)).to_f32()[7];
    let wanted = 0.5 * value(&weights, 1) + 0.25 * value(&weights, 0) + 0.25 * value(&weights, 2);
    assert_eq!(value(&merged, 0), half_bf16(wanted));
}

fn half_bf16(value: f32) -> f32 {
    Plain::from_f32(Dtype::Bf16, vec![1], &[value]).to_f32()[0]
}

#[test]
fn shapes_follow_the_description() {
    let edits = [
        Edit::KeepExperts { layer: 0, experts: vec![1, 3] },
        Edit::KeepAtoms { layer: 0, expert: 1, atoms: vec![4, 1, 2] },
        Edit::CutSegments { layer: 0, expert: 1, widths: vec![1, 2] },
        Edit::KeepAtoms { layer: 0, expert: 0, atoms: vec![] },
        Edit::Encode {
            tensor: Tensor::Layer(0, Part::Expert { expert: 1, segment: 1, projection: Projection::Up }),
            format: "int4-g32".parse().unwrap(),
            solver: Solver::Nearest,
            grid: None,
            codec: moepress_quant::codec::Packing::Best,
        },
    ];
    let before = weights(4);
    let after = apply(&toy(), 0, before.clone(), &edits).unwrap();
    let spec = toy().after(&edits).unwrap();
    assert_eq!(after.keys().copied().collect::<Vec<_>>(), {
        let mut parts = spec.parts(0);
        parts.sort_unstable();
        parts
    });
    for (part, stored) in &after {
        assert_eq!(Some(stored.shape()), spec.shape(Tensor::Layer(0, *part)), "{part}");
        assert_eq!(Some(stored.format()), spec.format(Tensor::Layer(0, *part)), "{part}");
    }
    let down = plain(&after, Part::Expert { expert: 1, segment: 0, projection: Projection::Down }).to_f32();
    let source = plain(&before, expert(3, Projection::Down)).to_f32();
    assert_eq!(down, source.iter().skip(4).step_by(6).copied().collect::<Vec<_>>());
}

#[test]
fn a_share_of_the_experts_is_that_of_the_whole() {
    let group =
        |members: &[usize], weights: &[f64]| Group { members: members.to_vec(), weights: weights.to_vec() };
    let edits = [
        Edit::MergeExperts {
            layer: 0,
            groups: vec![group(&[2, 0], &[0.5, 0.5]), group(&[1], &[1.0]), group(&[3], &[1.0])],
            align: true,
        },
        Edit::KeepExperts { layer: 0, experts: vec![0, 2] },
        Edit::KeepAtoms { layer: 0, expert: 1, atoms: vec![4, 1, 2] },
        Edit::CutSegments { layer: 0, expert: 1, widths: vec![1, 2] },
    ];
    assert_eq!(sources(0, &[0], &edits), [0, 2]);
    assert_eq!(sources(0, &[1], &edits), [3]);
    let whole = apply(&toy(), 0, weights(5), &edits).unwrap();
    let mut shares = LayerWeights::new();
    for experts in [vec![], vec![0], vec![1]] {
        let of_source = sources(0, &experts, &edits);
        let mut some = weights(5);
        some.retain(|part, _| match part.expert() {
            Some(expert) => of_source.contains(&expert),
            None => experts.is_empty(),
        });
        shares.extend(apply(&toy(), 0, some, &edits).unwrap());
    }
    assert_eq!(shares, whole);
}

#[test]
fn everything_a_router_has_is_cut_together() {
    let spec = crate::toy::grouped();
    let parts = |values: &dyn Fn(Part, usize) -> f32| -> LayerWeights {
        let stored = |part| {
            let shape = spec.shape(Tensor::Layer(0, part)).unwrap();
            let values: Vec<f32> = (0..shape.iter().product()).map(|i| values(part, i)).collect();
            (part, Stored::Plain(Plain::from_f32(Dtype::F32, shape, &values)))
        };
        spec.parts(0).into_iter().map(stored).collect()
    };
    // Every value names the row or the expert it belongs to.
    let mut weights = parts(&|part, i| match (part, part.expert()) {
        (_, Some(expert)) => expert as f32,
        (Part::Router, _) => (i / 8) as f32,
        _ => i as f32,
    });
    // A bias of the logits, as gpt-oss and GLM have.
    let logits = (0..12).map(|row| row as f32).collect::<Vec<_>>();
    weights.insert(Part::RouterBias, Stored::Plain(Plain::from_f32(Dtype::F32, vec![12], &logits)));
    let experts = vec![0, 3, 4, 6, 9, 10];
    let edit = Edit::KeepExperts { layer: 0, experts: experts.clone() };
    let after = apply(&spec, 0, weights, std::slice::from_ref(&edit)).unwrap();
    let wanted: Vec<f32> = experts.iter().map(|&e| e as f32).collect();
    assert_eq!(plain(&after, Part::RouterBias).to_f32(), wanted);
    assert_eq!(plain(&after, Part::Correction).to_f32(), wanted);
    let router = plain(&after, Part::Router);
    assert_eq!(router.shape, [6, 8]);
    assert_eq!(router.to_f32().iter().step_by(8).copied().collect::<Vec<_>>(), wanted);
    for (new, &old) in experts.iter().enumerate() {
        for projection in Projection::ALL {
            assert!(plain(&after, expert(new, projection)).to_f32().iter().all(|&v| v == old as f32));
        }
    }
    let shapes = spec.after(&[edit]).unwrap();
    for (part, stored) in after.iter().filter(|(part, _)| **part != Part::RouterBias) {
        assert_eq!(Some(stored.shape()), shapes.shape(Tensor::Layer(0, *part)), "{part}");
    }
}

/// E(x) of one expert with gate, up and down as rows of f64, in the order of its atoms; `mask` forces h to 0.
fn output(weights: &LayerWeights, x: &[f64], mask: impl Fn(usize) -> bool) -> Vec<f64> {
    let matrix = |projection| -> Vec<f64> {
        plain(weights, expert(1, projection)).to_f32().into_iter().map(f64::from).collect()
    };
    let [gate, up, down] = Projection::ALL.map(matrix);
    let dot = |m: &[f64], row: usize| -> f64 { m[row * 8..][..8].iter().zip(x).map(|(w, x)| w * x).sum() };
    let width = gate.len() / 8;
    let mut sums = vec![0.0; 8];
    for atom in (0..width).filter(|&atom| !mask(atom)) {
        let g = dot(&gate, atom);
        let h = g / (1.0 + (-g).exp()) * dot(&up, atom);
        sums.iter_mut().enumerate().for_each(|(row, sum)| *sum += down[row * width + atom] * h);
    }
    sums
}

#[test]
fn a_cut_expert_is_the_masked_one_and_order_means_nothing() {
    let before = weights(6);
    let x: Vec<f64> = (0..8).map(|i| f64::from(i).mul_add(0.3, -1.0)).collect();
    let after = |atoms: &[usize]| {
        let edit = Edit::KeepAtoms { layer: 0, expert: 1, atoms: atoms.to_vec() };
        apply(&toy(), 0, before.clone(), &[edit]).unwrap()
    };
    let kept = [0, 2, 5];
    assert_eq!(output(&after(&kept), &x, |_| false), output(&before, &x, |atom| !kept.contains(&atom)));
    let moved = output(&after(&[4, 1, 5, 0, 3, 2]), &x, |_| false);
    for (a, b) in moved.iter().zip(output(&before, &x, |_| false)) {
        assert!((a - b).abs() < 1e-12);
    }
}

#[test]
fn atoms_of_zeros_contribute_nothing() {
    let mut before = weights(7);
    let x: Vec<f64> = (0..8).map(|i| f64::from(i) - 3.5).collect();
    for projection in [Projection::Gate, Projection::Up] {
        let mut values = plain(&before, expert(1, projection)).to_f32();
        values[2 * 8..3 * 8].fill(0.0);
        before
            .insert(expert(1, projection), Stored::Plain(Plain::from_f32(Dtype::Bf16, vec![6, 8], &values)));
    }
    let edit = Edit::KeepAtoms { layer: 0, expert: 1, atoms: vec![0, 1, 3, 4, 5] };
    let after = apply(&toy(), 0, before.clone(), &[edit]).unwrap();
    assert_eq!(output(&after, &x, |_| false), output(&before, &x, |_| false));
}
