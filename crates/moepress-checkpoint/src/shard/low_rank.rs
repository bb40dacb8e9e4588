//! A matrix of low rank in a file: `NAME.left`, BF16 `[rows, rank]`, `NAME.right`, BF16 `[rank, cols]`, `NAME.rest`, BF16
//! `[kept, cols]`, and `NAME.places`, U32 `[kept]`.

use super::{RawDtype, RawTensor, raw_parts};
use crate::{CheckpointError, Shards};
use moepress_quant::{Dtype, Factored, LowRank, Plain, Stored};

/// The tensors that it is in a file.
pub(super) fn parts(name: &str, factored: Factored) -> Vec<(String, RawTensor)> {
    let Factored { left, right, rest, places } = factored;
    let matrices = [("left", left), ("right", right), ("rest", rest)];
    let mut parts: Vec<_> = matrices
        .into_iter()
        .flat_map(|(part, stored)| raw_parts(&format!("{name}.{part}"), *stored))
        .collect();
    let bytes = places.iter().flat_map(|place| place.to_le_bytes()).collect();
    let places = RawTensor { dtype: RawDtype::U32, shape: vec![places.len()], bytes };
    parts.push((format!("{name}.places"), places));
    parts
}

/// The names of the parts of `name`, `[rows, cols]`, types and shapes checked.
pub(crate) fn low_rank_parts(
    shards: &Shards,
    name: &str,
    format: LowRank,
    [rows, cols]: [usize; 2],
) -> Result<[String; 4], CheckpointError> {
    let LowRank { rank, kept } = format;
    let named = ["left", "right", "rest", "places"].map(|part| format!("{name}.{part}"));
    let shapes = [vec![rows, rank], vec![rank, cols], vec![kept, cols]];
    for (part, shape) in named.iter().zip(&shapes) {
        shards.expect(part, RawDtype::BF16, shape)?;
    }
    shards.expect(&named[3], RawDtype::U32, &[kept])?;
    Ok(named)
}

/// The matrix, validated.
///
/// # Errors
/// A part is missing, has another type or shape, or holds what it cannot.
pub(crate) fn read_low_rank(
    shards: &Shards,
    name: &str,
    format: LowRank,
    [rows, cols]: [usize; 2],
) -> Result<Stored, CheckpointError> {
    let [left, right, rest, places] = low_rank_parts(shards, name, format, [rows, cols])?;
    let plain = |part: &str, shape| {
        let bytes = shards.read(part)?.bytes;
        Ok::<_, CheckpointError>(Box::new(Stored::Plain(Plain { dtype: Dtype::Bf16, shape, bytes })))
    };
    let factored = Factored {
        left: plain(&left, vec![rows, format.rank])?,
        right: plain(&right, vec![format.rank, cols])?,
        rest: plain(&rest, vec![format.kept, cols])?,
        places: shards
            .read(&places)?
            .bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&b| u32::from_le_bytes(b))
            .collect(),
    };
    let stored = Stored::Factored(factored);
    stored.validate().map_err(|e| shards.bad_tensor(name, e))?;
    Ok(stored)
}
