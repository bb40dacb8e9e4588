//! What probes sum, against `transformers`, definitions, and the same sums in parts.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Changed, Reference, all, all_close, model};
use moepress_calibrate::{Means, Undecided, Walk, Windows, sweep, weight_statistics};
use moepress_checkpoint::{Silent, Source};
use moepress_model::{LayerWeights, Part, Projection};
use moepress_nn::Device;
use moepress_quant::formats::encode_nearest;
use moepress_quant::{Dtype, Format, Plain, Stored};
use moepress_stats::{Need, Needs, Of, Quantity, RUNS, Statistics, WeightNeed, segments};
use std::collections::BTreeSet;

fn needs() -> Needs {
    let formats = ["int2-g32", "int8-g32"].map(|format| format.parse().unwrap());
    let needs = Needs::of(Need::ALL.into_iter().filter(|need| ![Need::Atoms, Need::Fisher].contains(need)));
    Needs { formats: formats.into(), ..needs }
}

fn measure<'a>(source: &dyn Source, windows: impl Into<Windows<'a>>) -> Statistics {
    sweep(source, windows, &needs(), &Means::unlimited(&Device::flex()), &Silent).unwrap()
}

/// Per token the chosen experts of a layer with their weights, as `transformers` has them.
fn choices(reference: &Reference, layer: usize, tokens: usize) -> Vec<Vec<(usize, f64)>> {
    let (experts, weights) = reference.routing(layer).unwrap();
    let k = experts.len() / tokens;
    let pair = |(expert, weight): (&u32, &f32)| (*expert as usize, f64::from(*weight));
    experts.chunks(k).zip(weights.chunks(k)).map(|(e, w)| e.iter().zip(w).map(pair).collect()).collect()
}

#[test]
fn pairs_successions_and_texts_are_those_of_transformers() {
    for name in all() {
        let (model, reference) = (model(&name), Reference::of(&name));
        let ids = reference.ids();
        // The first window is one text, the others another.
        let of = (0..ids.len()).map(|window| usize::from(window > 0)).collect();
        let stats = measure(&model, Windows::of_texts(&ids, of, 2));
        let (window, tokens) = (ids[0].len(), ids.concat().len());
        let texts = stats.get(Of::Model, Quantity::TextTokens).unwrap();
        assert_eq!(texts, [window as f64, (tokens - window) as f64], "{name}");
        let mut before: Option<Vec<Vec<(usize, f64)>>> = None;
        for (layer, moe) in model.spec().moe_layers() {
            let at = |what: &str| format!("{name}: layer {layer}: {what}");
            let get = |quantity| stats.get(Of::Layer(layer), quantity);
            let experts = moe.experts.len();
            let chosen = choices(&reference, layer, tokens);
            let mut together = vec![0.0; experts * experts];
            let mut gates = vec![0.0f32; 2 * experts];
            for (token, chosen) in chosen.iter().enumerate() {
                for &(a, weight) in chosen {
                    chosen.iter().for_each(|&(b, _)| together[a * experts + b] += 1.0);
                    gates[usize::from(token >= window) * experts + a] += weight as f32;
                }
            }
            let found = get(Quantity::Coactivation).unwrap();
            assert_eq!(found, together, "{}", at("pairs"));
            let counts = get(Quantity::Tokens).unwrap();
            for (expert, row) in found.chunks(experts).enumerate() {
                // C2R: the diagonal counts tokens, a row counts what they use.
                assert_eq!(row[expert], counts[expert]);
                assert_eq!(row.iter().sum::<f64>(), moe.routing.top_k as f64 * counts[expert]);
            }
            let found = get(Quantity::TextGates).unwrap();
            all_close(found.iter().copied(), &gates, 1e-3, &at("gates by text"));
            match &before {
                None => assert!(get(Quantity::Affinity).is_err(), "{}", at("nothing is before it")),
                Some(before) => {
                    let rows = get(Quantity::Affinity).unwrap().len() / experts;
                    let mut passed = vec![0.0; rows * experts];
                    for (before, now) in before.iter().zip(&chosen) {
                        for &(a, _) in before {
                            now.iter().for_each(|&(b, _)| passed[a * experts + b] += 1.0);
                        }
                    }
                    assert_eq!(get(Quantity::Affinity).unwrap(), passed, "{}", at("successions"));
                }
            }
            check_runs(&stats, layer, &chosen, experts, window, &name);
            before = Some(chosen);
        }
    }
}

/// Runs of four tokens counted one by one.
fn check_runs(
    stats: &Statistics,
    layer: usize,
    chosen: &[Vec<(usize, f64)>],
    experts: usize,
    window: usize,
    name: &str,
) {
    let run = RUNS[0];
    let mut uses = vec![0.0; run + 1];
    for tokens in chosen.chunks(window).flat_map(|window| window.windows(run)) {
        for expert in 0..experts {
            uses[tokens.iter().filter(|t| t.iter().any(|(e, _)| *e == expert)).count()] += 1.0;
        }
    }
    let found = stats.get(Of::Layer(layer), Quantity::RunUses).unwrap();
    assert_eq!(found[..=run], uses, "{name}: layer {layer}");
    let srp = segments(&uses).unwrap().srp;
    assert!((0.0..=1.0).contains(&srp), "{srp}");
    // All but the first uses in windows are served by a cache of all experts.
    let firsts: usize = chosen
        .chunks(window)
        .map(|window| window.iter().flatten().map(|(e, _)| *e).collect::<BTreeSet<_>>().len())
        .sum();
    let all: usize = chosen.iter().map(Vec::len).sum();
    for hits in stats.get(Of::Layer(layer), Quantity::CacheHits).unwrap().chunks(experts) {
        assert_eq!(hits.iter().sum::<f64>(), (all - firsts) as f64, "{name}: layer {layer}");
    }
}

#[test]
fn parts_come_to_the_whole() {
    for name in ["qwen3_moe", "deepseek_v3", "gpt_oss"] {
        let model = model(name);
        let windows: Vec<Vec<u32>> = Reference::of(name).ids().into_iter().cycle().take(9).collect();
        let ids: Vec<Vec<u32>> = vec![windows[..4].concat(), windows[3..7].concat(), windows[5..].concat()];
        let part = |of: &[usize]| {
            let ids: Vec<Vec<u32>> = of.iter().map(|&window| ids[window].clone()).collect();
            measure(&model, Windows::of_texts(&ids, of.to_vec(), 3))
        };
        let whole = part(&[0, 1, 2]);
        let mut sum = part(&[0, 2]);
        sum.merge(part(&[1])).unwrap();
        assert_eq!(sum.iter().count(), whole.iter().count());
        for ((key, found), (other, wanted)) in sum.iter().zip(whole.iter()) {
            assert_eq!(key, other);
            let largest = wanted.iter().fold(0.0f64, |most, value| most.max(value.abs()));
            for (a, b) in found.iter().zip(wanted) {
                assert!((a - b).abs() <= 1e-5 * largest, "{name}: {key}: {a} and {b}");
            }
        }
    }
}

/// The hidden states after the first layer with experts.
fn after_first(source: &dyn Source, windows: &[Vec<u32>]) -> (usize, Vec<f32>) {
    let (first, _) = source.spec().moe_layers().next().unwrap();
    let nothing = BTreeSet::new();
    let means = Means::unlimited(&Device::flex());
    let undecided = Undecided { rounded: &nothing, refit: &BTreeSet::new(), original: source };
    let mut walk = Walk::new(source, windows, undecided, &means, &Silent).unwrap();
    for _ in 0..=first {
        walk.layer::<(), moepress_calibrate::CalibrateError>(&|_, matrices| Ok((matrices, ()))).unwrap();
    }
    (first, walk.hidden().unwrap())
}

#[test]
fn errors_are_those_of_the_layer_with_one_expert_rounded() {
    for name in ["qwen3_moe", "qwen2_moe", "deepseek_v3", "gpt_oss"] {
        let (model, ids) = (model(name), Reference::of(name).ids());
        let stats = measure(&model, &ids);
        let (first, plain) = after_first(&model, &ids);
        let reached = stats.get(Of::Layer(first), Quantity::Tokens).unwrap();
        let expert = (0..reached.len()).find(|&expert| reached[expert] > 0.0).unwrap();
        for (format, grouped) in needs().formats.iter().filter_map(|format| match format {
            Format::Grouped(grouped) => Some((format, *grouped)),
            Format::Plain(_) | Format::LowRank(_) => None,
        }) {
            let round = |layer: usize, weights: &mut LayerWeights| {
                for (part, stored) in weights.iter_mut() {
                    let ours = matches!(part, Part::Expert { .. }) && part.expert() == Some(expert);
                    if layer == first && ours {
                        let (rows, cols) = stored.matrix_shape();
                        let packed = encode_nearest(grouped, rows, cols, &stored.to_f32(), None).unwrap();
                        let values = Stored::Packed(packed).to_f32();
                        *stored = Stored::Plain(Plain::from_f32(Dtype::F32, stored.shape(), &values));
                    }
                }
            };
            let (_, rounded) = after_first(&Changed { model: &model, change: &round }, &ids);
            let wanted: f64 =
                plain.iter().zip(&rounded).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            let found = stats.scalar(Of::Rounded(first, expert, *format), Quantity::OutputError).unwrap();
            // Differences of hidden states in f32 have few digits left where the error is small.
            assert!((found - wanted).abs() <= 0.02 * wanted + 1e-10, "{name} {format}: {found}, {wanted}");
        }
        let int = |bits: &str| {
            let of = Of::Rounded(first, expert, format!("int{bits}-g32").parse().unwrap());
            stats.scalar(of, Quantity::OutputError).unwrap()
        };
        assert!(int("2") > 100.0 * int("8"), "{name}: {} {}", int("2"), int("8"));
    }
}

#[test]
fn layers_whose_experts_answer_nothing_turn_nothing() {
    let (model, ids) = (model("qwen3_moe"), Reference::of("qwen3_moe").ids());
    let silence = |_: usize, weights: &mut LayerWeights| {
        for (part, stored) in weights.iter_mut() {
            if matches!(part, Part::Expert { projection: Projection::Down, .. }) {
                let zeros = vec![0.0; stored.to_f32().len()];
                *stored = Stored::Plain(Plain::from_f32(Dtype::F32, stored.shape(), &zeros));
            }
        }
    };
    let [silent, plain] =
        [measure(&Changed { model: &model, change: &silence }, &ids), measure(&model, &ids)];
    let tokens = ids.concat().len() as f64;
    for (layer, _) in model.spec().moe_layers() {
        let cosine = |stats: &Statistics| stats.scalar(Of::Layer(layer), Quantity::Cosine).unwrap();
        assert!((cosine(&silent) - tokens).abs() < 1e-6 * tokens);
        assert!(cosine(&plain) < (1.0 - 1e-6) * tokens && cosine(&plain) > -tokens);
        assert!(silent.get(Of::Layer(layer), Quantity::OutputMax).unwrap().iter().all(|&most| most == 0.0));
        let most = plain.get(Of::Layer(layer), Quantity::OutputMax).unwrap();
        let norms = plain.get(Of::Layer(layer), Quantity::NormSum).unwrap();
        assert!(most.iter().zip(norms).all(|(most, norm)| most <= norm));
    }
}

#[test]
fn grams_of_weights_are_their_dot_products() {
    let model = model("qwen3_moe");
    let needs = [WeightNeed::Grams, WeightNeed::Outliers].into();
    let found = weight_statistics(&model, &needs, &Silent).unwrap();
    for (layer, moe) in model.spec().moe_layers() {
        let weights = model.layer(layer).unwrap();
        let vector = |expert: usize| -> Vec<f64> {
            let part = |projection| Part::Expert { expert, segment: 0, projection };
            let values = Projection::ALL.map(|projection| weights[&part(projection)].to_f32());
            values.concat().into_iter().map(f64::from).collect()
        };
        let experts = moe.experts.len();
        let vectors: Vec<Vec<f64>> = (0..experts).map(vector).collect();
        for (i, a) in vectors.iter().enumerate() {
            for (j, b) in vectors.iter().enumerate() {
                let wanted: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                let found = found.grams[&layer][i * experts + j];
                assert!((found - wanted).abs() < 1e-9 * (1.0 + wanted.abs()), "{found} {wanted}");
            }
        }
    }
    let measured = model.spec().tensors().into_iter().filter(|tensor| tensor.is_measured());
    assert!(measured.into_iter().all(|tensor| found.outliers[&tensor] >= 1.0));
}
