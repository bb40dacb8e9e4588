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
use rans::{Decoder, Encoder};
use rayon::prelude::*;

/// Codes of a run at least: what it takes beside its codes, about two bytes, is then little.
const RUN: usize = 1024;

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

    /// What `each` makes of the codes of every run.
    fn map<T: Send>(&self, cols: usize, codes: &[u8], each: impl Fn(&Encoder, &[u8]) -> T + Sync) -> Vec<T> {
        let encoder = Encoder::new(&self.frequencies);
        codes.par_chunks(self.rows * cols).with_min_len(8).map(|codes| each(&encoder, codes)).collect()
    }
}

impl Entropy {
    /// The codes of a matrix of `cols` > 0 columns, one a byte, row-major. `None` where there are none, more than can
    /// be held, or where they would take `most` bytes or more.
    pub(super) fn encode(cols: usize, codes: &[u8], most: usize) -> Option<Self> {
        let plan = Plan::new(cols, codes, most)?;
        let runs = plan.map(cols, codes, |encoder, codes| {
            let mut bytes = Vec::with_capacity(codes.len());
            encoder.encode(codes, |byte| bytes.push(byte));
            bytes.reverse();
            bytes
        });
        let lengths: Vec<usize> = runs.iter().map(Vec::len).collect();
        let header = Header::new(plan.frequencies, plan.rows, &lengths)?;
        let mut bytes = header.write(&lengths);
        let start = bytes.len();
        let ends = ends(start, lengths)?;
        runs.iter().for_each(|run| bytes.extend(run));
        (bytes.len() < most).then_some(Self { bytes, header, start, ends })
    }

    /// The bytes that [`encode`](Self::encode) would make.
    pub(super) fn size(cols: usize, codes: &[u8], most: usize) -> Option<usize> {
        let plan = Plan::new(cols, codes, most)?;
        let lengths = plan.map(cols, codes, |encoder, codes| {
            let mut length = 0;
            encoder.encode(codes, |_| length += 1);
            length
        });
        let start = Header::new(plan.frequencies, plan.rows, &lengths)?.bytes(lengths.len());
        let end = *ends(start, lengths)?.last()? as usize;
        (end < most).then_some(end)
    }

    /// Takes bytes for the codes of a matrix of that many rows. What the rows hold is left to
    /// [`Stored::validate`](crate::Stored::validate).
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(rows: usize, bytes: Vec<u8>) -> Result<Self, StoredError> {
        let parsed = Header::read(&bytes, rows).map_err(|reason| StoredError::Codes { row: 0, reason })?;
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
        let mut scratch = Vec::new();
        let (mut run, mut skipped) = (first / rows, first % rows * cols);
        while !out.is_empty() {
            let wanted = out.len().min(rows * cols - skipped);
            let (now, later) = out.split_at_mut(wanted);
            if skipped == 0 {
                // What comes first is independent of what comes after.
                decoder.decode(self.run(run), now);
            } else {
                scratch.resize(skipped + wanted, 0);
                decoder.decode(self.run(run), &mut scratch);
                now.copy_from_slice(&scratch[skipped..]);
            }
            (out, run, skipped) = (later, run + 1, 0);
        }
    }

    /// Decodes all rows.
    ///
    /// # Errors
    /// The first row of what no encoder writes for a matrix of that shape with codes below `levels`, and why.
    pub(super) fn check(&self, rows: usize, cols: usize, levels: usize) -> Result<(), (usize, &'static str)> {
        let Header { frequencies, rows: of_run, .. } = &self.header;
        if rows.div_ceil(*of_run) != self.ends.len() || cols == 0 {
            return Err((0, "are those of a matrix of another shape"));
        }
        if frequencies.end() > levels {
            return Err((0, "are others than the format has"));
        }
        let decoder = Decoder::new(frequencies);
        let wrong = |run: &usize| {
            let first = run * of_run;
            let codes = (rows - first).min(*of_run).saturating_mul(cols);
            !decoder.decode(self.run(*run), &mut vec![0; codes])
        };
        match (0..self.ends.len()).into_par_iter().with_min_len(8).find_first(wrong) {
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
