//! Bytes in and bytes out: the only crate that knows safetensors, and the one door to the file system.
//!
//! Reading is strict: every byte of a header is checked before any weight is read, so that a hostile
//! directory can at worst be refused. Writing is atomic: the output directory is absent, or complete.

#![warn(missing_docs)]

mod checkpoint;
mod compact;
mod error;
mod files;
mod header;
mod input;
mod json;
mod location;
mod manifest;
mod memory;
#[cfg(test)]
mod mutate;
mod progress;
mod publish;
mod shard;
mod source;
mod spare;
mod tensor_file;
mod weights;

pub use checkpoint::Checkpoint;
pub use compact::CompactWriter;
pub use error::{CheckpointError, ErrorKind};
pub use files::{Files, Kind, Lock, OsFiles, ReadAt, WriteSync};
pub use input::{Digester, digest, digest_of, read_file};
pub use json::{parse_json, read_json};
pub use manifest::{FORMAT_VERSION, MANIFEST, Manifest};
pub use memory::{available_memory, peak_memory, used_memory};
pub use progress::{Progress, Silent};
pub use publish::{FileRecord, Publisher, Writer};
pub use shard::{
    RawDtype, RawTensor, encode_shard, encode_with_text, raw_parts, read_coarse, read_packed, stream_header,
};
pub use source::{Shards, TensorInfo};
pub use tensor_file::TensorFile;
pub use weights::{Share, Source};
