"""Writes a Qwen3-MoE checkpoint as GGUF, every matrix but the routers in one format.

    python3 benches/peers/gguf_model.py MODEL OUT.gguf TQ2_0

Needs gguf and numpy. The file has no vocabulary: it is for token ids.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
IN_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
}


def tensors(folder):
    """(name, float32 array) of every bf16 tensor, in the order of the files."""
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            for name, info in header.items():
                if name == "__metadata__":
                    continue
                assert info["dtype"] == "BF16", name
                begin, end = info["data_offsets"]
                file.seek(8 + size + begin)
                bits = np.frombuffer(file.read(end - begin), "<u2").astype(np.uint32) << 16
                yield name, bits.view(np.float32).reshape(info["shape"])


def main():
    folder, out, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    config = json.loads((folder / "config.json").read_text())
    # transformers of old and of late.
    experts_of_layer = config.get("num_experts") or config["num_local_experts"]
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer = gguf.GGUFWriter(out, "qwen3moe")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(theta)
    writer.add_expert_count(experts_of_layer)
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")

    def add(name, values):
        plain = values.ndim == 1 or "ffn_gate_inp" in name
        type_ = gguf.GGMLQuantizationType.F32 if plain else gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, quantize(np.ascontiguousarray(values), type_), raw_dtype=type_)

    experts = {}
    for name, values in tensors(folder):
        if name in NAMES:
            add(NAMES[name], values)
            continue
        _, _, layer, rest = name.split(".", 3)
        if rest in IN_LAYER:
            add(f"blk.{layer}.{IN_LAYER[rest]}", values)
            continue
        _, _, expert, projection, _ = rest.split(".")
        group = experts.setdefault((layer, projection), {})
        group[int(expert)] = values
        if len(group) == experts_of_layer:
            fused = np.stack([group[i] for i in range(len(group))])
            add(f"blk.{layer}.ffn_{projection.removesuffix('_proj')}_exps.weight", fused)
            group.clear()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
