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

DTYPES = {"U8": np.uint8, "U32": np.uint32, "F16": np.float16, "F32": np.float32, "BF16": np.uint16}


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
        tensors[name] = (info["dtype"], info["shape"], data[start + begin : start + end])
    assert start + covered == len(data), f"{path}: bytes after the last tensor"
    return tensors


def expected(model):
    """Name, shape and format of every tensor that the model runs."""
    hidden, a = model["hidden"], model["attention"]
    layered = ("weight", "bias") if model["norm"]["kind"] == "layer" else ("weight",)

    def gated(prefix, width, biases):
        for p, rows, cols in (("gate_proj", width, hidden), ("up_proj", width, hidden), ("down_proj", hidden, width)):
            yield f"{prefix}.{p}.weight", [rows, cols]
            if biases:
                yield f"{prefix}.{p}.bias", [rows]

    outside = {"model.embed_tokens.weight": [model["vocab"], hidden]}
    outside |= {f"model.norm.{kind}": [hidden] for kind in layered}
    if not model["tied_embeddings"]:
        outside["lm_head.weight"] = [model["vocab"], hidden]
    if model["head_bias"]:
        outside["lm_head.bias"] = [model["vocab"]]
    for index, layer in enumerate(model["layers"]):
        at = f"model.layers.{index}"
        outside |= {
            f"{at}.{norm}.{kind}": [hidden] for norm in ("input_layernorm", "post_attention_layernorm") for kind in layered
        }
        outside |= {f"{at}.self_attn.{name}": shape for name, shape in attention(a, hidden)}
        ((kind, mlp),) = layer["mlp"].items()
        if kind == "dense":
            outside |= gated(f"{at}.mlp", mlp["width"], mlp.get("biases"))
            continue
        rows, routing, shared = len(mlp["router"]), mlp["routing"], mlp.get("shared")
        assert kind == "moe" and set(mlp["router"]) == set(range(len(mlp["experts"]))), f"layer {index}: router"
        assert 1 <= routing["top_k"] <= rows, f"layer {index}: top_k"
        outside[f"{at}.mlp.gate.weight"] = [rows, hidden]
        if routing["bias"]:
            outside[f"{at}.mlp.gate.bias"] = [rows]
        if routing["correction"]:
            outside[f"{at}.mlp.gate.e_score_correction_bias"] = [rows]
        if shared:
            outside |= gated(f"{at}.mlp.shared_expert", shared["width"], shared.get("biases"))
            if shared["gated"]:
                outside[f"{at}.mlp.shared_expert_gate.weight"] = [1, hidden]
        bias = model["formats"].get(f"{at}.mlp.experts.0.down_proj.bias")
        for e, expert in enumerate(mlp["experts"]):
            for s, segment in enumerate(expert["segments"]):
                prefix = f"{at}.mlp.experts.{e}.segments.{s}"
                for name, shape in gated(prefix, segment["width"], False):
                    yield name, shape, segment[name.split(".")[-2]]
                if mlp["biases"]:
                    yield f"{prefix}.gate_proj.bias", [segment["width"]], bias
                    yield f"{prefix}.up_proj.bias", [segment["width"]], bias
            if mlp["biases"]:
                yield f"{at}.mlp.experts.{e}.down_proj.bias", [hidden], bias
    for name, shape in outside.items():
        yield name, shape, model["formats"][name]


def attention(a, hidden):
    """Name within the layer's attention and shape of its tensors."""
    heads, kv, latent, norm = a["heads"], a["kv_heads"], a.get("latent"), a.get("norm")
    queries, rotated = heads * a["head_dim"], a["rope"]["dims"]
    maps = {("o_proj", "output"): [hidden, heads * a["value_dim"]]}
    rank = latent and latent.get("query_rank")
    if rank:
        maps |= {("q_a_proj", "query_down"): [rank, hidden], ("q_b_proj", "query_up"): [queries, rank]}
        yield "q_a_layernorm.weight", [rank]
    else:
        maps["q_proj", "query"] = [queries, hidden]
    if latent:
        expanded = heads * (a["head_dim"] - rotated + a["value_dim"])
        maps["kv_a_proj_with_mqa", "latent_down"] = [latent["rank"] + rotated, hidden]
        maps["kv_b_proj", "latent_up"] = [expanded, latent["rank"]]
        yield "kv_a_layernorm.weight", [latent["rank"]]
    else:
        maps |= {("k_proj", "key"): [kv * a["head_dim"], hidden], ("v_proj", "value"): [kv * a["value_dim"], hidden]}
    for (name, word), shape in maps.items():
        yield f"{name}.weight", shape
        if word in a["biases"]:
            yield f"{name}.bias", shape[:1]
    if norm:
        whole = norm == "whole"
        yield "q_norm.weight", [queries if whole else a["head_dim"]]
        yield "k_norm.weight", [kv * a["head_dim"] if whole else a["head_dim"]]
    if a["sinks"]:
        yield "sinks", [heads]


def decode(take, name, shape, fmt):
    """The tensor as f32; `take` hands over the parts it is stored as."""
    if fmt in ("bf16", "f16", "f32"):
        values = take(name, fmt.upper(), shape)
        values = (values.astype(np.uint32) << 16).view(np.float32) if fmt == "bf16" else values.astype(np.float32)
        assert np.isfinite(values).all(), f"{name}: not finite"
        return values
    if low := re.fullmatch(r"low-rank-r([1-9]\d*)-s(0|[1-9]\d*)", fmt):
        return low_rank(take, name, shape, *map(int, low.groups()))
    match = re.fullmatch(r"(ternary|ternary-asym|fp8|int([2348])(?:-sym)?)-(?:g(16|32|64|128)|row)(-ue5m3)?|mxfp4", fmt)
    assert match and len(shape) == 2, f"{name}: format {fmt}"
    (rows, cols), (kind, bits, group, byte) = shape, match.groups()
    ternary, offsets = fmt.startswith("ternary"), kind in ("ternary-asym", f"int{bits}")
    bits = int(bits or (2 if ternary else 8 if kind == "fp8" else 4))
    group = int(group or (32 if fmt == "mxfp4" else max(cols, 1)))
    groups = [rows, math.ceil(cols / group)]
    codes = unpack(take, name, rows, cols, bits, ternary)
    assert kind != "fp8" or (codes.astype(int) & 127 < 127).all(), f"{name}: NaN"

    def per_weight(part, dtype):
        # One scale may stand for all, where there are no offsets.
        one = not offsets and rows * cols > 0 and take.shape(f"{name}.{part}") == [1, 1]
        numbers = take(f"{name}.{part}", dtype, [1, 1] if one else groups)
        if fmt == "mxfp4":
            numbers = np.where(numbers < 255, np.ldexp(np.float32(1), numbers.astype(int) - 127), np.float32(np.nan))
        elif dtype == "U8":
            numbers = (numbers.astype(np.uint16) << 7).view(np.float16)
        numbers = np.broadcast_to(numbers.astype(np.float32), groups)
        assert np.isfinite(numbers).all(), f"{name}.{part}: not finite"
        return np.repeat(numbers, group, axis=1)[:, :cols]

    scales = per_weight("scales", "U8" if byte or fmt == "mxfp4" else "F16")
    if kind == "ternary-asym":
        return np.choose(codes.astype(int), [np.float32(0), scales, per_weight("offsets", "F16")])
    if offsets:
        return scales * codes.astype(np.float32) + per_weight("offsets", "F16")
    # Adding no offset makes −0 a 0.
    return scales * levels(kind, bits)[codes.astype(int)] + np.float32(0)


def low_rank(take, name, shape, rank, kept):
    """The product of two thin matrices, k by k in f32, and some rows."""
    rows, cols = shape
    assert rank <= min(rows, cols) and kept <= rows, f"{name}: rank"
    shapes = {"left": [rows, rank], "right": [rank, cols], "rest": [kept, cols]}
    left, right, rest = (decode(take, f"{name}.{part}", shape, "bf16") for part, shape in shapes.items())
    places = take(f"{name}.places", "U32", [kept]).astype(int)
    assert (np.diff(places) > 0).all() and (places < rows).all(), f"{name}: places"
    values = np.zeros(shape, np.float32)
    for k in range(rank):
        values += left[:, k : k + 1] * right[k]
    values[places] += rest
    return values


def levels(kind, bits):
    """What the codes of a format without offsets stand for, by code."""
    codes = np.arange(1 << bits)
    if kind == "ternary":
        return np.array([0, 1, -1], np.float32)
    if kind == "fp8":
        x, m = codes >> 3 & 15, (codes & 7) / 8
        size = np.where(x > 0, np.ldexp(1 + m, x - 7), np.ldexp(m, -6))
        return np.where(codes & 127 < 127, np.where(codes < 128, size, -size), np.nan).astype(np.float32)
    if kind is None:
        size = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
        return np.concatenate([size, -size])
    return (codes - 2 ** (bits - 1)).astype(np.float32)


def unpack(take, name, rows, cols, bits, ternary):
    """The codes [rows, cols], from whichever codec they are in."""
    levels = 3 if ternary else 1 << bits
    if ternary and take.has(f"{name}.trits"):
        packed = take(f"{name}.trits", "U8", [rows, math.ceil(cols / 5)])
        assert (packed < 243).all(), f"{name}: no trits"
        return (packed[:, :, None] // 3 ** np.arange(5) % 3).reshape(rows, -1)[:, :cols]
    if take.has(f"{name}.entropy"):
        return entropy(take(f"{name}.entropy", "U8", None), name, rows, cols, levels)
    if not ternary and take.has(f"{name}.planes"):
        planes = take(f"{name}.planes", "U8", [bits, rows, math.ceil(cols / 8)])
        planes = np.unpackbits(planes, axis=2, bitorder="little")[:, :, :cols]
        return np.tensordot(1 << np.arange(bits)[::-1], planes, 1)
    packed = take(f"{name}.codes", "U8", [rows, math.ceil(cols * bits / 8)])
    stream = np.unpackbits(packed, axis=1, bitorder="little")
    assert not ternary or not (stream[:, 0::2] & stream[:, 1::2]).any(), f"{name}: code 3"
    return stream[:, : cols * bits].reshape(rows, cols, bits) @ (1 << np.arange(bits))


def entropy(data, name, rows, cols, levels):
    """The codes of an entropy-coded matrix: all runs at once, a code of each at a time."""
    (widths, r, low, high), at, shortest = data[:4].tolist(), 4, 0
    k, w = widths & 15, widths >> 4
    assert 1 <= k <= 12 and r <= 10 and low <= high < levels, f"{name}: header"
    assert rows * cols <= 1024 * len(data), f"{name}: too many codes"
    for place in range(5):
        byte, at = int(data[at]), at + 1
        shortest |= (byte & 127) << 7 * place
        if byte < 128:
            break
    runs = -(-rows // (1 << r))
    counts = (high - low) * k, runs * w
    stream = np.unpackbits(data[at : at + math.ceil(sum(counts) / 8)], bitorder="little")[: sum(counts)].astype(np.int64)
    frequencies = stream[: counts[0]].reshape(high - low, k) @ (1 << np.arange(k))
    frequencies = np.append(frequencies, (1 << k) - frequencies.sum())
    assert frequencies[-1] > 0, f"{name}: frequencies"
    lengths = shortest + stream[counts[0] :].reshape(runs, w) @ (1 << np.arange(w))
    ends = at + math.ceil(sum(counts) / 8) + np.cumsum(lengths)
    assert ends[-1] == len(data), f"{name}: runs"
    code_of = np.repeat(np.arange(len(frequencies)), frequencies)
    before = np.cumsum(frequencies) - frequencies
    next_byte, x = ends - lengths, np.zeros(runs, np.int64)
    assert (data[next_byte[lengths > 0]] > 0).all(), f"{name}: a run begins with 0"
    out = np.zeros((runs, cols << r), np.int64)
    left = np.minimum(rows - (np.arange(runs) << r), 1 << r) * cols
    for step in range(cols << r):
        live = step < left
        while (more := live & (x < 1 << 23) & (next_byte < ends)).any():
            x[more] = x[more] << 8 | data[next_byte[more]]
            next_byte[more] += 1
        slot = x & (1 << k) - 1
        code = code_of[slot]
        x = np.where(live, frequencies[code] * (x >> k) + slot - before[code], x)
        out[:, step] = low + code
    assert not x.any() and (next_byte == ends).all(), f"{name}: cut short or damaged"
    return out.reshape(runs << r, cols)[:rows]


class Take:
    """Hands over the stored tensors one by one."""

    def __init__(self, stored):
        self.stored = stored

    def has(self, name):
        return name in self.stored

    def shape(self, name):
        return self.stored[name][1]

    def __call__(self, name, dtype, shape):
        """The tensor `name`, which must be of that type and, unless it is None, shape."""
        found, at, data = self.stored.pop(name)
        assert found == dtype and at == (shape or [len(data)]), f"{name}: {found} {at}"
        return np.frombuffer(data, np.dtype(DTYPES[dtype]).newbyteorder("<")).reshape(at)


def main(directory, out=None):
    manifest = read_json(directory / "moepress.json")
    assert manifest["format_version"] in (1, 2, 3), "another format version"
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

    for name, wanted in manifest["model"]["carried"].items():
        dtype, shape, data = stored.pop(name)
        assert wanted == {"dtype": dtype, "shape": shape, "bytes": len(data)}, f"{name}: carried as another"
    take = Take(stored)
    tensors = {name: decode(take, name, shape, fmt) for name, shape, fmt in expected(manifest["model"])}
    assert not stored, f"not part of the model: {sorted(stored)}"
    if out:
        np.savez(out, **tensors)
    else:
        for name in sorted(tensors):
            print(hashlib.sha256(tensors[name].astype("<f4").tobytes()).hexdigest(), name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
