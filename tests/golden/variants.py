"""The variants: for each, the family's configuration and how its config.json is respelled."""

from dataclasses import dataclass, field

# Shared by all families: small, and an epsilon large enough to be noticed where it is forgotten.
COMMON = dict(
    vocab_size=128,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    rms_norm_eps=1e-2,
    num_experts_per_tok=2,
    bos_token_id=0,
    eos_token_id=1,
    pad_token_id=None,
    tie_word_embeddings=False,
)


def rope(theta=100.0, **more):
    return {"rope_type": "default", "rope_theta": theta} | more


QWEN3 = dict(num_experts=8, head_dim=8, intermediate_size=24, moe_intermediate_size=8, norm_topk_prob=True)
QWEN2 = dict(num_experts=8, intermediate_size=24, moe_intermediate_size=8, shared_expert_intermediate_size=12)
MIXTRAL = dict(num_local_experts=8, intermediate_size=8)
OLMOE = dict(num_experts=8, intermediate_size=8)
MLA = dict(
    num_key_value_heads=4, intermediate_size=24, moe_intermediate_size=8, n_routed_experts=8,
    num_hidden_layers=3, first_k_dense_replace=1, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=16,
    v_head_dim=12,
)
GLM4 = dict(
    head_dim=16, intermediate_size=24, moe_intermediate_size=8, n_routed_experts=8, first_k_dense_replace=1,
    n_shared_experts=1,
)
GPT_OSS = dict(num_local_experts=8, head_dim=16, intermediate_size=8)
GRANITE = dict(num_local_experts=8, intermediate_size=8)
ERNIE = dict(intermediate_size=24, moe_intermediate_size=8, moe_num_experts=8, moe_k=2)
PHIMOE = dict(num_local_experts=8, intermediate_size=8, router_jitter_noise=0.1)
MINIMAX = dict(num_local_experts=8, head_dim=16, intermediate_size=8)

YARN = rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
LONGROPE = rope(
    rope_type="longrope", short_factor=[1.0, 1.1, 1.3, 1.7], long_factor=[1.0, 2.0, 3.0, 5.0], short_mscale=1.1,
    long_mscale=1.25,
)


@dataclass
class Variant:
    """One fixture; `like` names the variant whose weights it repeats."""

    family: str
    name: str
    config: dict
    like: str | None = None
    rename: dict = field(default_factory=dict)
    drop: tuple = ()
    add: dict = field(default_factory=dict)
    flat_rope: bool = False

    @property
    def folder(self):
        return f"{self.family}-{self.name}"

    def respell(self, config):
        """config.json as this variant writes it; `flat_rope` spells RoPE as releases before 5 do."""
        config = {self.rename.get(key, key): value for key, value in config.items() if key not in self.drop}
        if self.flat_rope:
            scaling = dict(config.pop("rope_parameters"))
            config["rope_theta"] = scaling.pop("rope_theta")
            partial = scaling.pop("partial_rotary_factor", None)
            if partial is not None and "rotary_dim" not in self.add:
                config["partial_rotary_factor"] = partial
            scaling["type"] = scaling.pop("rope_type")
            config["rope_scaling"] = None if scaling["type"] == "default" else scaling
            config["torch_dtype"] = config.pop("dtype")
        return config | self.add


def of(family, base, name, respelled=None, **config):
    config = COMMON | {"rope_parameters": rope()} | base | config
    if family == "ernie4_5_moe":
        config.pop("num_experts_per_tok")
    return Variant(family, name, config, **(respelled or {}))


V4 = dict(flat_rope=True)

VARIANTS = [
    of("qwen3_moe", QWEN3, "raw_topk", norm_topk_prob=False),
    of(
        "qwen3_moe", QWEN3, "config_v4",
        V4 | dict(like="qwen3_moe-raw_topk", rename={"num_local_experts": "num_experts"}), norm_topk_prob=False,
    ),
    of("qwen3_moe", QWEN3, "dense_layers", num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3]),
    of("qwen3_moe", QWEN3, "wide_heads_bias", head_dim=16, attention_bias=True),
    of("qwen3_moe", QWEN3, "one_kv_head", num_key_value_heads=1),
    of("qwen3_moe", QWEN3, "tied", tie_word_embeddings=True),
    of("qwen3_moe", QWEN3, "sliding", use_sliding_window=True, sliding_window=8, max_window_layers=1),
    of("qwen2_moe", QWEN2, "norm_topk_no_bias", norm_topk_prob=True, qkv_bias=False),
    of(
        "qwen2_moe", QWEN2, "sliding", dict(drop=("layer_types",)),
        num_hidden_layers=3, use_sliding_window=True, sliding_window=8, max_window_layers=2,
    ),
    of("mixtral", MIXTRAL, "sliding_head_dim", sliding_window=8, head_dim=16),
    of("olmoe", OLMOE, "clip", clip_qkv=0.5, norm_topk_prob=True, num_key_value_heads=4),
    of("olmoe", OLMOE, "bias", attention_bias=True),
    # Groups bite only where more experts are chosen than groups.
    of(
        "deepseek_v2", MLA, "groups_yarn", n_shared_experts=2, q_lora_rank=12, topk_method="group_limited_greedy",
        n_group=4, topk_group=2, num_experts_per_tok=3, routed_scaling_factor=2.0, norm_topk_prob=True,
        rope_parameters=YARN | dict(mscale=0.707, mscale_all_dim=0.707),
    ),
    of(
        "deepseek_v2", MLA, "mscales_bias", V4,
        n_shared_experts=1, q_lora_rank=None, attention_bias=True, mlp_bias=True,
        rope_parameters=YARN | dict(mscale=1.0, mscale_all_dim=0.5, beta_fast=1.0, beta_slow=0.25),
    ),
    of(
        "deepseek_v3", MLA, "halves_yarn", q_lora_rank=None, n_group=1, topk_group=1, rope_interleave=False,
        norm_topk_prob=False, rope_parameters=YARN | dict(mscale=1.0, mscale_all_dim=1.0),
    ),
    of(
        "deepseek_v3", MLA, "bias_plain_yarn", V4, q_lora_rank=12, n_group=4, topk_group=2, attention_bias=True,
        rope_parameters=YARN,
    ),
    of(
        "glm4_moe", GLM4, "groups_bias", use_qk_norm=False, attention_bias=True, n_group=4, topk_group=2,
        routed_scaling_factor=1.5, rope_parameters=rope(partial_rotary_factor=1.0),
    ),
    of(
        "glm4_moe", GLM4, "config_v4", V4, use_qk_norm=True, norm_topk_prob=False,
        rope_parameters=rope(partial_rotary_factor=0.25),
    ),
    of(
        "gpt_oss", GPT_OSS, "sliding", num_hidden_layers=4, sliding_window=4,
        rope_parameters=YARN | dict(factor=8.0, beta_fast=4.0, beta_slow=0.5, truncate=False),
    ),
    of(
        "gpt_oss", GPT_OSS, "plain_rope", dict(drop=("layer_types",)),
        num_hidden_layers=3, sliding_window=8, attention_bias=False, swiglu_limit=1.5,
    ),
    of("granitemoe", GRANITE, "tied_bias", tie_word_embeddings=True, attention_bias=True),
    of(
        "ernie4_5_moe", ERNIE, "interval",
        num_hidden_layers=4, moe_layer_interval=2, moe_num_shared_experts=2, moe_norm_min=0.6,
    ),
    of(
        "ernie4_5_moe", ERNIE, "bias_no_shared", dict(add=dict(moe_layer_end_index=-1)),
        num_hidden_layers=3, moe_layer_start_index=1, moe_num_shared_experts=0, use_bias=True,
    ),
    of("phimoe", PHIMOE, "bias", lm_head_bias=True, attention_bias=True),
    of("phimoe", PHIMOE, "sliding", sliding_window=8, router_jitter_noise=0.01),
    # Windows are 24 tokens: one is longer than the original length, one shorter.
    of(
        "phimoe", PHIMOE, "longrope_long",
        rope_parameters=LONGROPE | dict(original_max_position_embeddings=16, factor=4.0),
    ),
    of("phimoe", PHIMOE, "longrope_short", V4, rope_parameters=LONGROPE | dict(original_max_position_embeddings=64)),
    of("minimax_m2", MINIMAX, "partial_rotary", rope_parameters=rope(partial_rotary_factor=0.5)),
    of(
        "minimax_m2", MINIMAX, "rotary_dim", V4 | dict(like="minimax_m2-partial_rotary", add=dict(rotary_dim=8)),
        rope_parameters=rope(partial_rotary_factor=0.5),
    ),
]
