//! Number formats: what a format is and costs, how a matrix is rounded to it, packed and read back.
//!
//! A [`Format`] describes, a [`Stored`] holds, a [`codec`] turns codes into bytes. Everything here works on plain slices; there is no file
//! and no model in it. To add a grouped format, write `formats/<format>.rs` and one line in [`formats`].

#![warn(missing_docs)]

mod coarse;
pub mod codec;
mod format;
pub mod formats;
mod low_rank;
pub mod solve;
mod stored;

pub use format::{Code, Dtype, Format, FormatError, Grouped, Scale};
pub use low_rank::{Factored, LowRank};
pub use stored::{Packed, Plain, Stored, StoredError};
