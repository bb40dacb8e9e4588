//! A window into a forward pass.

use crate::moe::Routed;
use burn::tensor::Tensor;
use moepress_model::Part;

/// Which side of a linear map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// What it is applied to. For the down projection of an expert these are its atoms h.
    Input,
    /// What it returns.
    Output,
}

/// A place in a block where a tensor can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The weight of the map.
    pub part: Part,
    /// Its input or its output.
    pub side: Side,
}

/// Sees what flows through a block. The default sees nothing and changes nothing.
pub trait Watch {
    /// A tensor `[tokens, channels]` at `site`; what is returned takes its place, so that a gradient leaf
    /// can be attached.
    fn tensor(&mut self, site: Site, x: Tensor<2>) -> Tensor<2> {
        let _ = site;
        x
    }

    /// The routing of all tokens of a mixture.
    fn routed(&mut self, routed: &Routed) {
        let _ = routed;
    }

    /// The output `[tokens, hidden]` of one routed expert, before its gate, for the tokens routed to it.
    fn expert(&mut self, expert: usize, output: &Tensor<2>) {
        let _ = (expert, output);
    }
}

impl<W: Watch> Watch for Option<W> {
    fn tensor(&mut self, site: Site, x: Tensor<2>) -> Tensor<2> {
        match self {
            Some(watch) => watch.tensor(site, x),
            None => x,
        }
    }

    fn routed(&mut self, routed: &Routed) {
        if let Some(watch) = self {
            watch.routed(routed);
        }
    }

    fn expert(&mut self, expert: usize, output: &Tensor<2>) {
        if let Some(watch) = self {
            watch.expert(expert, output);
        }
    }
}

/// Sees nothing.
pub struct Ignore;

impl Watch for Ignore {}

/// A linear map seen from both sides.
pub(crate) fn watched(map: &dyn crate::Linear, part: Part, x: Tensor<2>, watch: &mut dyn Watch) -> Tensor<2> {
    let x = watch.tensor(Site { part, side: Side::Input }, x);
    watch.tensor(Site { part, side: Side::Output }, map.forward(x))
}
