//! The header of one safetensors file, checked to the last byte before any weight is read.
//!
//! The format is the `safetensors` crate's. In front of its own validation stand the checks it leaves to
//! others (no key twice, depth, rank, names, number of tensors) and reasons that say what is wrong where,
//! so what is accepted here is always accepted there.

use crate::input::buffer;
use crate::{CheckpointError, ReadAt, parse_json};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

const HEADER_BYTES: u64 = 100_000_000;
const LENGTH_BYTES: u64 = 8;
const RANK: usize = 8;
const NAME_BYTES: usize = 1024;

/// The tensors of a file, the texts beside them, and the position of the data.
pub(crate) struct Header {
    pub tensors: Vec<(String, TensorInfo)>,
    pub metadata: BTreeMap<String, String>,
    pub data_start: u64,
}

impl Header {
    /// Reads and checks the header of `file`; `path` names it in errors.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(crate) fn read(file: &dyn ReadAt, path: &Path) -> Result<Self, CheckpointError> {
        let bad = |reason: String| CheckpointError::bad_input(path, "header", reason);
        let reading = |e| CheckpointError::reading(path, e);
        let after_length = file.len().checked_sub(LENGTH_BYTES).ok_or_else(|| {
            bad(format!("too small: a file of {} bytes has no room for the header length", file.len()))
        })?;
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_at(0, &mut length).map_err(reading)?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES {
            return Err(bad(format!("too large: {length} bytes, the limit is {HEADER_BYTES}")));
        }
        let data_len = after_length.checked_sub(length).ok_or_else(|| {
            bad(format!(
                "length {length} is beyond the {after_length} bytes that follow (is the download complete?)"
            ))
        })?;
        let mut text = buffer(path, length)?;
        file.read_at(LENGTH_BYTES, &mut text).map_err(reading)?;
        if text.first() != Some(&b'{') {
            return Err(bad("does not start with `{`: not a safetensors file".to_owned()));
        }
        let Entries { mut entries, metadata } = parse_json(path, "header", &text)?;
        entries.sort_by(|(a, x), (b, y)| x.data_offsets.cmp(&y.data_offsets).then_with(|| a.cmp(b)));
        check_layout(&entries, data_len).map_err(|e| CheckpointError::bad_input(path, &e.field, e.reason))?;
        let tensors: Vec<_> = entries.into_iter().map(|(name, entry)| (name, entry.into())).collect();
        Metadata::new(None, tensors.clone()).map_err(|e| bad(e.to_string()))?;
        Ok(Self { tensors, metadata, data_start: LENGTH_BYTES + length })
    }
}

struct Fault {
    field: String,
    reason: String,
}

/// Sizes fit their shapes, and the data is covered from its first byte to its last, once.
fn check_layout(entries: &[(String, Entry)], data_len: u64) -> Result<(), Fault> {
    let mut covered = 0;
    for (name, entry) in entries {
        let fault = |reason: String| Err(Fault { field: format!("tensor {name:?}"), reason });
        let (begin, end) = entry.data_offsets;
        let bits = entry.shape.0.iter().try_fold(entry.dtype.bitsize(), |bits, &n| bits.checked_mul(n));
        // The crate multiplies in this order; both must fit.
        let elements = entry.shape.0.iter().try_fold(1, |elements: usize, &n| elements.checked_mul(n));
        let (Some(bits), Some(_)) = (bits, elements) else {
            return fault(format!("the size of shape {:?} overflows", entry.shape.0));
        };
        if end < begin {
            return fault(format!("data_offsets end at {end}, before they begin at {begin}"));
        }
        if end as u64 > data_len {
            return fault(format!("data_offsets end at {end}, beyond the file's {data_len} bytes of data"));
        }
        if entry.dtype.bitsize() % 8 != 0 {
            return fault(format!(
                "dtype {} is not made of whole bytes, which is not supported",
                entry.dtype
            ));
        }
        if bits / 8 != end - begin {
            let (dtype, shape) = (entry.dtype, &entry.shape.0);
            return fault(format!("size {} does not match {dtype} of shape {shape:?}", end - begin));
        }
        if begin < covered {
            return fault(format!("data overlaps another tensor's: begins at {begin}, before {covered}"));
        }
        if begin > covered {
            return fault(format!("data leaves a hole: begins at {begin}, after {covered}"));
        }
        covered = end;
    }
    match data_len - covered as u64 {
        0 => Ok(()),
        n => Err(Fault {
            field: "file".to_owned(),
            reason: format!("{n} trailing bytes after the last tensor"),
        }),
    }
}

/// One tensor of the header.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (usize, usize),
}

impl From<Entry> for TensorInfo {
    fn from(entry: Entry) -> Self {
        Self { dtype: entry.dtype, shape: entry.shape.0, data_offsets: entry.data_offsets }
    }
}

/// A shape whose rank is bounded while it is read.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;

        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a shape")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(n) = items.next_element()? {
                    if shape.len() == RANK {
                        return Err(A::Error::custom(format_args!("rank above the limit of {RANK}")));
                    }
                    shape.push(n);
                }
                Ok(Shape(shape))
            }
        }

        deserializer.deserialize_seq(Dimensions)
    }
}

/// All tensors of the header, in the order of the text, and its metadata.
struct Entries {
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Entries, A::Error> {
                let (mut entries, mut metadata) = (Vec::new(), BTreeMap::new());
                while let Some(name) = members.next_key::<String>()? {
                    if name == "__metadata__" {
                        metadata = members.next_value()?;
                        continue;
                    }
                    check_name(&name).map_err(A::Error::custom)?;
                    let in_tensor = |e| A::Error::custom(format_args!("tensor {name:?}: {e}"));
                    let entry = members.next_value().map_err(in_tensor)?;
                    entries.push((name, entry));
                }
                Ok(Entries { entries, metadata })
            }
        }

        deserializer.deserialize_map(Members)
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a tensor without a name".to_owned());
    }
    if name.len() > NAME_BYTES {
        return Err(format!("a tensor name of {} bytes, the limit is {NAME_BYTES}", name.len()));
    }
    match name.chars().any(char::is_control) {
        true => Err(format!("control character in tensor name {name:?}")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
