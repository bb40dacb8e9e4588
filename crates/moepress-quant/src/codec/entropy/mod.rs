//! Entropy coding: codes that occur often take few bits. One table of frequencies per matrix, random access to rows.
//!
//! Rows are coded in runs of neighbouring ones, so that narrow rows do not pay for a beginning and an end each; a row
//! is read by decoding its run. `docs/format.md` has the bytes.

mod frequencies;
mod header;
mod rans;

use crate::StoredError;
use frequencies::Frequencies;
use header::{Header, ends};
use rans::{Decoder, Encoder, LANES};
use rayon::prelude::*;

/// Codes of a run at least: what it takes beside its codes, about two bytes, is then little.
const RUN: usize = 1024;

/// Codes of a byte at most, so that a small file cannot stand for a huge matrix.
const DENSEST: usize = 1024;

/// The codes of a matrix as they lie in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entropy {
    bytes: Vec<u8>,
    header: Header,
    /// Where the first run begins in `bytes`.
    start: usize,
    /// Where every run ends.
    ends: Vec<u32>,
}

/// How a matrix is to be coded.
struct Plan {
    frequencies: Frequencies,
    /// Rows of a run.
    rows: usize,
}

impl Plan {
    /// `None` where there are no codes, or where they would take `most` bytes or more.
    fn new(cols: usize, codes: &[u8], most: usize) -> Option<Self> {
        let mut counts = [0; 256];
        codes.iter().for_each(|&code| counts[usize::from(code)] += 1);
        let frequencies = Frequencies::fit(&counts)?;
        let pays = frequencies.cost(&counts) / 8.0 < most as f64;
        pays.then(|| Self { frequencies, rows: RUN.div_ceil(cols).next_power_of_two() })
    }

    /// The bytes of every run.
    fn runs(&self, cols: usize, codes: &[u8]) -> Vec<Vec<u8>> {
        let encoder = Encoder::new(&self.frequencies);
        codes.par_chunks(self.rows * cols).with_min_len(8).map(|run| encoder.encode(run)).collect()
    }

    /// How many they are.
    fn lengths(&self, cols: usize, codes: &[u8]) -> Vec<usize> {
        let (encoder, run) = (Encoder::new(&self.frequencies), self.rows * cols);
        let some = |codes: &[u8]| {
            let mut runs = codes.chunks_exact(run);
            match std::array::from_fn(|_| runs.next().unwrap_or_default()) {
                lanes if codes.len() == LANES * run => encoder.lengths::<LANES>(lanes).to_vec(),
                _ => codes.chunks(run).flat_map(|codes| encoder.lengths([codes])).collect(),
            }
        };
        codes.par_chunks(LANES * run).with_min_len(2).flat_map_iter(some).collect()
    }
}

const TOO_MANY: &str = "are too many for their bytes";

/// Whether that many codes may be so few bytes.
fn holds(codes: usize, bytes: usize) -> bool {
    codes.div_ceil(DENSEST) <= bytes
}

impl Entropy {
    /// The codes of a matrix of `cols` > 0 columns, one a byte, row-major. `None` where there are none, more than can
    /// be held, or where they would take `most` bytes or more.
    pub(super) fn encode(cols: usize, codes: &[u8], most: usize) -> Option<Self> {
        let plan = Plan::new(cols, codes, most)?;
        let runs = plan.runs(cols, codes);
        let lengths: Vec<usize> = runs.iter().map(Vec::len).collect();
        let header = Header::new(plan.frequencies, plan.rows, &lengths)?;
        let mut bytes = header.write(&lengths);
        let start = bytes.len();
        let ends = ends(start, lengths)?;
        runs.iter().for_each(|run| bytes.extend(run));
        let pays = bytes.len() < most && holds(codes.len(), bytes.len());
        pays.then_some(Self { bytes, header, start, ends })
    }

    /// The bytes that [`encode`](Self::encode) would make.
    pub(super) fn size(cols: usize, codes: &[u8], most: usize) -> Option<usize> {
        let plan = Plan::new(cols, codes, most)?;
        let lengths = plan.lengths(cols, codes);
        let start = Header::new(plan.frequencies, plan.rows, &lengths)?.bytes(lengths.len());
        let end = *ends(start, lengths)?.last()? as usize;
        (end < most && holds(codes.len(), end)).then_some(end)
    }

    /// Takes bytes for the codes of a matrix of that shape. What the rows hold is left to
    /// [`Stored::validate`](crate::Stored::validate).
    ///
    /// # Errors
    /// What is wrong with them. Where there is nothing, a matrix of that shape can be held in memory: it has at most 1024
    /// codes a byte.
    pub fn parse(rows: usize, cols: usize, bytes: Vec<u8>) -> Result<Self, StoredError> {
        let wrong = |reason| StoredError::Codes { row: 0, reason };
        if !rows.checked_mul(cols).is_some_and(|codes| holds(codes, bytes.len())) {
            return Err(wrong(TOO_MANY));
        }
        let parsed = Header::read(&bytes, rows).map_err(wrong)?;
        let (header, ends, start) = parsed;
        Ok(Self { bytes, header, start, ends })
    }

    /// The bytes in a file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes in a file.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The codes of consecutive rows of `cols` > 0 columns, beginning with row `first`, one a byte.
    pub(super) fn read(&self, cols: usize, first: usize, mut out: &mut [u8]) {
        let (decoder, rows) = (Decoder::new(&self.header.frequencies), self.header.rows);
        // Within a run, what is wanted comes after what is not.
        let (mut run, skipped) = (first / rows, first % rows * cols);
        if skipped > 0 {
            let now = out.split_off_mut(..out.len().min(rows * cols - skipped)).unwrap_or_default();
            let mut all = vec![0; skipped + now.len()];
            decoder.decode([self.run(run)], &mut all);
            now.copy_from_slice(&all[skipped..]);
            run += 1;
        }
        let (lanes, rest) = out.split_at_mut(out.len() / (LANES * rows * cols) * LANES * rows * cols);
        for out in lanes.chunks_exact_mut(LANES * rows * cols) {
            decoder.decode::<LANES>(std::array::from_fn(|lane| self.run(run + lane)), out);
            run += LANES;
        }
        for (out, run) in rest.chunks_mut(rows * cols).zip(run..) {
            decoder.decode([self.run(run)], out);
        }
    }

    /// Decodes all rows.
    ///
    /// # Errors
    /// The first row of what no encoder writes for a matrix of that shape with such codes as the format has, and why.
    pub(super) fn check(
        &self,
        rows: usize,
        cols: usize,
        has: impl Fn(u8) -> bool,
    ) -> Result<(), (usize, &'static str)> {
        let Header { frequencies, rows: of_run, .. } = &self.header;
        if rows.div_ceil(*of_run) != self.ends.len() || cols == 0 {
            return Err((0, "are those of a matrix of another shape"));
        }
        if !rows.checked_mul(cols).is_some_and(|codes| holds(codes, self.bytes.len())) {
            return Err((0, TOO_MANY));
        }
        if frequencies.codes().any(|code| !has(code)) {
            return Err((0, "are others than the format has"));
        }
        let decoder = Decoder::new(frequencies);
        let whole = of_run.saturating_mul(cols).min(rows * cols);
        let wrong = |lanes: &usize| {
            let runs = lanes * LANES..self.ends.len().min((lanes + 1) * LANES);
            let mut codes = vec![0; LANES * whole];
            let full = runs.end * of_run <= rows && runs.len() == LANES;
            if full
                && decoder
                    .decode::<LANES>(std::array::from_fn(|lane| self.run(runs.start + lane)), &mut codes)
            {
                return None;
            }
            runs.into_iter().find(|run| {
                let codes = &mut codes[..(rows - run * of_run).min(*of_run) * cols];
                !decoder.decode([self.run(*run)], codes)
            })
        };
        let lanes = (0..self.ends.len().div_ceil(LANES)).into_par_iter().with_min_len(2);
        match lanes.find_map_first(|lanes| wrong(&lanes)) {
            Some(run) => Err((run * of_run, "are cut short or damaged")),
            None => Ok(()),
        }
    }

    fn run(&self, run: usize) -> &[u8] {
        let at = |run: usize| self.ends.get(run).copied().unwrap_or_default() as usize;
        let begin = if run == 0 { self.start } else { at(run - 1) };
        self.bytes.get(begin..at(run)).unwrap_or_default()
    }
}
