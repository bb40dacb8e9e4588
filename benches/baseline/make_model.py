"""Writes a Qwen3-MoE checkpoint with random weights in Hugging Face form (bf16), tensor by tensor.

    python3 benches/baseline/make_model.py OUT [--layers 8 ...] [--tokenizer FOLDER] [--shard-mb 512]

Needs numpy. The same arguments write the same bytes.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


def tensors(a):
    """(name, shape, spread): spread 0 is a vector of ones, else the standard deviation."""

    def matrix(name, rows, columns):
        return f"{name}.weight", (rows, columns), columns**-0.5

    yield "model.embed_tokens.weight", (a.vocab, a.hidden), 1.0
    for layer in range(a.layers):
        at = f"model.layers.{layer}"
        yield matrix(f"{at}.self_attn.q_proj", a.heads * a.head_dim, a.hidden)
        yield matrix(f"{at}.self_attn.k_proj", a.kv_heads * a.head_dim, a.hidden)
        yield matrix(f"{at}.self_attn.v_proj", a.kv_heads * a.head_dim, a.hidden)
        yield matrix(f"{at}.self_attn.o_proj", a.hidden, a.heads * a.head_dim)
        yield f"{at}.self_attn.q_norm.weight", (a.head_dim,), 0.0
        yield f"{at}.self_attn.k_norm.weight", (a.head_dim,), 0.0
        yield f"{at}.input_layernorm.weight", (a.hidden,), 0.0
        yield f"{at}.post_attention_layernorm.weight", (a.hidden,), 0.0
        yield matrix(f"{at}.mlp.gate", a.experts, a.hidden)
        for expert in range(a.experts):
            yield matrix(f"{at}.mlp.experts.{expert}.gate_proj", a.intermediate, a.hidden)
            yield matrix(f"{at}.mlp.experts.{expert}.up_proj", a.intermediate, a.hidden)
            yield matrix(f"{at}.mlp.experts.{expert}.down_proj", a.hidden, a.intermediate)
    yield "model.norm.weight", (a.hidden,), 0.0
    yield matrix("lm_head", a.vocab, a.hidden)


def config(a):
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "decoder_sparse_step": 1,
        "eos_token_id": 0,
        "head_dim": a.head_dim,
        "hidden_act": "silu",
        "hidden_size": a.hidden,
        "initializer_range": 0.02,
        "intermediate_size": 4 * a.hidden,
        "max_position_embeddings": 4096,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": a.intermediate,
        "norm_topk_prob": True,
        "num_attention_heads": a.heads,
        "num_experts": a.experts,
        "num_experts_per_tok": a.top_k,
        "num_hidden_layers": a.layers,
        "num_key_value_heads": a.kv_heads,
        "output_router_logits": False,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": a.vocab,
    }


def bf16(values):
    """Float32 values rounded to nearest even, as bytes."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_shard(path, entries, draw):
    """Writes one safetensors file; only one tensor is in memory."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in entries:
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape, spread in entries:
            if spread == 0.0:
                file.write(bf16(np.ones(shape, np.float32)))
            else:
                file.write(bf16(draw.standard_normal(shape, np.float32) * np.float32(spread)))
    return end


def vocabulary(folder):
    """One more than the largest token id of a tokenizer.json."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocab = tokenizer["model"]["vocab"]
    ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    return 1 + max([*ids, *(token["id"] for token in tokenizer.get("added_tokens", []))])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    sizes = dict(layers=8, hidden=1024, experts=32, top_k=4, intermediate=512)
    sizes |= dict(heads=16, kv_heads=4, head_dim=64, vocab=8192)
    for name, value in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-mb", type=float, help="start a new file at this size; one file without")
    parser.add_argument("--tokenizer", type=Path, help="folder whose tokenizer files are copied beside the weights")
    a = parser.parse_args()
    if a.tokenizer and (needed := vocabulary(a.tokenizer)) > a.vocab:
        sys.exit(f"{a.tokenizer}: its tokenizer needs --vocab {needed}")
    a.out.mkdir(parents=True)
    shards, size = [[]], 0
    for entry in tensors(a):
        bytes_ = 2 * int(np.prod(entry[1]))
        if a.shard_mb and shards[-1] and size + bytes_ > a.shard_mb * 1e6:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += bytes_
    draw, total, weight_map = np.random.default_rng(a.seed), 0, {}
    for i, entries in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        total += write_shard(a.out / name, entries, draw)
        weight_map |= {entry[0]: name for entry in entries}
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (a.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (a.out / "config.json").write_text(json.dumps(config(a), indent=2) + "\n")
    if a.tokenizer:
        for name in TOKENIZER:
            if (a.tokenizer / name).exists():
                shutil.copyfile(a.tokenizer / name, a.out / name)
    print(json.dumps({"out": str(a.out), "parameters": total // 2, "bytes": total, "files": len(shards)}))


if __name__ == "__main__":
    main()
