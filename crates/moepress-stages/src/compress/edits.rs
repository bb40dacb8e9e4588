//! From what becomes of every expert and matrix to edits.

use super::choices::{Plan, Segment};
use super::market::Candidate;
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

/// An expert and what becomes of it.
pub(super) struct Fate<'a> {
    pub(super) of: &'a Candidate<'a>,
    /// Its number once experts are joined.
    pub(super) expert: usize,
    pub(super) plan: &'a Plan,
}

impl Fate<'_> {
    fn atoms(&self, segment: &Segment) -> Vec<usize> {
        self.of.runs[segment.runs.clone()].iter().flat_map(|run| run.atoms.clone()).collect()
    }

    /// Whether nothing happens to it.
    fn kept(&self) -> bool {
        matches!(&self.plan.segments[..], [Segment { runs, rungs: None }] if runs.len() == self.of.runs.len())
    }
}

/// The expert without the atoms that it loses; none where it loses none.
pub(super) fn without_dropped(of: &Candidate<'_>, plan: &Plan) -> Option<Edit> {
    let runs = plan.segments.iter().flat_map(|segment| &of.runs[segment.runs.clone()]);
    let mut atoms: Vec<usize> = runs.flat_map(|run| run.atoms.iter().copied()).collect();
    atoms.sort_unstable();
    let width: usize = of.runs.iter().map(|run| run.atoms.len()).sum();
    (atoms.len() < width).then_some(Edit::KeepAtoms { layer: of.layer, expert: of.expert, atoms })
}

/// The edits that make it so. Of a matrix with a rung that is rounded to it.
pub(super) fn edits(fates: &[Fate<'_>], others: &[(Tensor, Option<Rung>)], how: How) -> Vec<Edit> {
    let encode = |tensor, rung: &Rung| Edit::Encode {
        tensor,
        format: Format::Grouped(rung.format),
        solver: Solver::Within { damp: how.damp, step: rung.step, bytes: rung.bytes },
        grid: None,
        codec: Packing::Best,
    };
    let mut edits = vec![];
    for fate in fates.iter().filter(|fate| !fate.kept()) {
        let (layer, expert, segments) = (fate.of.layer, fate.expert, &fate.plan.segments);
        let atoms: Vec<Vec<usize>> = segments.iter().map(|segment| fate.atoms(segment)).collect();
        edits.push(Edit::KeepAtoms { layer, expert, atoms: atoms.concat() });
        if segments.len() > 1 {
            edits.push(Edit::CutSegments { layer, expert, widths: atoms.iter().map(Vec::len).collect() });
        }
        if how.compensate && !segments.is_empty() {
            edits.push(Edit::Refit { layer, expert });
        }
        for (at, segment) in segments.iter().enumerate() {
            for (projection, rung) in Projection::ALL.into_iter().zip(segment.rungs.iter().flatten()) {
                let tensor = Tensor::Layer(layer, Part::Expert { expert, segment: at, projection });
                edits.push(encode(tensor, rung));
            }
        }
    }
    edits.extend(others.iter().filter_map(|(tensor, rung)| Some(encode(*tensor, rung.as_ref()?))));
    edits
}

/// What became of the atoms, in a line or two.
pub(super) fn story(fates: &[Fate<'_>]) -> Vec<String> {
    if fates.is_empty() {
        return vec![];
    }
    let mut atoms: BTreeMap<&'static str, usize> = BTreeMap::new();
    let (mut all, mut segments, mut empty) = (0, 0, vec![]);
    for fate in fates {
        let width: usize = fate.of.runs.iter().map(|run| run.atoms.len()).sum();
        let mut left = 0;
        for segment in &fate.plan.segments {
            let word = match segment.rungs.as_ref().map(|[gate, ..]| gate.format.code) {
                None => "as they are",
                Some(Code::Ternary) => "ternary",
                Some(Code::Int(2)) => "int2",
                Some(Code::Int(3)) => "int3",
                Some(Code::Int(4)) => "int4",
                Some(_) => "int8",
            };
            *atoms.entry(word).or_default() += fate.atoms(segment).len();
            left += fate.atoms(segment).len();
        }
        *atoms.entry("dropped").or_default() += width - left;
        (all, segments) = (all + width, segments + fate.plan.segments.len());
        if left == 0 {
            empty.push(fate.of.name());
        }
    }
    let share =
        |(word, count): (&str, usize)| format!("{:.1}% {word}", 100.0 * count as f64 / all.max(1) as f64);
    let mut notes = vec![format!(
        "compress: of {all} atoms {} (by gate_proj); {:.2} segments per expert",
        atoms.into_iter().map(share).collect::<Vec<_>>().join(", "),
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
