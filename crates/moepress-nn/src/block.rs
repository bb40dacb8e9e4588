//! One decoder layer, built from its weights.

use crate::attention::{Attend, KeyValues, Rotary};
use crate::moe::{Experts, Gated};
use crate::ops::{from_rows, rms_norm, vector};
use crate::watch::Watch;
use crate::{MakeLinear, Side, Site};
use burn::tensor::{Device, Tensor};
use moepress_model::{LayerWeights, ModelSpec, Part, Projection, Tensor as Name};
use moepress_quant::Stored;
use std::sync::Arc;

/// A tensor that the model needs and was not given in the right shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tensor} is missing or misshapen")]
pub struct BlockError {
    /// The tensor.
    pub tensor: Name,
}

/// What follows attention.
pub enum Mlp {
    /// One gated MLP for every token.
    Dense(Gated),
    /// Routed experts.
    Moe(Box<Experts>),
}

/// Norm → attention → add, norm → MLP → add.
pub struct Block {
    input_norm: Tensor<1>,
    attend: Attend,
    mlp_norm: Tensor<1>,
    /// The part after attention.
    pub mlp: Mlp,
    eps: f64,
}

impl Block {
    /// Builds layer `layer` of `spec` from its weights.
    ///
    /// # Errors
    /// A part is missing or has another shape than the description says.
    pub fn new(
        spec: &ModelSpec,
        layer: usize,
        mut weights: LayerWeights,
        linear: MakeLinear<'_>,
        device: &Device,
    ) -> Result<Self, BlockError> {
        let mut take = |part: Part| {
            let name = Name::Layer(layer, part);
            let wanted = spec.shape(name);
            let stored = weights.remove(&part).filter(|stored| Some(stored.shape()) == wanted);
            stored.map(Arc::new).ok_or(BlockError { tensor: name })
        };
        let vector = |stored: Arc<Stored>| vector(&stored, device);
        let gated = |part: &dyn Fn(Projection) -> Part,
                     take: &mut dyn FnMut(Part) -> Result<Arc<Stored>, BlockError>| {
            let [gate, up, down] = Projection::ALL.map(|projection| take(part(projection)).map(linear));
            Ok(Gated { gate: gate?, up: up?, down: down? })
        };
        let attend = Attend {
            spec: spec.attention.clone(),
            eps: spec.norm_eps,
            query: linear(take(Part::Query)?),
            key: linear(take(Part::Key)?),
            value: linear(take(Part::Value)?),
            output: linear(take(Part::Output)?),
            query_norm: vector(take(Part::QueryNorm)?),
            key_norm: vector(take(Part::KeyNorm)?),
        };
        let input_norm = vector(take(Part::InputNorm)?);
        let mlp_norm = vector(take(Part::MlpNorm)?);
        let mlp = match spec.moe(layer) {
            None => Mlp::Dense(gated(&Part::Dense, &mut take)?),
            Some(moe) => {
                let mut experts = Vec::with_capacity(moe.experts.len());
                for (expert, e) in moe.experts.iter().enumerate() {
                    let segments = (0..e.segments.len()).map(|segment| {
                        gated(&|projection| Part::Expert { expert, segment, projection }, &mut take)
                    });
                    experts.push(segments.collect::<Result<Vec<_>, _>>()?);
                }
                Mlp::Moe(Box::new(Experts {
                    routing: moe.routing.clone(),
                    rows: moe.router.clone(),
                    fold: fold(&moe.router, moe.experts.len(), device),
                    router: linear(take(Part::Router)?),
                    experts,
                }))
            }
        };
        Ok(Self { input_norm, attend, mlp_norm, mlp, eps: spec.norm_eps })
    }

    /// Adds attention to `[batch · tokens, hidden]`.
    pub fn attend(
        &self,
        x: Tensor<2>,
        batch: usize,
        rotary: &Rotary,
        cache: Option<&mut KeyValues>,
        watch: &mut dyn Watch,
    ) -> Tensor<2> {
        let normed = rms_norm(x.clone(), &self.input_norm, self.eps);
        x + self.attend.forward(normed, batch, rotary, cache, watch)
    }

    /// The normed hidden states that the MLP sees.
    pub fn mlp_input(&self, x: Tensor<2>) -> Tensor<2> {
        rms_norm(x, &self.mlp_norm, self.eps)
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
        let x = self.attend(x, batch, rotary, cache, watch);
        let normed = self.mlp_input(x.clone());
        let y = match &self.mlp {
            Mlp::Dense(gated) => {
                let site = Site { part: Part::Dense(Projection::Gate), side: Side::Input };
                let normed = watch.tensor(site, normed);
                gated.forward(normed, Part::Dense, watch)
            }
            Mlp::Moe(experts) => experts.forward(normed, watch),
        };
        x + y
    }
}

/// The matrix that sums the gates of rows leading to the same expert; none when the map is one to one.
fn fold(rows: &[usize], experts: usize, device: &Device) -> Option<Tensor<2>> {
    if rows.iter().copied().eq(0..experts) {
        return None;
    }
    let mut fold = vec![0.0; rows.len() * experts];
    rows.iter().enumerate().for_each(|(row, expert)| fold[row * experts + expert] = 1.0);
    Some(from_rows(fold, [rows.len(), experts], device))
}
