//! The high bits of all experts, which do for those with little gate that are not in memory.

use super::{Builder, Expert};
use crate::RuntimeError;
use crate::cache::ExpertId;
use moepress_checkpoint::{Share, Source};
use moepress_model::Moe;
use moepress_quant::Stored;
use rayon::prelude::*;
use std::sync::Arc;

/// What is done for an expert that is not in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMiss {
    /// It is read.
    #[default]
    Exact,
    /// It is read if its gates are at least the mean of the experts of the pass at its layer; otherwise the half of its bits
    /// that is always in memory does (HOBBIT, arXiv 2411.01433; D²MoE, arXiv 2504.15299).
    LowPlane,
}

/// The high bits of every expert, by layer and index.
pub(crate) struct LowPlanes {
    experts: Vec<Vec<Arc<Expert>>>,
    /// What they take.
    pub(crate) bytes: u64,
}

impl LowPlanes {
    pub(crate) fn expert(&self, id: ExpertId) -> Arc<Expert> {
        self.experts[id.layer][id.expert].clone()
    }

    /// Reads every expert once and keeps the higher half of the bits of codes that are in planes, as codes of their own in
    /// fields; what is not in planes stays whole.
    ///
    /// # Errors
    /// An expert cannot be read, or no codes are in planes.
    pub(crate) fn load(source: &(dyn Source + Send + Sync)) -> Result<Self, RuntimeError> {
        let spec = source.spec();
        let one = |(layer, moe, index): (usize, &Moe, usize)| {
            let (mut bytes, mut halved) = (0, false);
            let mut half = |stored| {
                let coarse = match &stored {
                    Stored::Packed(packed) => packed.coarse(packed.format.bits().div_ceil(2).max(2) as u8),
                    Stored::Plain(_) | Stored::Factored(_) => None,
                };
                halved |= coarse.is_some();
                let kept = coarse.map_or(stored, |coarse| Stored::Packed(coarse).unpacked());
                bytes += kept.stored_bytes();
                kept
            };
            let weights = source.share(layer, &Share::Experts(vec![index]))?;
            let weights = weights.into_iter().map(|(part, stored)| (part, half(stored))).collect();
            Ok((Arc::new(Builder::new(spec, layer, weights).expert(moe, index)?), bytes, halved))
        };
        let (mut experts, mut bytes, mut halved) = (vec![vec![]; spec.layers.len()], 0, false);
        for (layer, moe) in spec.moe_layers() {
            let all: Vec<(Arc<Expert>, u64, bool)> = (0..moe.experts.len())
                .into_par_iter()
                .map(|index| one((layer, moe, index)))
                .collect::<Result<_, RuntimeError>>()?;
            for (expert, own, in_planes) in all {
                experts[layer].push(expert);
                (bytes, halved) = (bytes + own, halved | in_planes);
            }
        }
        if halved { Ok(Self { experts, bytes }) } else { Err(RuntimeError::NoPlanes) }
    }
}
