//! Drawings. Lengths are percent of the width, so text keeps its size however narrow the page is.

mod arcs;
mod bars;
mod heat;
mod histogram;

pub(super) use arcs::arcs;
pub(super) use bars::{Pair, bars, pairs};
pub(super) use heat::heat_maps;
pub(super) use histogram::histogram;
