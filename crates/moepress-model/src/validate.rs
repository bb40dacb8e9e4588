//! Whether a description makes sense.

use crate::attention::{Attention, Latent, Rope, RopeScaling};
use crate::moe::Moe;
use crate::part::Projection;
use crate::spec::{Mlp, ModelSpec, Scales};
use moepress_quant::Format;
use std::collections::BTreeSet;

/// Channels of an MLP or atoms of a segment, far beyond any model of today: sizes within these limits can be
/// multiplied without overflow.
const MAX_WIDTH: usize = 1 << 20;

/// A description that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SpecError(pub String);

fn fail<T>(message: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError(message.into()))
}

/// Above 0 and within f32, which is what is computed with.
fn positive(x: f64) -> bool {
    x > 0.0 && (x as f32).is_finite()
}

fn in_range(name: &str, size: usize, most: usize) -> Result<(), SpecError> {
    match (1..=most).contains(&size) {
        true => Ok(()),
        false => fail(format!("{name} is {size} but must be from 1 to {most}")),
    }
}

impl ModelSpec {
    /// Checks that sizes, router maps and sources agree with each other.
    ///
    /// # Errors
    /// The first contradiction, naming layer and expert.
    pub fn validate(&self) -> Result<(), SpecError> {
        in_range("layers", self.layers.len(), 1 << 12)?;
        in_range("vocabulary", self.vocab, 1 << 24)?;
        in_range("hidden size", self.hidden, 1 << 20)?;
        in_range("context", self.context, 1 << 30)?;
        if let Some(id) = self.end_tokens.iter().find(|&&id| id as usize >= self.vocab) {
            return fail(format!("end token {id} is not below the vocabulary, {}", self.vocab));
        }
        let Scales { embedding, residual, logits } = self.scales;
        if ![self.norm.eps, embedding, residual, logits].into_iter().all(positive) {
            return fail(
                "the epsilon of norms and constant factors must be numbers above 0 that f32 can hold",
            );
        }
        self.attention.validate()?;
        if let Some(name) =
            self.formats.iter().find(|(_, f)| matches!(f, Format::LowRank(_))).map(|(name, _)| name)
        {
            return fail(format!("{name}: only matrices of routed experts can be of low rank"));
        }
        for (layer, spec) in self.layers.iter().enumerate() {
            let at = |e: SpecError| SpecError(format!("layer {layer}{}", e.0));
            if spec.window == Some(0) {
                return fail(format!("layer {layer}: a window of 0 tokens"));
            }
            match &spec.mlp {
                Mlp::Dense { width, .. } => {
                    in_range(&format!("layer {layer}: the MLP's width"), *width, MAX_WIDTH)?
                }
                Mlp::Moe(moe) => moe.validate(self.hidden).map_err(at)?,
            }
        }
        Ok(())
    }
}

impl Attention {
    fn validate(&self) -> Result<(), SpecError> {
        let Self { heads, kv_heads, head_dim, value_dim, .. } = *self;
        in_range("query heads", heads, 1 << 12)?;
        in_range("head size", head_dim, 1 << 14)?;
        in_range("value head size", value_dim, 1 << 14)?;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return fail(format!("{heads} query heads are not a multiple of {kv_heads} key/value heads"));
        }
        if let Some(Latent { query_rank, rank, norm_eps }) = self.latent {
            in_range("the rank of keys and values", rank, MAX_WIDTH)?;
            in_range("the rank of queries", query_rank.unwrap_or(1), MAX_WIDTH)?;
            if kv_heads != heads || self.norm.is_some() {
                return fail("compressed attention has one key per query head and no norm of heads");
            }
            if self.rope.dims >= head_dim {
                return fail("compressed attention needs channels that positions do not rotate");
            }
            if !positive(norm_eps) {
                return fail("the epsilon of the norms of compressed attention must be above 0");
            }
        }
        if !positive(self.scale) || self.clip.is_some_and(|clip| !positive(clip)) {
            return fail("the scale and the limit of attention must be numbers above 0 that f32 can hold");
        }
        self.rope.validate(head_dim)
    }
}

impl Rope {
    fn validate(&self, head_dim: usize) -> Result<(), SpecError> {
        let Self { theta, dims, .. } = *self;
        if !dims.is_multiple_of(2) || !(2..=head_dim).contains(&dims) {
            return fail(format!(
                "rotary positions turn {dims} of {head_dim} channels: that must be an even number, 2 at least"
            ));
        }
        let numbers = match &self.scaling {
            RopeScaling::None => vec![theta],
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, amplitude, .. } => {
                in_range("the original context of YaRN", *original_context, 1 << 30)?;
                vec![theta, *factor, *beta_fast, *beta_slow, *amplitude]
            }
            RopeScaling::Long { original_context, divisors, short_amplitude, long_amplitude } => {
                in_range("the original context of LongRoPE", *original_context, 1 << 30)?;
                if divisors.len() != dims / 2 {
                    return fail(format!("{} divisors of LongRoPE for {} pairs", divisors.len(), dims / 2));
                }
                [&[theta, *short_amplitude, *long_amplitude], divisors.as_slice()].concat()
            }
        };
        match numbers.into_iter().all(positive) {
            true => Ok(()),
            false => fail("numbers of the rotary positions must be above 0 and such that f32 can hold them"),
        }
    }
}

impl Moe {
    /// Errors begin after the number of the layer.
    fn validate(&self, hidden: usize) -> Result<(), SpecError> {
        let reached: BTreeSet<usize> = self.router.iter().copied().collect();
        if reached.len() != self.experts.len()
            || reached.last().is_some_and(|&last| last >= self.experts.len())
        {
            return fail(": the router map does not reach each expert exactly");
        }
        let (k, rows) = (self.routing.top_k, self.router.len());
        if k == 0 || k > rows {
            return fail(format!(": top-{k} routing needs at least {k} router rows, there are {rows}"));
        }
        if let Some(groups) = self.routing.groups {
            let (count, kept) = (groups.count, groups.kept);
            if count == 0 || !rows.is_multiple_of(count) || kept == 0 || kept > count {
                return fail(format!(
                    ": {rows} router rows cannot be {count} equal groups of which {kept} are kept"
                ));
            }
            if rows / count * kept < k {
                return fail(format!(
                    ": {kept} groups of {} router rows are too few for top-{k} routing",
                    rows / count
                ));
            }
        }
        let positive = [self.routing.scale].into_iter().all(positive);
        if !positive
            || self.routing.renormalise.is_some_and(|floor| !(floor >= 0.0 && (floor as f32).is_finite()))
        {
            return fail(": the scale of gates must be above 0 and the floor of their sum not below 0");
        }
        if let crate::Scores::SparseMixer { jitter } = self.routing.scores
            && !(jitter >= 0.0 && jitter.is_finite() && k == 2 && self.routing.groups.is_none())
        {
            return fail(": SparseMixer chooses 2 rows without groups, and its band is not below 0");
        }
        if let Some(shared) = self.shared {
            in_range(": the shared expert's width", shared.width, MAX_WIDTH)?;
        }
        for (expert, e) in self.experts.iter().enumerate() {
            if e.sources.is_empty() {
                return fail(format!(", expert {expert}: no source expert"));
            }
            if let Some(s) = e.segments.iter().find(|s| !(1..=MAX_WIDTH).contains(&s.width)) {
                let width = s.width;
                return fail(format!(
                    ", expert {expert}: a segment of {width} atoms, must be 1 to {MAX_WIDTH}"
                ));
            }
            let formats = e.segments.iter().flat_map(|s| Projection::ALL.map(|p| (p, s.width, s.format(p))));
            for (projection, width, format) in formats {
                let (rows, cols) =
                    if projection == Projection::Down { (hidden, width) } else { (width, hidden) };
                if let Format::LowRank(low_rank) = format
                    && !low_rank.fits(rows, cols)
                {
                    return fail(format!(
                        ", expert {expert}: a matrix of {rows} × {cols} cannot be {format}"
                    ));
                }
            }
        }
        Ok(())
    }
}
