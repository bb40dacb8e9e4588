"""Makes golden fixtures with transformers, or checks a folder that holds one.

    python3 tests/golden/make.py OUT [VARIANT ...]       writes OUT/<variant>/
    python3 tests/golden/make.py --check FOLDER ...      recomputes FOLDER/reference/model.safetensors and compares

Needs torch, transformers (5.23 made the committed ones) and safetensors.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from reference import load, outputs, reference
from variants import VARIANTS

WINDOWS, TOKENS = 2, 24
# Left out of the committed files: [hidden, hidden] per expert, and the score says the same.
LEFT_OUT = "output_gradient_covariance"


def fill(name, tensor, tied, transposed, draw):
    """Random values for one parameter, such that a mistake in any of them shows."""

    def uniform(low, high):
        return torch.rand(tensor.shape, generator=draw) * (high - low) + low

    def normal(gain, fan_in):
        return torch.randn(tensor.shape, generator=draw) * gain / fan_in**0.5

    if "e_score_correction_bias" in name:
        return uniform(-0.2, 0.2)
    if name.endswith("sinks"):
        return uniform(-1.0, 1.0)
    if "bias" in name.rsplit(".", 1)[-1]:
        return uniform(-0.3, 0.3)
    if "norm" in name:
        return uniform(0.7, 1.3)
    if "embed_tokens" in name:
        return normal(0.4 if tied else 1.0, 1)
    if name.endswith((".gate.weight", ".router.weight")):
        return normal(2.0, tensor.shape[-1])
    if transposed and name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        # Wide enough that the clamps of gpt_oss bite.
        return normal(4.0 if name.endswith("gate_up_proj") else 1.0, tensor.shape[-2])
    return normal(1.4, tensor.shape[-1])


def build(variant, seed):
    """A model of the variant in bfloat16, filled from `seed`."""
    config = AutoConfig.for_model(variant.family, **variant.config)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).to(torch.bfloat16)
    draw = torch.Generator().manual_seed(seed)
    named = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n.endswith("correction_bias")}
    with torch.no_grad():
        for name in sorted(named):
            tied, transposed = variant.config["tie_word_embeddings"], variant.family == "gpt_oss"
            named[name].copy_(fill(name, named[name], tied, transposed, draw))
    return model


def routing_is_stable(folder, ids):
    """Whether small changes of the embeddings leave every choice of experts, and roughly the weights, as they are."""

    def routing():
        with torch.no_grad():
            found = outputs(model, ids)
        names = [key[:-2] for key in found if key.startswith("router.") and key.endswith(".0")]
        dense = []
        for name in names:
            weights = torch.zeros_like(found[f"{name}.0"])
            dense.append(weights.scatter(1, found[f"{name}.2"].long(), found[f"{name}.1"]))
        return dense

    model = load(folder)
    exact = routing()
    embeddings = model.get_input_embeddings().weight
    original = embeddings.detach().clone()
    draw = torch.Generator().manual_seed(1)
    for _ in range(4):
        with torch.no_grad():
            embeddings.copy_(original * (1 + 3e-5 * torch.randn(original.shape, generator=draw)))
        for was, now in zip(exact, routing(), strict=True):
            if not torch.equal(was > 0, now > 0) or (was - now).abs().max() > 2e-2:
                return False
    return True


def make(variant, out):
    folder = out / variant.folder
    name = variant.like or variant.folder
    first = int.from_bytes(name.encode(), "little") % (2**31)
    for seed in range(first, first + 50):
        shutil.rmtree(folder, ignore_errors=True)
        build(variant, seed).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        path = folder / "config.json"
        config = variant.respell(json.loads(path.read_text()))
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        ids = torch.randint(0, 128, (WINDOWS, TOKENS), generator=torch.Generator().manual_seed(seed))
        if routing_is_stable(folder, ids):
            break
    else:
        sys.exit(f"{variant.folder}: no seed gives routing that is stable")
    found = reference(load(folder), ids)
    (folder / "reference").mkdir()
    save_file({key: value for key, value in found.items() if LEFT_OUT not in key}, folder / "reference" / "model.safetensors")
    size = sum(file.stat().st_size for file in folder.rglob("*.*"))
    experts = sum(key.startswith("tokens.") for key in found)
    spread, loss = found["logits"].std().item(), found["loss"].item()
    print(f"{variant.folder:32} {size / 1000:6.1f} kB  seed +{seed - first}  experts reached {experts:2}  "
          f"logits ±{spread:.2f}  loss {loss:.3f}", flush=True)


def check(folder):
    """Prints the largest difference per kind of key, relative to the largest magnitude; whether all are small."""
    wanted = load_file(folder / "reference" / "model.safetensors")
    found = reference(load(folder), wanted["input_ids"].long())
    worst, good = {}, True
    for key, value in wanted.items():
        if key not in found:
            print(f"{folder.name}: {key} is not found")
            good = False
            continue
        first, _, last = key.partition(".")
        kind = first if first in ("tokens", "hidden_states") else f"{first}.{last.rsplit('.', 1)[-1]}".rstrip(".")
        difference = (found[key].double() - value.double()).abs().max().item()
        worst[kind] = max(worst.get(kind, 0.0), difference / max(value.double().abs().max().item(), 1e-12))
    for key in found.keys() - wanted.keys():
        if LEFT_OUT not in key:
            print(f"{folder.name}: {key} is not wanted")
            good = False
    print(f"{folder.name}: " + "  ".join(f"{kind} {value:.1e}" for kind, value in sorted(worst.items())), flush=True)
    return good and max(worst.values()) < 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("variants", nargs="*", help="all without")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if arguments.check:
        sys.exit(0 if all([check(folder) for folder in arguments.check]) else 1)
    if arguments.out is None:
        parser.error("OUT or --check FOLDER")
    known = {variant.folder: variant for variant in VARIANTS}
    if unknown := set(arguments.variants) - known.keys():
        parser.error(f"no such variant: {', '.join(sorted(unknown))}")
    for folder in arguments.variants or known:
        make(known[folder], arguments.out)


if __name__ == "__main__":
    main()
