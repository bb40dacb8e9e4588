"""Reads a compact checkpoint by docs/format.md alone: checks its digests, decodes every tensor to f32 and
prints the SHA-256 of its values, or writes all of them to an .npz.

    python3 tests/read_compact.py DIRECTORY [OUT.npz]

Needs numpy; shares no code with moepress.
"""

import hashlib
import json
import math
import re
import sys
from pathlib import Path

import numpy as np

DTYPES = {"U8": np.uint8, "F16": np.float16, "F32": np.float32, "BF16": np.uint16}


def read_json(path):
    def once(pairs):
        assert len(pairs) == len(dict(pairs)), f"{path}: a key twice"
        return dict(pairs)

    return json.loads(path.read_text("utf-8"), object_pairs_hook=once)


def read_shard(path):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    covered, tensors = 0, {}
    for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = info["data_offsets"]
        assert begin == covered, f"{name}: hole or overlap"
        covered = end
        values = np.frombuffer(data[start + begin : start + end], np.dtype(DTYPES[info["dtype"]]).newbyteorder("<"))
        tensors[name] = (info["dtype"], values.reshape(info["shape"]))
    assert start + covered == len(data), f"{path}: bytes after the last tensor"
    return tensors


def expected(model):
    """Name, shape and format of every tensor of the model."""
    hidden, a = model["hidden"], model["attention"]
    heads, kv = a["heads"] * a["head_dim"], a["kv_heads"] * a["head_dim"]

    def gated(prefix, width):
        return {f"{prefix}.{p}.weight": [width, hidden] for p in ("gate_proj", "up_proj")} | {
            f"{prefix}.down_proj.weight": [hidden, width]
        }

    outside = {"model.embed_tokens.weight": [model["vocab"], hidden], "model.norm.weight": [hidden]}
    if not model["tied_embeddings"]:
        outside["lm_head.weight"] = [model["vocab"], hidden]
    for index, layer in enumerate(model["layers"]):
        at = f"model.layers.{index}"
        outside |= {f"{at}.{norm}.weight": [hidden] for norm in ("input_layernorm", "post_attention_layernorm")}
        outside |= {f"{at}.self_attn.{norm}.weight": [a["head_dim"]] for norm in ("q_norm", "k_norm")}
        outside |= {f"{at}.self_attn.q_proj.weight": [heads, hidden], f"{at}.self_attn.o_proj.weight": [hidden, heads]}
        outside |= {f"{at}.self_attn.{p}_proj.weight": [kv, hidden] for p in "kv"}
        ((kind, mlp),) = layer["mlp"].items()
        if kind == "dense":
            outside |= gated(f"{at}.mlp", mlp["width"])
            continue
        assert kind == "moe" and set(mlp["router"]) == set(range(len(mlp["experts"]))), f"layer {index}: router"
        assert 1 <= mlp["routing"]["top_k"] <= len(mlp["router"]), f"layer {index}: top_k"
        outside[f"{at}.mlp.gate.weight"] = [len(mlp["router"]), hidden]
        for e, expert in enumerate(mlp["experts"]):
            for s, segment in enumerate(expert["segments"]):
                for name, shape in gated(f"{at}.mlp.experts.{e}.segments.{s}", segment["width"]).items():
                    yield name, shape, segment[name.split(".")[-2]]
    for name, shape in outside.items():
        yield name, shape, model["formats"][name]


def decode(take, name, shape, fmt):
    """The tensor as f32; `take(name, dtype, shape)` hands over the parts it is stored as."""
    if fmt in ("bf16", "f16", "f32"):
        values = take(name, fmt.upper(), shape)
        values = (values.astype(np.uint32) << 16).view(np.float32) if fmt == "bf16" else values.astype(np.float32)
        assert np.isfinite(values).all(), f"{name}: not finite"
        return values
    match = re.fullmatch(r"(ternary|int([2348])(-sym)?)-g(32|64|128)", fmt)
    assert match and len(shape) == 2, f"{name}: format {fmt}"
    (rows, cols), bits, group = shape, int(match[2] or 2), int(match[4])
    groups = [rows, math.ceil(cols / group)]
    packed = take(f"{name}.codes", "U8", [rows, math.ceil(cols * bits / 8)])
    stream = np.unpackbits(packed, axis=1, bitorder="little")
    codes = stream[:, : cols * bits].reshape(rows, cols, bits) @ (1 << np.arange(bits))
    codes = codes.astype(np.float32)

    def per_weight(part):
        numbers = take(f"{name}.{part}", "F16", groups).astype(np.float32)
        assert np.isfinite(numbers).all(), f"{name}.{part}: not finite"
        return np.repeat(numbers, group, axis=1)[:, :cols]

    if match[1] == "ternary":
        assert not (stream[:, 0::2] & stream[:, 1::2]).any(), f"{name}: code 3"
        return per_weight("scales") * np.array([0, 1, -1], np.float32)[codes.astype(int)]
    if match[3]:
        return per_weight("scales") * (codes - np.float32(2 ** (bits - 1)))
    return per_weight("scales") * codes + per_weight("offsets")


def main(directory, out=None):
    manifest = read_json(directory / "moepress.json")
    assert manifest["format_version"] == 1, "another format version"
    for name, record in manifest["files"].items():
        assert Path(name).name == name, f"{name}: not a plain name"
        data = (directory / name).read_bytes()
        assert len(data) == record["bytes"] and hashlib.sha256(data).hexdigest() == record["sha256"], f"{name}: damaged"
    weight_map = read_json(directory / "model.safetensors.index.json")["weight_map"]
    stored = {}
    for file in sorted(set(weight_map.values())):
        assert file in manifest["files"], f"{file}: not listed in the manifest"
        for name, tensor in read_shard(directory / file).items():
            assert weight_map.get(name) == file, f"{name}: the index disagrees"
            stored[name] = tensor
    assert stored.keys() == weight_map.keys(), "the index names tensors that are not there"

    def take(name, dtype, shape):
        found, values = stored.pop(name)
        assert found == dtype and list(values.shape) == shape, f"{name}: {found} {values.shape}"
        return values

    tensors = {name: decode(take, name, shape, fmt) for name, shape, fmt in expected(manifest["model"])}
    assert not stored, f"not part of the model: {sorted(stored)}"
    if out:
        np.savez(out, **tensors)
    else:
        for name in sorted(tensors):
            print(hashlib.sha256(tensors[name].astype("<f4").tobytes()).hexdigest(), name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
