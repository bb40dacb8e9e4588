//! One safetensors file of named tensors, and how a [`Stored`] tensor is laid out in it.
//!
//! A plain tensor is one tensor of its name. A packed matrix `NAME` of rows × cols is its codes, U8: `NAME.codes`,
//! `[rows, row_bytes]`, `NAME.trits`, `[rows, row_bytes]`, `NAME.planes`, `[bits, rows, row_bytes]`, or `NAME.entropy`,
//! `[bytes]`, as their codec is; `NAME.scales`, F16 or U8 `[rows, groups]`, or `[1, 1]` where all are one and the same and
//! there are no offsets; and, where its format has them, `NAME.offsets`, F16 `[rows, groups]`. A matrix of low rank is
//! four, see `low_rank`.

mod low_rank;

use crate::{CheckpointError, Shards};
use moepress_quant::codec::{Codec, Codes, Entropy};
use moepress_quant::{Dtype, Grouped, Packed, Plain, Scale, Stored};
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, HashMap};

pub(crate) use low_rank::{low_rank_parts, read_low_rank};

/// The element type of a tensor in a file: one of those made of whole bytes.
pub use safetensors::Dtype as RawDtype;

/// A tensor as its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTensor {
    /// Element type.
    pub dtype: RawDtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Elements, little-endian, row-major.
    pub bytes: Vec<u8>,
}

/// The bytes of a shard of a model: same tensors, same bytes.
///
/// # Errors
/// A tensor whose bytes do not match its type and shape, or names beyond the container's header limit.
pub fn encode_shard(tensors: &BTreeMap<String, RawTensor>) -> Result<Vec<u8>, CheckpointError> {
    // Some loaders refuse a file that does not say which framework its layout comes from.
    encode_with_text(tensors, "format", "pt")
}

/// The bytes of a safetensors file with one text in its metadata: same contents, same bytes. One, because
/// the container writes several in no fixed order.
///
/// # Errors
/// As [`encode_shard`].
pub fn encode_with_text(
    tensors: &BTreeMap<String, RawTensor>,
    key: &str,
    text: &str,
) -> Result<Vec<u8>, CheckpointError> {
    let views = tensors
        .iter()
        .map(|(name, tensor)| {
            TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes)
                .map(|view| (name.as_str(), view))
                .map_err(|e| CheckpointError::Encode { reason: format!("tensor {name:?}: {e}") })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let metadata = HashMap::from([(key.to_owned(), text.to_owned())]);
    safetensors::serialize(views, Some(metadata))
        .map_err(|e| CheckpointError::Encode { reason: e.to_string() })
}

/// The head of a safetensors file whose tensors follow in this order, with one text in its metadata.
///
/// # Errors
/// The text cannot be encoded, or the tensors are larger than can be counted.
pub fn stream_header(
    tensors: &[(&str, RawDtype, Vec<usize>)],
    key: &str,
    text: &str,
) -> Result<Vec<u8>, CheckpointError> {
    let failed = |reason: String| CheckpointError::Encode { reason };
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".to_owned(), serde_json::json!({ key: text }));
    let mut end = 0usize;
    for (name, dtype, shape) in tensors {
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &size| bits.checked_mul(size));
        let next = bits.and_then(|bits| end.checked_add(bits / 8));
        let next = next.ok_or_else(|| failed(format!("tensor {name:?} is too large")))?;
        entries.insert(
            (*name).to_owned(),
            serde_json::json!({"dtype": dtype.to_string(), "shape": shape, "data_offsets": [end, next]}),
        );
        end = next;
    }
    let mut header = serde_json::to_vec(&entries).map_err(|e| failed(e.to_string()))?;
    // Tensors begin at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok([&(header.len() as u64).to_le_bytes()[..], &header].concat())
}

/// The tensors that hold `stored` in a file, with their names.
pub fn raw_parts(name: &str, stored: Stored) -> Vec<(String, RawTensor)> {
    match stored {
        Stored::Plain(Plain { dtype, shape, bytes }) => {
            let dtype = match dtype {
                Dtype::Bf16 => RawDtype::BF16,
                Dtype::F16 => RawDtype::F16,
                Dtype::F32 => RawDtype::F32,
            };
            vec![(name.to_owned(), RawTensor { dtype, shape, bytes })]
        }
        Stored::Packed(packed) => {
            let one_scale = packed.one_scale();
            let Packed { format, rows, cols, codes, mut scales, offsets } = packed;
            if one_scale {
                scales.truncate(1);
            }
            let shape = if one_scale { vec![1, 1] } else { vec![rows, format.row_groups(cols)] };
            let grids = |scale: Scale, numbers: &[u16]| RawTensor {
                dtype: dtype_of(scale),
                shape: shape.clone(),
                bytes: scale.to_bytes(numbers),
            };
            let codec = codes.codec();
            let bytes = codes.into_bytes();
            let codes_shape = codec.shape(format, rows, cols).unwrap_or_else(|| vec![bytes.len()]);
            let codes = RawTensor { dtype: RawDtype::U8, shape: codes_shape, bytes };
            let codes = (format!("{name}.{}", part_of(codec)), codes);
            let mut parts = vec![codes, (format!("{name}.scales"), grids(format.scale, &scales))];
            if format.has_offsets() {
                parts.push((format!("{name}.offsets"), grids(Scale::F16, &offsets)));
            }
            parts
        }
        Stored::Factored(factored) => low_rank::parts(name, factored),
    }
}

/// The name of the part that holds the codes.
const fn part_of(codec: Codec) -> &'static str {
    match codec {
        Codec::Fields => "codes",
        Codec::Trits => "trits",
        Codec::Planes => "planes",
        Codec::Entropy => "entropy",
    }
}

const fn dtype_of(scale: Scale) -> RawDtype {
    match scale {
        Scale::F16 => RawDtype::F16,
        Scale::Ue5m3 | Scale::E8m0 => RawDtype::U8,
    }
}

/// The codec and the parts, types and shapes checked, of the packed matrix `name`.
pub(crate) fn packed_parts(
    shards: &Shards,
    name: &str,
    format: Grouped,
    rows: usize,
    cols: usize,
) -> Result<(Codec, Vec<String>), CheckpointError> {
    if cols.checked_mul(format.bits()).is_none() {
        return Err(shards.bad_tensor(name, format_args!("{cols} columns are too many")));
    }
    let codes = |codec| format!("{name}.{}", part_of(codec));
    let others = [Codec::Trits, Codec::Planes, Codec::Entropy];
    let other = others.into_iter().find(|&codec| shards.contains(&codes(codec)));
    let codec = other.unwrap_or(Codec::Fields);
    let codes = codes(codec);
    match codec.shape(format, rows, cols) {
        Some(shape) => shards.expect(&codes, RawDtype::U8, &shape)?,
        None => {
            let bytes = shards.info(&codes)?.shape.first().copied().unwrap_or(0);
            shards.expect(&codes, RawDtype::U8, &[bytes])?;
        }
    }
    let offsets = format.has_offsets().then_some(("offsets", Scale::F16));
    let mut parts = vec![codes];
    for (part, scale) in [("scales", format.scale)].into_iter().chain(offsets) {
        let part = format!("{name}.{part}");
        let one = !format.has_offsets() && rows > 0 && cols > 0 && shards.info(&part)?.shape == [1, 1];
        let shape = if one { [1, 1] } else { [rows, format.row_groups(cols)] };
        shards.expect(&part, dtype_of(scale), &shape)?;
        parts.push(part);
    }
    Ok((codec, parts))
}

/// The packed matrix `name` of `rows` × `cols` weights in `format`, validated.
///
/// # Errors
/// A part is missing, has another type or shape than the format asks for, or holds what the format cannot.
pub fn read_packed(
    shards: &Shards,
    name: &str,
    format: Grouped,
    rows: usize,
    cols: usize,
) -> Result<Stored, CheckpointError> {
    let (codec, parts) = packed_parts(shards, name, format, rows, cols)?;
    let read = |at: usize| match parts.get(at) {
        Some(part) => shards.read(part).map(|raw| raw.bytes),
        None => Ok(vec![]),
    };
    let codes = match codec {
        Codec::Fields => Codes::Fields(read(0)?),
        Codec::Trits => Codes::Trits(read(0)?),
        Codec::Planes => Codes::Planes(read(0)?),
        Codec::Entropy => {
            Codes::Entropy(Entropy::parse(rows, cols, read(0)?).map_err(|e| shards.bad_tensor(name, e))?)
        }
    };
    let (mut scales, offsets) = (format.scale.from_bytes(&read(1)?), Scale::F16.from_bytes(&read(2)?));
    if let [one] = scales[..] {
        scales = vec![one; rows * format.row_groups(cols)];
    }
    let stored = Stored::Packed(Packed { format, rows, cols, codes, scales, offsets });
    stored.validate().map_err(|e| shards.bad_tensor(name, e))?;
    Ok(stored)
}

/// The packed matrix `name` by the `bits` highest bits of its codes; where these are in planes, no others are read.
/// `None` where they are not, or the format has no such part.
///
/// # Errors
/// As [`read_packed`].
pub fn read_coarse(
    shards: &Shards,
    name: &str,
    format: Grouped,
    (rows, cols): (usize, usize),
    bits: u8,
) -> Result<Option<Stored>, CheckpointError> {
    let (codec, parts) = packed_parts(shards, name, format, rows, cols)?;
    let (Codec::Planes, Some(coarse), [planes, grids @ ..]) = (codec, format.coarse(bits), &parts[..]) else {
        return Ok(None);
    };
    let grids =
        grids.iter().map(|part| shards.read(part).map(|raw| raw.bytes)).collect::<Result<Vec<_>, _>>()?;
    let mut scales = format.scale.from_bytes(grids.first().map_or(&[], Vec::as_slice));
    if let [one] = scales[..] {
        scales = vec![one; rows * format.row_groups(cols)];
    }
    let offsets = Scale::F16.from_bytes(grids.get(1).map_or(&[], Vec::as_slice));
    let Some((scales, offsets)) = format.coarse_grids(bits, &scales, &offsets) else { return Ok(None) };
    let codes = Codes::Planes(shards.read_rows(planes, 0..usize::from(bits))?.bytes);
    let stored = Stored::Packed(Packed { format: coarse, rows, cols, codes, scales, offsets });
    stored.validate().map_err(|e| shards.bad_tensor(name, e))?;
    Ok(Some(stored))
}

#[cfg(test)]
mod tests;
