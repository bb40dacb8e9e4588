//! From what becomes of every run to edits.

use super::choices::Pick;
use moepress_model::{Edit, Part, Projection, Solver, Tensor};
use moepress_quant::codec::Packing;
use moepress_quant::formats::Rung;
use moepress_quant::{Code, Format};
use std::collections::BTreeMap;

/// How matrices are rounded.
#[derive(Clone, Copy)]
pub(super) struct How {
    pub(super) damp: f64,
    /// Whether `down_proj` is fitted anew.
    pub(super) compensate: bool,
}

/// Atoms and what becomes of them.
pub(super) type Run<'a> = (Vec<usize>, &'a Pick);

/// An expert with its runs, most salient first.
pub(super) struct Fate<'a> {
    pub(super) layer: usize,
    pub(super) expert: usize,
    pub(super) runs: Vec<Run<'a>>,
}

/// Neighbouring runs that are stored alike.
struct Segment<'a> {
    atoms: Vec<usize>,
    pick: &'a Pick,
    /// Of gate, up and down together.
    bytes: [u64; 3],
}

impl Fate<'_> {
    /// What is left, neighbours that are alike fused.
    fn segments(&self) -> Vec<Segment<'_>> {
        let mut segments: Vec<Segment<'_>> = vec![];
        for (atoms, pick) in self.runs.iter().filter(|(_, pick)| **pick != Pick::Drop) {
            let bytes = match pick {
                Pick::Round(rungs) => [0, 1, 2].map(|at| rungs.get(at).map_or(0, |rung| rung.bytes)),
                Pick::Drop | Pick::Keep => [0; 3],
            };
            match segments.last_mut().filter(|last| alike(last.pick, pick)) {
                Some(last) => {
                    last.atoms.extend(atoms);
                    last.bytes.iter_mut().zip(bytes).for_each(|(sum, bytes)| *sum += bytes);
                }
                None => segments.push(Segment { atoms: atoms.clone(), pick, bytes }),
            }
        }
        segments
    }
}

fn alike(a: &Pick, b: &Pick) -> bool {
    let grid = |rung: &Rung| (rung.format, rung.step.to_bits());
    match (a, b) {
        (Pick::Round(a), Pick::Round(b)) => a.iter().map(grid).eq(b.iter().map(grid)),
        _ => a == b,
    }
}

/// The edits that make it so.
pub(super) fn edits(fates: &[Fate<'_>], others: &[(Tensor, &Pick)], how: How) -> Vec<Edit> {
    let encode = |tensor, rung: &Rung, bytes| Edit::Encode {
        tensor,
        format: Format::Grouped(rung.format),
        solver: Solver::Within { damp: how.damp, step: rung.step, bytes },
        codec: Packing::Best,
    };
    let mut edits = vec![];
    for fate in fates {
        let (layer, expert, segments) = (fate.layer, fate.expert, fate.segments());
        let atoms: Vec<usize> = segments.iter().flat_map(|segment| segment.atoms.clone()).collect();
        let all = fate.runs.iter().map(|(atoms, _)| atoms.len()).sum::<usize>();
        if segments.iter().all(|segment| *segment.pick == Pick::Keep) && atoms.len() == all {
            continue;
        }
        edits.push(Edit::KeepAtoms { layer, expert, atoms });
        if segments.len() > 1 {
            let widths = segments.iter().map(|segment| segment.atoms.len()).collect();
            edits.push(Edit::CutSegments { layer, expert, widths });
        }
        if how.compensate && !segments.is_empty() {
            edits.push(Edit::Refit { layer, expert });
        }
        for (at, segment) in segments.iter().enumerate() {
            let Pick::Round(rungs) = segment.pick else { continue };
            for (projection, rung) in Projection::ALL.into_iter().zip(rungs) {
                let tensor = Tensor::Layer(layer, Part::Expert { expert, segment: at, projection });
                edits.push(encode(tensor, rung, segment.bytes[projection as usize]));
            }
        }
    }
    for (tensor, pick) in others {
        if let Pick::Round(rungs) = pick {
            edits.extend(rungs.iter().map(|rung| encode(*tensor, rung, rung.bytes)));
        }
    }
    edits
}

/// What became of the atoms, in a line or two.
pub(super) fn story(fates: &[Fate<'_>]) -> Vec<String> {
    let mut atoms: BTreeMap<&'static str, usize> = BTreeMap::new();
    let (mut all, mut segments, mut empty) = (0, 0, vec![]);
    for fate in fates {
        for (run, pick) in &fate.runs {
            let word = match pick {
                Pick::Drop => "dropped",
                Pick::Keep => "left as they are",
                // By the coarser half: the formats of gate and down may differ.
                Pick::Round(rungs) => match rungs.first().map(|rung| rung.format.code) {
                    Some(Code::Ternary) => "ternary",
                    Some(Code::Int(2)) => "int2",
                    Some(Code::Int(3)) => "int3",
                    Some(Code::Int(4)) => "int4",
                    _ => "int8",
                },
            };
            *atoms.entry(word).or_default() += run.len();
            all += run.len();
        }
        segments += fate.segments().len();
        if fate.segments().is_empty() {
            empty.push(format!("{}.{}", fate.layer, fate.expert));
        }
    }
    if fates.is_empty() {
        return vec![];
    }
    let share =
        |(word, count): (&str, usize)| format!("{:.1}% {word}", 100.0 * count as f64 / all.max(1) as f64);
    let shares: Vec<String> = atoms.into_iter().map(share).collect();
    let mut notes = vec![format!(
        "compress: of {all} atoms {} (by gate_proj); {:.2} segments per expert",
        shares.join(", "),
        segments as f64 / fates.len() as f64
    )];
    if !empty.is_empty() {
        notes.push(format!(
            "compress: {} experts are left without atoms, stay in the router and contribute zero (layer.expert): {}",
            empty.len(),
            empty.join(" ")
        ));
    }
    notes
}
