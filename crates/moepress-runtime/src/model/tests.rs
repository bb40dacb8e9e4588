use super::*;
use crate::cache::Visit;
use crate::toy::{Toy, close};
use moepress_model::{Mlp, Part, Projection, Segment, Tensor as Name};
use moepress_quant::codec::Packing;
use moepress_quant::formats::encode_nearest;
use moepress_quant::{Dtype, Factored, Format, LowRank, Plain, Stored};

const IDS: [u32; 10] = [1, 5, 2, 9, 30, 5, 5, 0, 17, 3];

fn logits(toy: &Toy) -> Vec<f32> {
    logits_as(toy, Precision::Exact)
}

fn logits_as(toy: &Toy, precision: Precision) -> Vec<f32> {
    let model = Model::load(toy).unwrap();
    let spans = [Span { tokens: 5, start: 0, length: 5 }; 2];
    let hidden = model.forward(&IDS, &spans, None, precision).unwrap();
    model.logits(&hidden, precision).unwrap()
}

fn rows(stored: &Stored, rows: std::ops::Range<usize>) -> Stored {
    let (_, cols) = stored.matrix_shape();
    let values = &stored.to_f32()[rows.start * cols..rows.end * cols];
    Stored::Plain(Plain::from_f32(Dtype::F32, vec![rows.len(), cols], values))
}

fn cols(stored: &Stored, cols: std::ops::Range<usize>) -> Stored {
    let (count, width) = stored.matrix_shape();
    let values: Vec<f32> = stored.to_f32().chunks(width).flat_map(|row| row[cols.clone()].to_vec()).collect();
    Stored::Plain(Plain::from_f32(Dtype::F32, vec![count, cols.len()], &values))
}

#[test]
fn an_expert_in_segments_computes_the_same() {
    let whole = Toy::new();
    let mut cut = Toy::new();
    let Mlp::Moe(moe) = &mut cut.spec.layers[1].mlp else { panic!() };
    let widths = [5, 1, moe.experts[2].width() - 6];
    let format = moe.experts[2].segments[0].gate_proj;
    moe.experts[2].segments = widths.map(|width| Segment::uniform(width, format)).to_vec();
    for projection in Projection::ALL {
        let part = |segment| Name::Layer(1, Part::Expert { expert: 2, segment, projection });
        let stored = cut.weights.remove(&part(0)).unwrap();
        let mut first = 0;
        for (segment, width) in widths.into_iter().enumerate() {
            let run = first..first + width;
            let slice = if projection == Projection::Down { cols(&stored, run) } else { rows(&stored, run) };
            cut.weights.insert(part(segment), slice);
            first += width;
        }
    }
    close(&logits(&whole), &logits(&cut), 1e-5);
}

#[test]
fn rows_that_share_an_expert_compute_as_copies_of_it() {
    let mut copies = Toy::new();
    let mut alias = Toy::new();
    for projection in Projection::ALL {
        let part = |expert| Name::Layer(0, Part::Expert { expert, segment: 0, projection });
        let shared = copies.weights[&part(1)].clone();
        copies.weights.insert(part(3), shared);
        alias.weights.remove(&part(3));
    }
    let Mlp::Moe(moe) = &mut alias.spec.layers[0].mlp else { panic!() };
    moe.experts.truncate(3);
    moe.router = vec![0, 1, 2, 1];
    alias.spec.validate().unwrap();
    close(&logits(&copies), &logits(&alias), 1e-6);
}

#[test]
fn packed_weights_compute_as_their_decoded_values() {
    for format in
        ["bf16", "ternary-g32", "int2-g32", "int3-sym-g64", "int4-row", "int8-g128", "low-rank-r2-s1"]
    {
        let (mut packed, mut decoded) = (Toy::new(), Toy::new());
        for (name, stored) in &mut packed.weights {
            let (rows, cols) = stored.matrix_shape();
            let values = stored.to_f32();
            *stored = match format.parse().unwrap() {
                Format::Plain(dtype) => Stored::Plain(Plain::from_f32(dtype, stored.shape(), &values)),
                // Any numbers will do.
                Format::LowRank(LowRank { rank, kept })
                    if matches!(name, Name::Layer(_, Part::Expert { .. })) =>
                {
                    let parts = [rows * rank, rank * cols, kept * cols].map(|count| &values[..count]);
                    let places = (0..kept as u32).collect();
                    Stored::Factored(
                        Factored::new((rows, cols), parts[0], parts[1], parts[2], places).unwrap(),
                    )
                }
                Format::LowRank(_) => continue,
                Format::Grouped(_) if matches!(name, Name::FinalNorm) || stored.shape().len() == 1 => {
                    continue;
                }
                Format::Grouped(format) => {
                    Stored::Packed(encode_nearest(format, rows, cols, &values, None).unwrap())
                }
            };
            let plain = Plain::from_f32(Dtype::F32, stored.shape(), &stored.to_f32());
            decoded.weights.insert(*name, Stored::Plain(plain));
        }
        close(&logits(&packed), &logits(&decoded), 1e-5);
        // Eight bits per activation: a tiny model with random weights has nothing to average errors over.
        close(&logits_as(&packed, Precision::Fast), &logits(&decoded), 5e-2);
    }
}

#[test]
fn sequences_of_a_batch_do_not_see_each_other() {
    let model = Model::load(&Toy::new()).unwrap();
    let together = model.hidden(&IDS, 2).unwrap();
    let apart = IDS.chunks(5).flat_map(|ids| model.hidden(ids, 1).unwrap());
    close(&together, &apart.collect::<Vec<_>>(), 1e-5);
}

#[test]
fn what_cannot_run_is_refused() {
    let toy = Toy::new();
    let model = Model::load(&toy).unwrap();
    assert!(matches!(model.hidden(&[], 1), Err(RuntimeError::Empty)));
    assert!(matches!(model.hidden(&[1, 2, 3], 2), Err(RuntimeError::Batch { tokens: 3, batch: 2 })));
    assert!(matches!(model.hidden(&[1], 0), Err(RuntimeError::Batch { .. })));
    assert!(matches!(model.hidden(&[32], 1), Err(RuntimeError::Token { id: 32, vocab: 32 })));
    assert!(matches!(model.hidden(&[0; 25], 1), Err(RuntimeError::Context { tokens: 25, context: 24 })));
    let mut misshapen = Toy::new();
    misshapen.spec.hidden += 2;
    assert!(matches!(Model::load(&misshapen), Err(RuntimeError::Weight { .. })));
}

#[test]
fn unpacking_codes_changes_no_bit() {
    let mut toy = Toy::new();
    for stored in toy.weights.values_mut().filter(|stored| stored.shape().len() == 2) {
        let ((rows, cols), values) = (stored.matrix_shape(), stored.to_f32());
        let Ok(Format::Grouped(format)) = "int4-row".parse() else { panic!() };
        let packed = encode_nearest(format, rows, cols, &values, None).unwrap();
        *stored = Stored::Packed(packed.repacked(Packing::Planes));
    }
    let [unpacked, stored] = [Model::load, Model::load_as_stored].map(|load| load(&toy).unwrap());
    for precision in [Precision::Exact, Precision::Fast] {
        let [a, b] = [&unpacked, &stored].map(|model| {
            let spans = [Span { tokens: 5, start: 0, length: 5 }; 2];
            model.logits(&model.forward(&IDS, &spans, None, precision).unwrap(), precision).unwrap()
        });
        assert_eq!(a, b);
    }
}

#[test]
fn a_budget_changes_no_bit() {
    let toy = Toy::new();
    let sizes = expert_bytes(&toy.spec);
    let expert = sizes[0][0];
    let dense = toy.spec.total_bytes() - sizes.iter().flatten().sum::<u64>();
    let whole = Model::load(&toy).unwrap().hidden(&IDS, 2).unwrap();
    let source: Arc<dyn Source + Send + Sync> = Arc::new(toy);
    for (name, build) in crate::cache::POLICIES {
        for (experts, read_ahead) in [(2, false), (3, true), (8, true)] {
            let budget = dense + experts * expert;
            let mut model =
                Model::load_within(source.clone(), budget, build(None), read_ahead, OnMiss::Exact).unwrap();
            model.record();
            for _ in 0..3 {
                assert_eq!(model.hidden(&IDS, 2).unwrap(), whole, "{name}, {experts} experts");
            }
            let (report, trace) = (model.cache_report().unwrap(), model.recorded().unwrap());
            let distinct: std::collections::BTreeSet<_> = trace.visits.iter().flat_map(Visit::ids).collect();
            assert_eq!(report.uses, trace.uses() as u64);
            assert_eq!(report.uses, report.kept + report.ahead + report.late + report.missed);
            assert!(report.bytes_read >= distinct.len() as u64 * expert && report.missed > 0);
            assert!(
                report.read_ahead >= report.ahead + report.late && (read_ahead || report.read_ahead == 0)
            );
            // What a layer expects is of the next, which the last has not.
            assert!(trace.visits.iter().all(|visit| (visit.layer == 0) != visit.expected.is_empty()));
            if experts == 8 {
                assert!(report.bytes_read <= 8 * expert, "{name}: all fit, each is read once");
            }
        }
    }
    let small =
        Model::load_within(source, dense + expert, crate::cache::POLICIES[0].1(None), false, OnMiss::Exact);
    let needed = dense + 2 * expert;
    assert!(matches!(small, Err(RuntimeError::Budget { needed: n, .. }) if n == needed));
}

#[test]
fn high_bits_do_for_experts_with_little_gate() {
    let policy = || crate::cache::POLICIES[0].1(None);
    let within = |toy: Toy, more: u64| {
        let sizes = expert_bytes(&toy.spec);
        let dense = toy.spec.total_bytes() - sizes.iter().flatten().sum::<u64>();
        let source: Arc<dyn Source + Send + Sync> = Arc::new(toy);
        Model::load_within(source, dense + more, policy(), false, OnMiss::LowPlane)
    };
    assert!(matches!(within(Toy::new(), 1 << 20), Err(RuntimeError::NoPlanes)));
    let planes = || {
        let mut toy = Toy::new();
        for (name, stored) in &mut toy.weights {
            if !matches!(name, Name::Layer(_, part) if part.expert().is_some()) {
                continue;
            }
            let ((rows, cols), values) = (stored.matrix_shape(), stored.to_f32());
            let Ok(Format::Grouped(format)) = "int8-row".parse() else { panic!() };
            let packed = encode_nearest(format, rows, cols, &values, None).unwrap();
            *stored = Stored::Packed(packed.repacked(Packing::Planes));
        }
        toy
    };
    let exact = Model::load(&planes()).unwrap().hidden(&IDS, 1).unwrap();
    assert!(matches!(within(planes(), 2000), Err(RuntimeError::Budget { .. })));
    let run = || {
        let model = within(planes(), 1 << 20).unwrap();
        let hidden: Vec<_> = (0..2).map(|_| model.hidden(&IDS, 1).unwrap()).collect();
        (hidden, model.cache_report().unwrap())
    };
    let (hidden, report) = run();
    assert_eq!(run().0, hidden);
    // Those with much gate are read the first time, and in memory the second.
    assert!(report.low_plane > 0 && report.kept > 0 && report.missed > 0);
    assert_eq!(report.low_plane + report.kept + report.missed, report.uses);
    assert_ne!(hidden[0], exact);
    close(&hidden[0], &exact, 0.2);
}
