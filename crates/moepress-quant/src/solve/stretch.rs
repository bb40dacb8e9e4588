//! Keeping a matrix within the bytes that a budget gave it.

use super::{Factor, Report, Run, SolveError};
use crate::Packed;
use crate::codec::Packing;
use half::f16;

/// Times that a matrix is solved at most before the best so far is taken; then until it fits at all.
const TRIES: usize = 6;

/// How little may be left over.
const CLOSE: f64 = 0.998;

impl Factor {
    /// As [`solve_runs`](Self::solve_runs), in the codec of fewest bytes, with the steps of all runs multiplied by
    /// whatever makes the result take `allowed` bytes or few less, everything counted.
    ///
    /// # Errors
    /// As there.
    pub fn solve_within(
        &self,
        runs: &[Run],
        allowed: u64,
        rows: usize,
        w: &[f32],
    ) -> Result<(Vec<Packed>, Report), SolveError> {
        stretch(w.len(), allowed, |by| {
            let stretched = |run: &Run| Run { step: stretched(run.step, by), ..*run };
            let runs: Vec<Run> = runs.iter().map(stretched).collect();
            let (packed, report) = self.solve_runs(&runs, rows, w)?;
            let packed: Vec<Packed> =
                packed.into_iter().map(|packed| packed.repacked(Packing::Best)).collect();
            let bytes = packed.iter().map(Packed::stored_bytes).sum();
            Ok(((packed, report), bytes))
        })
    }
}

/// A step times a factor, as an f16 number above 0.
fn stretched(step: f32, by: f64) -> f32 {
    f16::from_f64(f64::from(step) * by).max(f16::from_bits(1)).min(f16::MAX).to_f32()
}

/// Solves with steps multiplied by some factor near 1, the least found whose result takes at most `allowed` bytes.
/// `weights` is their number, for the slope: twice the step is about one bit less per weight. `solve` returns a result
/// and its bytes. Gives up when a factor of 2¹² does not do, with the smallest result.
///
/// # Errors
/// As of `solve`.
fn stretch<T, E>(
    weights: usize,
    allowed: u64,
    mut solve: impl FnMut(f64) -> Result<(T, u64), E>,
) -> Result<T, E> {
    let slope = (weights.max(8) as f64) / 8.0;
    let goal = allowed as f64 * (1.0 + CLOSE) / 2.0;
    // Exponents of the factor known to be too small, and known to do, with what they came to.
    let mut over: Option<(f64, u64)> = None;
    let mut under: Option<(f64, u64, T)> = None;
    let mut exponent = 0.0f64;
    for attempt in 0.. {
        let (result, bytes) = solve(exponent.exp2())?;
        if bytes <= allowed {
            let close = bytes as f64 >= allowed as f64 * CLOSE;
            if under.as_ref().is_none_or(|(_, most, _)| bytes >= *most) {
                under = Some((exponent, bytes, result));
            }
            if close {
                break;
            }
        } else {
            over = Some((exponent, bytes));
            if exponent >= 12.0 {
                under.get_or_insert((exponent, bytes, result));
            }
        }
        if under.is_some() && (attempt + 1 >= TRIES || exponent >= 12.0) {
            break;
        }
        exponent = match (over, &under) {
            (Some((low, more)), Some((high, less, _))) => {
                // Between the two, where a line through them meets the goal, but not at the ends.
                let share = (more as f64 - goal) / (more - less).max(1) as f64;
                low + (high - low) * share.clamp(0.1, 0.9)
            }
            (Some((low, more)), None) => {
                (low + ((more as f64 - goal) / slope).clamp(0.02, 2.0) * 1.3).min(12.0)
            }
            (None, Some((high, less, _))) => high - ((goal - *less as f64) / slope).clamp(0.005, 0.5),
            (None, None) => break,
        };
    }
    match under {
        Some((_, _, result)) => Ok(result),
        None => solve(12f64.exp2()).map(|(result, _)| result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a matrix whose weights take a bit less with every doubling of the step.
    fn bytes(factor: f64, at_one: f64) -> u64 {
        (10_000.0 / 8.0 * (at_one - factor.log2()).max(0.01)) as u64
    }

    #[test]
    fn comes_close_from_either_side() {
        for at_one in [0.8, 1.0, 1.1, 2.0, 4.0] {
            for allowed in [300, 1250, 1400, 2500] {
                let mut solved = 0;
                let found = stretch(10_000, allowed, |factor| {
                    solved += 1;
                    Ok::<_, ()>((bytes(factor, at_one), bytes(factor, at_one)))
                });
                let found = found.unwrap();
                assert!(found <= allowed && solved <= TRIES + 6, "{at_one} {allowed}: {found} in {solved}");
                assert!(found as f64 >= 0.97 * allowed as f64, "{at_one} {allowed}: {found} in {solved}");
            }
        }
    }

    #[test]
    fn what_never_fits_is_made_small_and_errors_pass() {
        assert_eq!(stretch(100, 3, |factor| Ok::<_, ()>((factor, 5))), Ok(4096.0));
        assert_eq!(stretch(100, 3, |_| Err::<((), u64), _>("no")), Err("no"));
        assert_eq!(stretch(0, 0, |factor| Ok::<_, ()>((factor, 0))), Ok(1.0));
    }
}
