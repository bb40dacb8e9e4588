//! One decoder layer.

use crate::Side;
use crate::Site;
use crate::attention::{Attend, KeyValues};
use crate::moe::{Expert, Experts, Gated, Mixture};
use crate::ops::{Norm, times};
use crate::rotary::Rotary;
use crate::watch::Watch;
use burn::tensor::Tensor;
use moepress_model::{Part, Projection};

/// What follows attention.
pub enum Mlp {
    /// One gated MLP for every token.
    Dense(Box<Gated>),
    /// Routed experts.
    Moe(Box<Experts>),
}

/// Norm → attention → add, norm → MLP → add.
pub struct Block {
    pub(crate) input_norm: Norm,
    pub(crate) attend: Attend,
    pub(crate) mlp_norm: Norm,
    /// The part after attention.
    pub mlp: Mlp,
    /// What attention and MLP are multiplied by before they are added.
    pub residual: f64,
}

impl Block {
    /// Adds attention to `[batch · tokens, hidden]`.
    pub fn attend(
        &self,
        x: Tensor<2>,
        batch: usize,
        rotary: &Rotary,
        cache: Option<&mut KeyValues>,
        watch: &mut dyn Watch,
    ) -> Tensor<2> {
        let normed = self.input_norm.forward(x.clone());
        x + times(self.attend.forward(normed, batch, rotary, cache, watch), self.residual)
    }

    /// The normed hidden states that the MLP sees.
    pub fn mlp_input(&self, x: Tensor<2>) -> Tensor<2> {
        self.mlp_norm.forward(x)
    }

    /// Gives a mixture its routed experts, all of them in order.
    pub fn put_experts(&mut self, experts: Vec<Expert>) {
        if let Mlp::Moe(moe) = &mut self.mlp {
            moe.experts = experts;
        }
    }

    /// Gives a mixture its routed experts as one; a watch does not see into it.
    pub fn put_mixture(&mut self, mixture: Box<dyn Mixture>) {
        if let Mlp::Moe(moe) = &mut self.mlp {
            moe.mixture = Some(mixture);
        }
    }

    /// The MLP, or the mixture with its shared expert, of `[tokens, hidden]` after attention, added to it.
    pub fn finish(&self, x: Tensor<2>, watch: &mut dyn Watch) -> Tensor<2> {
        let normed = self.mlp_input(x.clone());
        let y = match &self.mlp {
            Mlp::Dense(gated) => dense_mlp(gated, normed, watch),
            Mlp::Moe(experts) => experts.forward(normed, watch),
        };
        x + times(y, self.residual)
    }

    /// From the hidden states after attention, the same normed, and the sum of the gated routed experts (ignored
    /// by a dense layer): the hidden states after the layer.
    pub fn leave(
        &self,
        attended: Tensor<2>,
        normed: Tensor<2>,
        sum: Tensor<2>,
        watch: &mut dyn Watch,
    ) -> Tensor<2> {
        let y = match &self.mlp {
            Mlp::Dense(gated) => dense_mlp(gated, normed, watch),
            Mlp::Moe(experts) => match experts.shared(normed, watch) {
                Some(shared) => sum + shared,
                None => sum,
            },
        };
        attended + times(y, self.residual)
    }

    /// The whole layer on `[batch · tokens, hidden]`.
    pub fn forward(
        &self,
        x: Tensor<2>,
        batch: usize,
        rotary: &Rotary,
        cache: Option<&mut KeyValues>,
        watch: &mut dyn Watch,
    ) -> Tensor<2> {
        self.finish(self.attend(x, batch, rotary, cache, watch), watch)
    }
}

/// A dense MLP on normed hidden states `[n, hidden]`.
pub fn dense_mlp(gated: &Gated, x: Tensor<2>, watch: &mut dyn Watch) -> Tensor<2> {
    let x = watch.tensor(Site { part: Part::Dense(Projection::Gate), side: Side::Input }, x);
    gated.forward(x, Part::Dense, watch)
}
