//! One safetensors file of named tensors, and how a [`Stored`] tensor is laid out in it.
//!
//! A plain tensor is one tensor of its name. A packed matrix `NAME` of rows × cols is `NAME.codes`, U8
//! `[rows, row_bytes]`; `NAME.scales`, F16 `[rows, groups]`; and, where its format has them,
//! `NAME.offsets`, F16 `[rows, groups]`.

use crate::{CheckpointError, Shards};
use moepress_quant::{Dtype, Grouped, Packed, Plain, Stored};
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, HashMap};

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
        Stored::Packed(Packed { format, rows, cols, codes, scales, offsets }) => {
            let f16 = |values: Vec<u16>| RawTensor {
                dtype: RawDtype::F16,
                shape: vec![rows, format.row_groups(cols)],
                bytes: values.into_iter().flat_map(u16::to_le_bytes).collect(),
            };
            let shape = vec![rows, format.row_bytes(cols)];
            let codes = RawTensor { dtype: RawDtype::U8, shape, bytes: codes };
            let mut parts = vec![(format!("{name}.codes"), codes), (format!("{name}.scales"), f16(scales))];
            if format.has_offsets() {
                parts.push((format!("{name}.offsets"), f16(offsets)));
            }
            parts
        }
    }
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
    let part = |suffix: &str, dtype, width| {
        let name = format!("{name}.{suffix}");
        shards.expect(&name, dtype, &[rows, width])?;
        Ok(shards.read(&name)?.bytes)
    };
    let f16 = |bytes: Vec<u8>| bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    if cols.checked_mul(format.bits()).is_none() {
        return Err(shards.bad_tensor(name, format_args!("{cols} columns are too many")));
    }
    let groups = format.row_groups(cols);
    let codes = part("codes", RawDtype::U8, format.row_bytes(cols))?;
    let scales = f16(part("scales", RawDtype::F16, groups)?);
    let offsets = match format.has_offsets() {
        true => f16(part("offsets", RawDtype::F16, groups)?),
        false => Vec::new(),
    };
    let stored = Stored::Packed(Packed { format, rows, cols, codes, scales, offsets });
    stored.validate().map_err(|e| shards.bad_tensor(name, e))?;
    Ok(stored)
}

#[cfg(test)]
mod tests;
