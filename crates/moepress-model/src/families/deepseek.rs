//! What DeepSeek-V2, DeepSeek-V3 and GLM-4 MoE share: latent attention, grouped routing, shared experts.

use super::common::{Mixture, biased, layers, with_attention};
use super::rope::{Wanted, rotary};
use crate::attention::{Attention, Latent, Pairs};
use crate::moe::{GroupRank, Routing, RowGroups, Scores, Shared};
use crate::part::Map;
use crate::spec::ModelSpec;
use crate::{Config, ConfigError};

/// Latent attention. Its norms have their own epsilon, whatever the configuration says of the others.
pub fn latent(config: Config<'_>, family: &str, pairs: Pairs) -> Result<ModelSpec, ConfigError> {
    let size = |key| config.size(key, 1 << 14);
    let (plain, rotated, value_dim) =
        (size("qk_nope_head_dim")?, size("qk_rope_head_dim")?, size("v_head_dim")?);
    let found = rotary(config, Wanted { dims: rotated, pairs, partial: 1.0, long: false })?;
    let latent = Latent {
        query_rank: config.optional_size("q_lora_rank", 1 << 20)?,
        rank: config.size("kv_lora_rank", 1 << 20)?,
        norm_eps: 1e-6,
    };
    let mut biases =
        biased(config, "attention_bias", false, &[Map::QueryDown, Map::LatentDown, Map::Output])?;
    biases.retain(|map| latent.query_rank.is_some() || *map != Map::QueryDown);
    let head_dim = plain + rotated;
    with_attention(config, family, |heads, _| Attention {
        heads,
        // Keys and values are expanded to every query head.
        kv_heads: heads,
        head_dim,
        value_dim,
        scale: (head_dim as f64).powf(-0.5) * found.softmax,
        biases,
        latent: Some(latent),
        norm: None,
        clip: None,
        sinks: false,
        rope: found.rope,
    })
}

/// Routed experts by the keys of DeepSeek, with the shared ones as a single wide one.
pub fn mixture(config: Config<'_>) -> Result<Mixture, ConfigError> {
    let mut mixture =
        Mixture::new(config, &["n_routed_experts", "num_local_experts"], "moe_intermediate_size")?;
    let shared = config.number("n_shared_experts", 0.0)? as usize;
    mixture.shared = (shared > 0).then(|| Shared {
        width: mixture.width.saturating_mul(shared),
        gated: false,
        biases: false,
    });
    mixture.routing.scale = config.number("routed_scaling_factor", 1.0)?;
    Ok(mixture)
}

/// The groups that a configuration asks for; none for a single one.
pub fn groups(config: Config<'_>, rank: GroupRank) -> Result<Option<RowGroups>, ConfigError> {
    let count = config.optional_size("n_group", 1 << 14)?.unwrap_or(1);
    let kept = config.optional_size("topk_group", count)?.unwrap_or(1);
    Ok((count > 1).then_some(RowGroups { count, kept, rank }))
}

/// Routing of DeepSeek-V3 (arXiv 2412.19437, section 2.1.2): sigmoid scores, and a bias in the choice alone.
pub fn corrected(config: Config<'_>, routing: &mut Routing) -> Result<(), ConfigError> {
    config.word("scoring_func", &["sigmoid"])?;
    config.word("topk_method", &["noaux_tc"])?;
    routing.scores = Scores::Sigmoid;
    routing.correction = true;
    routing.groups = groups(config, GroupRank::TopTwo)?;
    routing.renormalise = config.flag("norm_topk_prob", true)?.then_some(1e-20);
    Ok(())
}

/// Dense layers first, then mixtures.
pub fn finish(config: Config<'_>, mut spec: ModelSpec, mixture: &Mixture) -> Result<ModelSpec, ConfigError> {
    let dense = config.number("first_k_dense_replace", 0.0)? as usize;
    config.only("moe_layer_freq", &serde_json::Value::from(1))?;
    spec.layers = layers(config, mixture, |layer| layer >= dense, |_| None)?;
    Ok(spec)
}
