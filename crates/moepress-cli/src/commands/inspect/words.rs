//! The description of a model in words.

use super::{Document, Mixture};
use moepress_model::{
    Activation, GroupRank, Map, NormKind, QueryKeyNorm, Rope, RopeScaling, Routing, RowGroups, Scales,
    Scores, Shared,
};

/// How many layers there are, and which have no experts.
pub fn layers(model: &Document<'_>) -> String {
    let (sparse, dense): (Vec<usize>, Vec<usize>) =
        (0..model.layers).partition(|&layer| model.experts_by_layer[layer] > 0);
    match model.dense_width {
        None => format!("{}, all with experts", model.layers),
        Some(width) => format!(
            "{}: experts in {}; a dense MLP, {width} channels wide, in {}",
            model.layers,
            named(&sparse),
            named(&dense)
        ),
    }
}

/// What experts are, beyond their number and width.
pub fn experts(mixture: &Mixture<'_>) -> String {
    let mut words = String::new();
    if mixture.expert_biases {
        words += ", with biases";
    }
    if let Activation::ClampedSwiglu { alpha, limit } = mixture.activation {
        words += &format!(", SwiGLU clamped to ±{limit} (slope {alpha})");
    }
    words
}

/// The expert that every token goes through.
pub fn shared(shared: Shared) -> String {
    let gate = if shared.gated { ", times a gate of its own" } else { "" };
    let biases = if shared.biases { ", with biases" } else { "" };
    format!("one more expert for every token, {} channels wide{biases}{gate}", shared.width)
}

/// From the router's logits to the gates of the experts it chooses.
pub fn routing(routing: &Routing) -> String {
    let Routing { top_k, scores, bias, correction, groups, renormalise, scale } = routing;
    let logits = if *bias { " (of logits with a bias)" } else { "" };
    let chosen = match correction {
        true => format!("the best {top_k} per token, by score plus a learned correction"),
        false => format!("the best {top_k} per token"),
    };
    let mut words = match scores {
        Scores::Softmax => format!("softmax over all router rows{logits}; {chosen}"),
        Scores::Sigmoid => format!("sigmoid of each router row{logits}; {chosen}"),
        Scores::SparseMixer { jitter } => format!(
            "SparseMixer: {top_k} router rows one after the other, each weighed by softmax over those within {:.0} % of the best",
            200.0 * jitter
        ),
    };
    if let Some(RowGroups { count, kept, rank }) = groups {
        let rank = match rank {
            GroupRank::Largest => "their best row",
            GroupRank::TopTwo => "the sum of their two best rows",
        };
        words += &format!(", out of {kept} of {count} groups (ranked by {rank})");
    }
    words += match (scores, renormalise) {
        (Scores::SparseMixer { .. }, None) => "",
        (_, Some(_)) => "; gates divided by their sum",
        (_, None) => "; gates not divided by their sum",
    };
    if *scale != 1.0 {
        words += &format!(", times {scale}");
    }
    words
}

/// Heads, and what is done to queries, keys and values.
pub fn attention(model: &Document<'_>) -> String {
    let a = model.attention;
    let mut words = match &a.latent {
        None => {
            format!("{} query heads, {} key/value heads, {} channels each", a.heads, a.kv_heads, a.head_dim)
        }
        Some(latent) => {
            let queries = latent.query_rank.map_or(String::new(), |rank| format!(", queries to {rank}"));
            format!(
                "{} heads, {} channels of queries and keys, {} of values; latent: keys and values compressed to {}{queries}",
                a.heads, a.head_dim, a.value_dim, latent.rank
            )
        }
    };
    words += match a.norm {
        Some(QueryKeyNorm::Head) => "; queries and keys normed per head",
        Some(QueryKeyNorm::Whole) => "; queries and keys normed over all heads",
        None => "",
    };
    if (a.scale * (a.head_dim as f64).sqrt() - 1.0).abs() > 1e-9 {
        words += &format!("; products times {}", (a.scale * 1e5).round() / 1e5);
    }
    if let Some(limit) = a.clip {
        words += &format!("; limited to ±{limit}");
    }
    if a.sinks {
        words += "; a sink per head";
    }
    if !a.biases.is_empty() {
        let names: Vec<&str> = a.biases.iter().copied().map(Map::name).collect();
        words += &format!("; biases on {}", names.join(", "));
    }
    words
}

/// What layers see of the past, where that is not everything.
pub fn windows(model: &Document<'_>) -> Option<String> {
    let window = model.window_by_layer.iter().copied().flatten().next()?;
    let slides: Vec<usize> =
        (0..model.layers).filter(|&layer| model.window_by_layer[layer].is_some()).collect();
    Some(match slides.len() == model.layers {
        true => format!("the last {window} tokens in all layers"),
        false => format!("the last {window} tokens in {}, all tokens in the others", named(&slides)),
    })
}

/// Rotary positions.
pub fn positions(rope: &Rope, head_dim: usize) -> String {
    let channels = match rope.dims == head_dim {
        true => "all channels".to_owned(),
        false => format!("{} of {head_dim} channels", rope.dims),
    };
    let scaling = match &rope.scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Yarn { factor, original_context, .. } => {
            format!(", YaRN to {factor} times {original_context} tokens")
        }
        RopeScaling::Long { original_context, .. } => format!(", LongRoPE from {original_context} tokens"),
    };
    format!("rotary, {channels}, base {}{scaling}", rope.theta)
}

/// The norms, and the constant factors that are not 1.
pub fn norms(model: &Document<'_>) -> String {
    let Scales { embedding, residual, logits } = model.scales;
    let mut words = match model.norm.kind {
        NormKind::Rms => format!("RMS, epsilon {:e}", model.norm.eps),
        NormKind::Layer => format!("LayerNorm with biases, epsilon {:e}", model.norm.eps),
    };
    let factors = [("embeddings", embedding), ("residual branches", residual), ("logits", logits)];
    for (what, factor) in factors.into_iter().filter(|(_, factor)| *factor != 1.0) {
        words += &format!("; {what} times {factor}");
    }
    words
}

/// Layers by their indices.
pub fn named(layers: &[usize]) -> String {
    format!("layer{} {}", if layers.len() == 1 { "" } else { "s" }, listed(layers))
}

/// Ascending indices as `0–3, 5`.
fn listed(indices: &[usize]) -> String {
    let runs = indices.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] => format!("{first}–{last}"),
        _ => run[0].to_string(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined() {
        assert_eq!(listed(&[0, 1, 2, 5, 7, 8]), "0–2, 5, 7–8");
        assert_eq!((named(&[3]), named(&[0, 1])), ("layer 3".into(), "layers 0–1".into()));
    }
}
