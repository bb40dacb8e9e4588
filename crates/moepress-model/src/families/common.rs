//! What the configurations of all families have in common.

use super::rope::{Wanted, rotary};
use crate::attention::{Attention, Pairs};
use crate::moe::{Activation, Expert, Moe, Routing, Scores, Segment, Shared};
use crate::part::Map;
use crate::spec::{LayerSpec, Mlp, ModelSpec, Norm, NormKind, Scales};
use crate::{Config, ConfigError};
use moepress_quant::{Dtype, Format};
use serde_json::Value;

/// Ten times the largest models of today; each is described before any tensor is looked for.
const MAX_EXPERTS: usize = 1 << 18;
const MAX_WIDTH: usize = 1 << 20;

/// A model of plain grouped-query attention whose layers are still to be described.
///
/// # Errors
/// A key is missing, or has a value that no family was written for.
pub fn base(config: Config<'_>, family: &str, partial: f64, pairs: Pairs) -> Result<ModelSpec, ConfigError> {
    grouped(config, family, Wanted { dims: head_dim(config)?, pairs, partial, long: false })
}

/// As [`base`], with what the family wants of rotary positions.
///
/// # Errors
/// As [`base`].
pub fn grouped(config: Config<'_>, family: &str, wanted: Wanted) -> Result<ModelSpec, ConfigError> {
    let head_dim = wanted.dims;
    let rope = rotary(config, wanted)?.rope;
    with_attention(config, family, |heads, kv_heads| Attention {
        heads,
        kv_heads,
        head_dim,
        value_dim: head_dim,
        scale: (head_dim as f64).powf(-0.5),
        biases: vec![],
        latent: None,
        norm: None,
        clip: None,
        sinks: false,
        rope,
    })
}

/// A model whose attention is made of its query and key heads.
///
/// # Errors
/// As [`base`].
pub fn with_attention(
    config: Config<'_>,
    family: &str,
    attention: impl FnOnce(usize, usize) -> Attention,
) -> Result<ModelSpec, ConfigError> {
    config.only("hidden_act", &Value::from("silu"))?;
    quantization(config)?;
    let vocab = config.size("vocab_size", 1 << 24)?;
    let heads = config.size("num_attention_heads", 1 << 12)?;
    let kv_heads = config.size("num_key_value_heads", heads)?;
    Ok(ModelSpec {
        family: family.into(),
        vocab,
        hidden: config.size("hidden_size", MAX_WIDTH)?,
        context: config.size("max_position_embeddings", 1 << 30)?,
        norm: Norm { kind: NormKind::Rms, eps: config.positive("rms_norm_eps")? },
        scales: Scales::default(),
        tied_embeddings: config.flag("tie_word_embeddings", false)?,
        head_bias: false,
        end_tokens: config.token_ids("eos_token_id", vocab)?,
        attention: attention(heads, kv_heads),
        layers: vec![],
        formats: Default::default(),
        carried: Default::default(),
        packed: Default::default(),
    })
}

/// `head_dim`, or the hidden size divided by the heads.
pub fn head_dim(config: Config<'_>) -> Result<usize, ConfigError> {
    let hidden = config.size("hidden_size", MAX_WIDTH)?;
    let heads = config.size("num_attention_heads", 1 << 12)?;
    match config.get("head_dim") {
        None if hidden % heads == 0 => Ok(hidden / heads),
        _ => config.size("head_dim", 1 << 14),
    }
}

/// Weights may be packed in 8-bit blocks of 128 × 128 or in MXFP4; whatever else says it is quantized would be
/// read as what it is not.
fn quantization(config: Config<'_>) -> Result<(), ConfigError> {
    let Some(value) = config.get("quantization_config") else { return Ok(()) };
    let Some(map) = value.as_object() else {
        return Err(ConfigError::new("quantization_config", format!("is {value} but must be an object")));
    };
    let inside = |e: ConfigError| ConfigError::new(format!("quantization_config.{}", e.field), e.reason);
    let quantization = Config(map);
    if quantization.word("quant_method", &["none", "fp8", "mxfp4"]).map_err(inside)? == "fp8" {
        quantization.only("weight_block_size", &Value::from(vec![128, 128])).map_err(inside)?;
        quantization.word("fmt", &["e4m3", "float8_e4m3fn"]).map_err(inside)?;
    }
    Ok(())
}

/// The mixture of a family.
pub struct Mixture {
    /// How rows are chosen and weighted.
    pub routing: Routing,
    /// Experts of a layer.
    pub experts: usize,
    /// Atoms of an expert.
    pub width: usize,
    /// What joins gate and up.
    pub activation: Activation,
    /// Whether experts have biases.
    pub biases: bool,
    /// The expert for every token.
    pub shared: Option<Shared>,
    /// Whether dense MLPs have biases.
    pub mlp_biases: bool,
}

impl Mixture {
    /// A mixture of plain experts, `experts` of `width` atoms by the keys given.
    ///
    /// # Errors
    /// A key is missing or holds no such size.
    pub fn new(config: Config<'_>, experts: &[&str], width: &str) -> Result<Self, ConfigError> {
        let experts = config.size_of_any(experts, 1 << 14)?;
        Ok(Self {
            routing: softmax(config.size_of_any(&["num_experts_per_tok", "moe_k"], experts)?),
            experts,
            width: config.size(width, MAX_WIDTH)?,
            activation: Activation::Silu,
            biases: false,
            shared: None,
            mlp_biases: false,
        })
    }

    fn layer(&self) -> Mlp {
        let segment = Segment::uniform(self.width, Format::Plain(Dtype::Bf16));
        let expert = |source| Expert { sources: vec![source], segments: vec![segment] };
        Mlp::Moe(Moe {
            routing: self.routing.clone(),
            router: (0..self.experts).collect(),
            experts: (0..self.experts).map(expert).collect(),
            activation: self.activation,
            biases: self.biases,
            shared: self.shared,
        })
    }
}

/// Softmax over all rows, the largest chosen and not renormalised.
const fn softmax(top_k: usize) -> Routing {
    Routing {
        top_k,
        scores: Scores::Softmax,
        bias: false,
        correction: false,
        groups: None,
        renormalise: None,
        scale: 1.0,
    }
}

/// The layers: a mixture where `is_moe` says so, else a dense MLP of `intermediate_size`.
///
/// # Errors
/// A key is missing, or there are more experts than any model has.
pub fn layers(
    config: Config<'_>,
    mixture: &Mixture,
    is_moe: impl Fn(usize) -> bool,
    window: impl Fn(usize) -> Option<usize>,
) -> Result<Vec<LayerSpec>, ConfigError> {
    let layers = config.size("num_hidden_layers", 1 << 12)?;
    let experts = mixture.experts;
    if layers * experts > MAX_EXPERTS {
        let reason = format!("{layers} layers of {experts} experts are more than {MAX_EXPERTS} in all");
        return Err(ConfigError::new("num_hidden_layers", reason));
    }
    let layer = |layer| {
        let mlp = match is_moe(layer) {
            true => mixture.layer(),
            false => {
                Mlp::Dense { width: config.size("intermediate_size", MAX_WIDTH)?, biases: mixture.mlp_biases }
            }
        };
        Ok(LayerSpec { window: window(layer), mlp })
    };
    (0..layers).map(layer).collect()
}

/// Query, key, value and output.
pub const ALL_MAPS: [Map; 4] = [Map::Query, Map::Key, Map::Value, Map::Output];

/// The maps that have a bias when the flag `key` is set.
pub fn biased(config: Config<'_>, key: &str, default: bool, maps: &[Map]) -> Result<Vec<Map>, ConfigError> {
    Ok(if config.flag(key, default)? { maps.to_vec() } else { vec![] })
}

/// The floor of the sum that gates are divided by, when `norm_topk_prob` says they are.
pub fn renormalise(config: Config<'_>, default: bool) -> Result<Option<f64>, ConfigError> {
    Ok(config.flag("norm_topk_prob", default)?.then_some(0.0))
}

/// Layers of Qwen-MoE that are mixtures.
pub fn qwen_layers(config: Config<'_>) -> Result<impl Fn(usize) -> bool + use<>, ConfigError> {
    let layers = config.size("num_hidden_layers", 1 << 12)?;
    let step = config.optional_size("decoder_sparse_step", 1 << 12)?.unwrap_or(1);
    let dense = config.layer_list("mlp_only_layers", layers)?;
    Ok(move |layer: usize| !dense.contains(&layer) && (layer + 1).is_multiple_of(step))
}

/// Which layers slide, from `layer_types`.
///
/// # Errors
/// Not one of the two words for each layer.
pub fn layer_types(config: Config<'_>) -> Result<Option<Vec<bool>>, ConfigError> {
    let Some(value) = config.get("layer_types") else { return Ok(None) };
    let layers = config.size("num_hidden_layers", 1 << 12)?;
    let slides = |word: &Value| match word.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let list = value.as_array().filter(|list| list.len() == layers);
    let types: Option<Vec<bool>> = list.and_then(|list| list.iter().map(slides).collect());
    types.map(Some).ok_or_else(|| {
        let reason = format!("must list sliding_attention or full_attention for each of {layers} layers");
        ConfigError::new("layer_types", reason)
    })
}
