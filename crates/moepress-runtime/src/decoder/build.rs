//! Building layers from their weights.

use super::attention::{Compressed, Projections, Straight};
use super::{Attend, Expert, Experts, Gated, Layer, Map as Linear, Mlp, Norm};
use crate::RuntimeError;
use moepress_model::{
    Activation, LayerWeights, Map, ModelSpec, Moe, NormKind, Normed, Part, Projection, Tensor,
};
use moepress_quant::Stored;
use std::sync::Arc;

/// Takes the weights of a layer one by one, checking each.
pub(crate) struct Builder<'a> {
    spec: &'a ModelSpec,
    layer: usize,
    weights: LayerWeights,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(spec: &'a ModelSpec, layer: usize, weights: LayerWeights) -> Self {
        Self { spec, layer, weights }
    }

    /// The layer without its routed experts.
    pub(crate) fn layer(&mut self) -> Result<Layer, RuntimeError> {
        let mlp = match self.spec.moe(self.layer) {
            None => Mlp::Dense(Box::new(self.gated(Part::Dense, Part::DenseBias, Activation::Silu)?)),
            Some(moe) => Mlp::Moe(Box::new(self.mixture(moe)?)),
        };
        Ok(Layer {
            input_norm: self.norm(Normed::Input)?,
            attend: self.attend()?,
            mlp_norm: self.norm(Normed::Mlp)?,
            mlp,
            residual: self.spec.scales.residual as f32,
        })
    }

    /// A routed expert.
    pub(crate) fn expert(&mut self, moe: &Moe, expert: usize) -> Result<Expert, RuntimeError> {
        let segment = |segment| {
            let part = |projection| Part::Expert { expert, segment, projection };
            let bias = |projection| Part::ExpertBias { expert, segment, projection };
            self.gated(part, bias, moe.activation)
        };
        let segments = (0..moe.experts[expert].segments.len()).map(segment).collect::<Result<_, _>>()?;
        Ok(Expert { segments, bias: self.optional(Part::ExpertOutputBias { expert })? })
    }

    fn take(&mut self, part: Part) -> Result<Stored, RuntimeError> {
        let tensor = Tensor::Layer(self.layer, part);
        let wanted = self.spec.shape(tensor);
        let stored = self.weights.remove(&part).filter(|stored| Some(stored.shape()) == wanted);
        stored.ok_or(RuntimeError::Weight { tensor })
    }

    /// A vector that only some models have.
    fn optional(&mut self, part: Part) -> Result<Option<Vec<f32>>, RuntimeError> {
        match self.spec.shape(Tensor::Layer(self.layer, part)) {
            Some(_) => Ok(Some(self.take(part)?.to_f32())),
            None => Ok(None),
        }
    }

    fn map(&mut self, weight: Part, bias: Part) -> Result<Linear, RuntimeError> {
        Ok(Linear { weight: Arc::new(self.take(weight)?), bias: self.optional(bias)? })
    }

    fn norm(&mut self, norm: Normed) -> Result<Norm, RuntimeError> {
        let weight = self.take(Part::Norm(norm))?.to_f32();
        let bias = self.optional(Part::NormBias(norm))?;
        Ok(Norm { kind: self.spec.norm.kind, eps: self.spec.norm.eps, weight, bias })
    }

    fn rms(&mut self, norm: Normed, eps: f64) -> Result<Norm, RuntimeError> {
        Ok(Norm { kind: NormKind::Rms, eps, weight: self.take(Part::Norm(norm))?.to_f32(), bias: None })
    }

    fn of_attention(&mut self, map: Map) -> Result<Linear, RuntimeError> {
        self.map(Part::Attention(map), Part::AttentionBias(map))
    }

    fn attend(&mut self) -> Result<Attend, RuntimeError> {
        let spec = &self.spec.attention;
        let projections = match &spec.latent {
            None => Projections::Plain(Box::new(Straight {
                query: self.of_attention(Map::Query)?,
                key: self.of_attention(Map::Key)?,
                value: self.of_attention(Map::Value)?,
                norms: match spec.norm {
                    Some(_) => {
                        let eps = self.spec.norm.eps;
                        Some((self.rms(Normed::Query, eps)?, self.rms(Normed::Key, eps)?))
                    }
                    None => None,
                },
            })),
            Some(latent) => {
                let (query, query_down) = match latent.query_rank {
                    None => (self.of_attention(Map::Query)?, None),
                    Some(_) => {
                        let down = self.of_attention(Map::QueryDown)?;
                        let norm = self.rms(Normed::QueryLatent, latent.norm_eps)?;
                        (self.of_attention(Map::QueryUp)?, Some((down, norm)))
                    }
                };
                Projections::Latent(Box::new(Compressed {
                    query,
                    query_down,
                    down: self.of_attention(Map::LatentDown)?,
                    norm: self.rms(Normed::Latent, latent.norm_eps)?,
                    up: self.of_attention(Map::LatentUp)?,
                }))
            }
        };
        Ok(Attend {
            spec: spec.clone(),
            window: self.spec.layers.get(self.layer).and_then(|layer| layer.window),
            projections,
            sinks: self.optional(Part::Sinks)?,
            output: self.of_attention(Map::Output)?,
        })
    }

    fn gated(
        &mut self,
        part: impl Fn(Projection) -> Part,
        bias: impl Fn(Projection) -> Part,
        activation: Activation,
    ) -> Result<Gated, RuntimeError> {
        let [gate, up, down] = Projection::ALL.map(|p| self.map(part(p), bias(p)));
        Ok(Gated { gate: gate?, up: up?, down: down?, activation })
    }

    fn mixture(&mut self, moe: &Moe) -> Result<Experts, RuntimeError> {
        let shared = match moe.shared {
            None => None,
            Some(shared) => {
                let gated = self.gated(Part::Shared, Part::SharedBias, Activation::Silu)?;
                let gate = match shared.gated {
                    true => Some(Linear { weight: Arc::new(self.take(Part::SharedGate)?), bias: None }),
                    false => None,
                };
                Some((gated, gate))
            }
        };
        Ok(Experts {
            routing: moe.routing.clone(),
            rows: moe.router.clone(),
            router: self.map(Part::Router, Part::RouterBias)?,
            correction: match moe.routing.correction {
                true => Some(self.take(Part::Correction)?.to_f32()),
                false => None,
            },
            count: moe.experts.len(),
            shared,
        })
    }
}
