//! Building blocks from their weights.

use crate::MakeLinear;
use crate::attention::{Affine, Attend, Compressed, Projections, Straight};
use crate::block::{Block, Mlp};
use crate::moe::{Expert, Experts, Gated, fold};
use crate::ops::{Norm, vector};
use burn::tensor::{Device, Tensor};
use moepress_model::{
    Activation, LayerWeights, Map, ModelSpec, Moe, Normed, Part, Projection, Tensor as Name,
};
use moepress_quant::Stored;
use std::sync::Arc;

/// A tensor that the model needs and was not given in the right shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tensor} is missing or misshapen")]
pub struct BlockError {
    /// The tensor.
    pub tensor: Name,
}

/// Takes the weights of a layer one by one, checking each.
pub struct Builder<'a> {
    spec: &'a ModelSpec,
    layer: usize,
    weights: LayerWeights,
    linear: MakeLinear<'a>,
    device: &'a Device,
}

impl<'a> Builder<'a> {
    /// A builder for layer `layer` of `spec`.
    pub fn new(
        spec: &'a ModelSpec,
        layer: usize,
        weights: LayerWeights,
        linear: MakeLinear<'a>,
        device: &'a Device,
    ) -> Self {
        Self { spec, layer, weights, linear, device }
    }

    /// The whole layer.
    ///
    /// # Errors
    /// A part is missing or has another shape than the description says.
    pub fn block(mut self) -> Result<Block, BlockError> {
        let mut block = self.core()?;
        if let Mlp::Moe(experts) = &mut block.mlp {
            experts.experts = (0..experts.count).map(|e| self.expert(e)).collect::<Result<_, _>>()?;
        }
        Ok(block)
    }

    /// The layer without its routed experts.
    ///
    /// # Errors
    /// As [`Self::block`].
    pub fn core(&mut self) -> Result<Block, BlockError> {
        let spec = self.spec;
        let mlp = match spec.moe(self.layer) {
            None => Mlp::Dense(Box::new(self.gated(Part::Dense, Part::DenseBias, Activation::Silu)?)),
            Some(moe) => Mlp::Moe(Box::new(self.experts(moe)?)),
        };
        Ok(Block {
            input_norm: self.norm(Normed::Input)?,
            attend: self.attend()?,
            mlp_norm: self.norm(Normed::Mlp)?,
            mlp,
            residual: spec.scales.residual,
        })
    }

    /// A routed expert.
    ///
    /// # Errors
    /// As [`Self::block`], or there is no such expert.
    pub fn expert(&mut self, expert: usize) -> Result<Expert, BlockError> {
        let missing = BlockError { tensor: Name::Layer(self.layer, Part::ExpertOutputBias { expert }) };
        let moe = self.spec.moe(self.layer).ok_or(missing.clone())?;
        let count = moe.experts.get(expert).ok_or(missing)?.segments.len();
        let segment = |segment| {
            let part = |projection| Part::Expert { expert, segment, projection };
            let bias = |projection| Part::ExpertBias { expert, segment, projection };
            self.gated(part, bias, moe.activation)
        };
        let segments = (0..count).map(segment).collect::<Result<_, _>>()?;
        Ok(Expert { segments, bias: self.optional(Part::ExpertOutputBias { expert })? })
    }

    fn take(&mut self, part: Part) -> Result<Arc<Stored>, BlockError> {
        let name = Name::Layer(self.layer, part);
        let wanted = self.spec.shape(name);
        let stored = self.weights.remove(&part).filter(|stored| Some(stored.shape()) == wanted);
        stored.map(Arc::new).ok_or(BlockError { tensor: name })
    }

    /// A vector that only some models have.
    fn optional(&mut self, part: Part) -> Result<Option<Tensor<1>>, BlockError> {
        match self.spec.shape(Name::Layer(self.layer, part)) {
            Some(_) => Ok(Some(vector(&*self.take(part)?, self.device))),
            None => Ok(None),
        }
    }

    fn norm(&mut self, norm: Normed) -> Result<Norm, BlockError> {
        let weight = vector(&*self.take(Part::Norm(norm))?, self.device);
        Ok(Norm::new(self.spec.norm.kind, self.spec.norm.eps, weight, self.optional(Part::NormBias(norm))?))
    }

    fn rms(&mut self, norm: Normed, eps: f64) -> Result<Norm, BlockError> {
        Ok(Norm::rms(eps, vector(&*self.take(Part::Norm(norm))?, self.device)))
    }

    fn affine(&mut self, part: Map) -> Result<Affine, BlockError> {
        let map = (self.linear)(self.take(Part::Attention(part))?);
        Ok(Affine { map, bias: self.optional(Part::AttentionBias(part))?, part })
    }

    fn attend(&mut self) -> Result<Attend, BlockError> {
        let spec = &self.spec.attention;
        let projections = match &spec.latent {
            None => Projections::Plain(Box::new(Straight {
                query: self.affine(Map::Query)?,
                key: self.affine(Map::Key)?,
                value: self.affine(Map::Value)?,
                norms: match spec.norm {
                    Some(over) => {
                        let eps = self.spec.norm.eps;
                        Some((over, self.rms(Normed::Query, eps)?, self.rms(Normed::Key, eps)?))
                    }
                    None => None,
                },
            })),
            Some(latent) => {
                let (query, query_down) = match latent.query_rank {
                    None => (self.affine(Map::Query)?, None),
                    Some(_) => {
                        let down = self.affine(Map::QueryDown)?;
                        let norm = self.rms(Normed::QueryLatent, latent.norm_eps)?;
                        (self.affine(Map::QueryUp)?, Some((down, norm)))
                    }
                };
                Projections::Latent(Box::new(Compressed {
                    query,
                    query_down,
                    down: self.affine(Map::LatentDown)?,
                    norm: self.rms(Normed::Latent, latent.norm_eps)?,
                    up: self.affine(Map::LatentUp)?,
                }))
            }
        };
        Ok(Attend {
            spec: spec.clone(),
            window: self.spec.layers.get(self.layer).and_then(|layer| layer.window),
            projections,
            sinks: self.optional(Part::Sinks)?,
            output: self.affine(Map::Output)?,
        })
    }

    fn gated(
        &mut self,
        part: impl Fn(Projection) -> Part,
        bias: impl Fn(Projection) -> Part,
        activation: Activation,
    ) -> Result<Gated, BlockError> {
        let [gate, up, down] = Projection::ALL.map(|projection| self.take(part(projection)));
        let [gate_bias, up_bias, down_bias] =
            Projection::ALL.map(|projection| self.optional(bias(projection)));
        let linear = self.linear;
        Ok(Gated {
            gate: linear(gate?),
            up: linear(up?),
            down: linear(down?),
            biases: [gate_bias?, up_bias?, down_bias?],
            activation,
        })
    }

    fn experts(&mut self, moe: &Moe) -> Result<Experts, BlockError> {
        let shared = match moe.shared {
            None => None,
            Some(shared) => {
                let gated = self.gated(Part::Shared, Part::SharedBias, Activation::Silu)?;
                let gate = match shared.gated {
                    true => Some((self.linear)(self.take(Part::SharedGate)?)),
                    false => None,
                };
                Some((gated, gate))
            }
        };
        Ok(Experts {
            routing: moe.routing.clone(),
            rows: moe.router.clone(),
            fold: fold(&moe.router, moe.experts.len(), self.device),
            router: (self.linear)(self.take(Part::Router)?),
            router_bias: self.optional(Part::RouterBias)?,
            correction: match moe.routing.correction {
                true => Some(self.take(Part::Correction)?.to_f32()),
                false => None,
            },
            count: moe.experts.len(),
            experts: vec![],
            mixture: None,
            shared,
        })
    }
}
