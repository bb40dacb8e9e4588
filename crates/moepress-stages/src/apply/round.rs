//! Rounding matrices whose inputs are known.

use super::ApplyError;
use super::refit::refit;
use super::waiting::{Rounding, Waiting};
use moepress_model::{Part, Projection, Tensor};
use moepress_numerics::ridge::Sums;
use moepress_quant::formats::encode_on;
use moepress_quant::solve::{Factor, Options, Report, Run, SolveError, search_scales};
use moepress_quant::{Dtype, Grouped, Plain, Stored};

pub use super::refit::Refitted;

/// What reaches the matrices.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Σ x xᵀ, `[cols, cols]`; of the `down_proj` of an expert with the columns of all segments.
    pub gram: &'a [f64],
    /// What should come out: over all tokens, and over those that a fit is judged by.
    pub wanted: Option<(Sums<'a>, Sums<'a>)>,
}

/// What became of a matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Solved {
    /// Rows of the matrix.
    pub rows: usize,
    /// What the solver did.
    pub report: Report,
}

/// What became of matrices that share their inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decided {
    /// Those that a solver rounded.
    pub solved: Vec<Solved>,
    /// What was fitted anew.
    pub refit: Option<Refitted>,
}

/// Rounds those matrices of `layer` that share their inputs; those that `waiting` does not name are left as they are.
/// The segments of a `down_proj` come together and in order.
///
/// # Errors
/// A matrix or the sums hold what no solver can work with.
pub fn round(
    layer: usize,
    waiting: &Waiting,
    inputs: Inputs<'_>,
    matrices: &mut [(Part, Stored)],
) -> Result<Decided, ApplyError> {
    let mut decided = Decided::default();
    if let [(Part::Expert { expert, projection: Projection::Down, .. }, _), ..] = matrices {
        let expert = *expert;
        if let Some((all, held_out)) = inputs.wanted.filter(|_| waiting.refit.contains(&expert)) {
            decided.refit = Some(refit(layer, expert, all, held_out, matrices)?);
        }
        return round_segments(layer, waiting, inputs.gram, matrices, &mut decided).map(|()| decided);
    }
    let mut factors = Factors { gram: inputs.gram, known: None };
    for (part, stored) in matrices {
        let (Some(rounding), (_, cols)) = (waiting.matrices.get(part), stored.matrix_shape()) else {
            continue;
        };
        let solved = round_one(*rounding, stored, || factors.of(options(*rounding), cols));
        decided.solved.extend(solved.map_err(|source| failed(layer, *part, source))?);
    }
    Ok(decided)
}

fn failed(layer: usize, part: Part, source: SolveError) -> ApplyError {
    ApplyError::Solve { tensor: Tensor::Layer(layer, part).to_string(), source }
}

/// The factor that was made last, which serves all matrices of a kind.
struct Factors<'a> {
    gram: &'a [f64],
    known: Option<(Options, Factor)>,
}

impl Factors<'_> {
    fn of(&mut self, options: Options, cols: usize) -> Result<&Factor, SolveError> {
        let known = match self.known.take().filter(|(of, _)| *of == options) {
            Some(known) => known,
            None => (options, Factor::new(self.gram, cols, options)?),
        };
        Ok(&self.known.insert(known).1)
    }
}

fn options(rounding: Rounding) -> Options {
    match rounding {
        Rounding::Gptq { options, .. } => options,
        Rounding::Within { damp, .. } => Options { damp, ..Options::default() },
        Rounding::Plain | Rounding::Nearest { .. } | Rounding::Hqq { .. } => Options::default(),
    }
}

/// Segments of one `down_proj`: those with a grid of their own make up for each other's errors.
fn round_segments(
    layer: usize,
    waiting: &Waiting,
    gram: &[f64],
    matrices: &mut [(Part, Stored)],
    decided: &mut Decided,
) -> Result<(), ApplyError> {
    let widths: Vec<usize> = matrices.iter().map(|(_, stored)| stored.matrix_shape().1).collect();
    let all: usize = widths.iter().sum();
    let mut joint: Vec<Joint> = vec![];
    let mut first = 0;
    for (at, (part, stored)) in matrices.iter_mut().enumerate() {
        let columns: Vec<usize> = (first..first + widths[at]).collect();
        first += widths[at];
        match waiting.matrices.get(part) {
            Some(&Rounding::Within { format, damp, step, bytes }) => {
                joint.push(Joint { at, columns, format, damp, step, bytes });
            }
            Some(&rounding) => {
                let gram = square(gram, all, &columns);
                let solved = Factors { gram: &gram, known: None };
                let solved = with_factor(solved, rounding, stored);
                decided.solved.extend(solved.map_err(|source| failed(layer, *part, source))?);
            }
            None => {}
        }
    }
    let Some(first) = joint.first() else { return Ok(()) };
    let name = matrices[first.at].0;
    let rows = matrices[first.at].1.matrix_shape().0;
    let columns: Vec<usize> = joint.iter().flat_map(|joint| joint.columns.clone()).collect();
    let values: Vec<Vec<f32>> = joint.iter().map(|joint| matrices[joint.at].1.to_f32()).collect();
    let row = |row: usize| {
        values.iter().zip(&joint).flat_map(move |(values, joint)| {
            let width = joint.columns.len();
            values[row * width..(row + 1) * width].iter().copied()
        })
    };
    let w: Vec<f32> = (0..rows).flat_map(row).collect();
    let run = || -> Result<_, SolveError> {
        let damp = Options { damp: first.damp, ..Options::default() };
        let factor = Factor::new(&square(gram, all, &columns), columns.len(), damp)?;
        let allowed = joint.iter().map(|joint| joint.bytes).sum();
        let run = |joint: &Joint| Run { format: joint.format, cols: joint.columns.len(), step: joint.step };
        factor.solve_within(&joint.iter().map(run).collect::<Vec<_>>(), allowed, rows, &w)
    };
    let (packed, report) = run().map_err(|source| failed(layer, name, source))?;
    for (joint, packed) in joint.iter().zip(packed) {
        matrices[joint.at].1 = Stored::Packed(packed);
    }
    decided.solved.push(Solved { rows, report });
    Ok(())
}

/// A segment whose grid has one step.
struct Joint {
    /// Among the matrices.
    at: usize,
    /// Of the gram.
    columns: Vec<usize>,
    format: Grouped,
    damp: f64,
    step: f32,
    bytes: u64,
}

/// These rows and columns of a square matrix.
fn square(matrix: &[f64], n: usize, columns: &[usize]) -> Vec<f64> {
    columns.iter().flat_map(|&i| columns.iter().map(move |&j| matrix[i * n + j])).collect()
}

fn with_factor(
    mut factors: Factors<'_>,
    rounding: Rounding,
    stored: &mut Stored,
) -> Result<Option<Solved>, SolveError> {
    let cols = stored.matrix_shape().1;
    round_one(rounding, stored, || factors.of(options(rounding), cols))
}

fn round_one<'f>(
    rounding: Rounding,
    stored: &mut Stored,
    factor: impl FnOnce() -> Result<&'f Factor, SolveError>,
) -> Result<Option<Solved>, SolveError> {
    let (rows, cols) = stored.matrix_shape();
    let (packed, report) = match rounding {
        Rounding::Plain => return Ok(None),
        Rounding::Nearest { format, grid, codec } => {
            let packed = encode_on(format, grid, rows, cols, &stored.to_f32(), None)?;
            *stored = Stored::Packed(packed.repacked(codec));
            return Ok(None);
        }
        Rounding::Hqq { format, codec } => {
            let (packed, _) = search_scales(format, rows, cols, &stored.to_f32())?;
            *stored = Stored::Packed(packed.repacked(codec));
            return Ok(None);
        }
        Rounding::Gptq { format, codec, .. } => {
            let (packed, report) = factor()?.solve(format, rows, &stored.to_f32())?;
            (packed.repacked(codec), report)
        }
        Rounding::Within { format, step, bytes, .. } => {
            let run = Run { format, cols, step };
            let (mut packed, report) = factor()?.solve_within(&[run], bytes, rows, &stored.to_f32())?;
            let Some(packed) = packed.pop() else { return Ok(None) };
            (packed, report)
        }
    };
    *stored = Stored::Packed(packed);
    Ok(Some(Solved { rows, report }))
}

/// Keeps the dtype of what was plain.
pub(super) fn plain_like(stored: &Stored, values: &[f32]) -> Stored {
    let dtype = match stored {
        Stored::Plain(plain) => plain.dtype,
        Stored::Packed(_) | Stored::Factored(_) => Dtype::Bf16,
    };
    Stored::Plain(Plain::from_f32(dtype, stored.shape(), values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use moepress_quant::Format;
    use moepress_quant::codec::Packing;
    use moepress_quant::formats::encode_nearest;
    use moepress_quant::solve::Curvature;
    use std::collections::{BTreeMap, BTreeSet};

    const COLS: usize = 40;

    fn part(expert: usize) -> Part {
        Part::Expert { expert, segment: 0, projection: Projection::Up }
    }

    fn down(segment: usize) -> Part {
        Part::Expert { expert: 3, segment, projection: Projection::Down }
    }

    fn grouped(name: &str) -> Grouped {
        match name.parse() {
            Ok(Format::Grouped(grouped)) => grouped,
            other => panic!("{other:?}"),
        }
    }

    fn value(at: usize) -> f32 {
        ((at * 37 % 101) as f32 - 50.0) / 64.0
    }

    fn matrix(rows: usize, cols: usize, salt: usize) -> Stored {
        let values: Vec<f32> = (0..rows * cols).map(|at| value(at * 7 + salt)).collect();
        Stored::Plain(Plain::from_f32(Dtype::F32, vec![rows, cols], &values))
    }

    fn inputs() -> Vec<f64> {
        (0..90 * COLS).map(|at| f64::from(value(at * at + 3))).collect()
    }

    fn gram(inputs: &[f64]) -> Vec<f64> {
        let mut gram = vec![0.0; COLS * COLS];
        for x in inputs.chunks(COLS) {
            (0..COLS * COLS).for_each(|at| gram[at] += x[at / COLS] * x[at % COLS]);
        }
        gram
    }

    fn waiting(matrices: impl IntoIterator<Item = (Part, Rounding)>) -> Waiting {
        Waiting { matrices: BTreeMap::from_iter(matrices), refit: BTreeSet::new() }
    }

    #[test]
    fn one_factor_serves_all_and_no_token_means_nearest() {
        let gram = gram(&inputs());
        let options = Options { act_order: true, ..Options::default() };
        let gptq = Rounding::Gptq { format: grouped("int3-g32"), options, codec: Packing::Best };
        let waiting = waiting([(part(0), gptq), (part(1), gptq)]);
        let matrices = || {
            vec![(part(0), matrix(5, COLS, 1)), (part(1), matrix(3, COLS, 2)), (part(2), matrix(2, COLS, 3))]
        };
        let mut rounded = matrices();
        let of = |gram| Inputs { gram, wanted: None };
        let solved = round(2, &waiting, of(&gram), &mut rounded).unwrap().solved;
        let factor = Factor::new(&gram, COLS, options).unwrap();
        for (at, (part, stored)) in matrices().into_iter().enumerate().take(2) {
            let (packed, report) =
                factor.solve(grouped("int3-g32"), stored.matrix_shape().0, &stored.to_f32()).unwrap();
            assert_eq!(rounded[at], (part, Stored::Packed(packed.repacked(Packing::Best))));
            assert_eq!(solved[at].report, report);
            assert!(report.objective < report.objective_nearest);
        }
        assert_eq!((&rounded[2], solved.len()), (&matrices()[2], 2));
        let mut rounded = matrices();
        let zeros = vec![0.0; COLS * COLS];
        let solved = round(2, &waiting, of(&zeros), &mut rounded).unwrap().solved;
        assert_eq!(solved[0].report.curvature, Curvature::Empty);
        let nearest = encode_nearest(grouped("int3-g32"), 5, COLS, &matrix(5, COLS, 1).to_f32(), None);
        assert_eq!(rounded[0].1, Stored::Packed(nearest.unwrap().repacked(Packing::Best)));
        let nan = vec![f64::NAN; COLS * COLS];
        let error = round(2, &waiting, of(&nan), &mut matrices()).unwrap_err().to_string();
        assert!(error.contains("model.layers.2.mlp.experts.0") && error.contains("not finite"), "{error}");
    }

    #[test]
    fn segments_stay_within_their_bytes_and_what_is_plain_stays() {
        let gram = gram(&inputs());
        let within =
            |format, bytes| Rounding::Within { format: grouped(format), damp: 0.01, step: 0.125, bytes };
        let all = [
            (down(0), within("int4-sym-row", 250)),
            (down(1), Rounding::Plain),
            (down(2), within("ternary-row", 60)),
        ];
        let mut matrices =
            vec![(down(0), matrix(30, 16, 1)), (down(1), matrix(30, 8, 2)), (down(2), matrix(30, 16, 5))];
        let before = matrices.clone();
        let decided = round(2, &waiting(all), Inputs { gram: &gram, wanted: None }, &mut matrices).unwrap();
        assert_eq!(matrices[1], before[1]);
        let bytes = matrices[0].1.stored_bytes() + matrices[2].1.stored_bytes();
        assert!(bytes <= 310 && bytes > 280, "{bytes}");
        assert_eq!(decided.solved.len(), 1, "solved together");
        assert_eq!(matrices[2].1.format(), Format::Grouped(grouped("ternary-row")));
    }

    #[test]
    fn a_fit_makes_up_for_columns_that_went() {
        // y = W x over 40 columns of which only 24 are left.
        let (rows, kept) = (6, 24);
        let whole = matrix(rows, COLS, 4).to_f32();
        let x = inputs();
        let sums = |tokens: std::ops::Range<usize>| {
            let (mut gram, mut cross, mut power) = (vec![0.0; kept * kept], vec![0.0; rows * kept], 0.0);
            for x in x.chunks(COLS).skip(tokens.start).take(tokens.len()) {
                for row in 0..rows {
                    let y: f64 = (0..COLS).map(|col| f64::from(whole[row * COLS + col]) * x[col]).sum();
                    (0..kept).for_each(|col| cross[row * kept + col] += y * x[col]);
                    power += y * y;
                }
                (0..kept * kept).for_each(|at| gram[at] += x[at / kept] * x[at % kept]);
            }
            (gram, cross, power)
        };
        let (all, held) = (sums(0..90), sums(68..90));
        let of = |s: &'_ (Vec<f64>, Vec<f64>, f64)| -> (Vec<f64>, Vec<f64>, f64) { s.clone() };
        let (all, held) = (of(&all), of(&held));
        let wanted = (
            Sums { gram: &all.0, cross: &all.1, power: all.2 },
            Sums { gram: &held.0, cross: &held.1, power: held.2 },
        );
        let left: Vec<f32> = whole.chunks(COLS).flat_map(|row| &row[..kept]).copied().collect();
        let cut = |first: usize, width: usize| {
            let values: Vec<f32> =
                left.chunks(kept).flat_map(|row| &row[first..first + width]).copied().collect();
            Stored::Plain(Plain::from_f32(Dtype::F32, vec![rows, width], &values))
        };
        let mut matrices = vec![(down(0), cut(0, 10)), (down(1), cut(10, 14))];
        let mut waiting = waiting([(down(0), Rounding::Plain), (down(1), Rounding::Plain)]);
        let inputs = Inputs { gram: &all.0, wanted: Some(wanted) };
        assert_eq!(round(2, &waiting, inputs, &mut matrices.clone()).unwrap().refit, None);
        waiting.refit.insert(3);
        let refit = round(2, &waiting, inputs, &mut matrices).unwrap().refit.unwrap();
        assert!(refit.ridge.is_some() && refit.after < refit.before, "{refit:?}");
        let error = |of: &[Stored; 2]| {
            let parts = of.each_ref().map(Stored::to_f32);
            let map: Vec<f64> = (0..rows)
                .flat_map(|row| {
                    [&parts[0][row * 10..(row + 1) * 10], &parts[1][row * 14..(row + 1) * 14]].concat()
                })
                .map(f64::from)
                .collect();
            moepress_numerics::ridge::squared_error(wanted.0, &map, rows, kept).unwrap()
        };
        let (before, after) =
            (error(&[cut(0, 10), cut(10, 14)]), error(&[matrices[0].1.clone(), matrices[1].1.clone()]));
        assert!(after < before, "{after} {before}");
    }
}
