//! Kernels in CubeCL, which become WGSL or CUDA C++. One pair of them serves every format: what differs is a
//! [`Coding`] known when a kernel is compiled.
//!
//! | kernel | inputs of a segment | weights |
//! |---|---|---|
//! | [`few`](few::few) | up to four at a time | unpacked in registers |
//! | [`many`](many::many) | tiles of 64 | unpacked into shared memory |
//! | [`mixture`] | | activation of atoms, gated sum of experts |

pub(crate) mod coding;
#[allow(missing_docs)] // kernels expand to modules of their own
pub(crate) mod decode;
#[allow(missing_docs)]
pub(crate) mod few;
#[allow(missing_docs)]
pub(crate) mod many;
#[allow(missing_docs)]
pub(crate) mod mixture;
#[allow(missing_docs)]
pub(crate) mod probe;
pub(crate) mod table;

pub use coding::{Coding, Level, Scaling};
pub use few::FewShape;
pub use many::ManyShape;
pub use table::{Segment, Work};
