"""Rounds of moepress and its peers, one after the other, and the ratios of their medians.

    python3 benches/peers/compare.py moepress FOLDER --rounds 5 [--only TEXT]

FOLDER is what benches/peers.sh made: the original `model`, `compact-*` and `*.gguf`. Times change from minute to minute on a
shared machine: every round runs every engine once, so that all of them meet the same minutes.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What each of ours is held against.
PAIRS = {
    "ternary": ("TQ1_0", "TQ2_0"),
    "int4": ("Q4_0",),
    "int8": ("Q8_0",),
    "bf16": ("transformers", "BF16"),
}


def ours(binary, folder, args):
    found = {}
    for what in ("prefill", "decode"):
        command = [binary, "bench", what, folder, "--rounds", "1", "--threads", str(args.threads), "--json"]
        command += ["--tokens", str(args.prompt if what == "prefill" else args.tokens)]
        out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        found[what] = out["result"]["tokens_per_second"]
        share = "of_read" if what == "decode" else "of_arithmetic"
        found[f"{what} {share}"] = out["result"][share]
    return found


def theirs(script, model, args):
    command = [sys.executable, HERE / script, model, "--threads", str(args.threads)]
    command += ["--prompt", str(args.prompt), "--tokens", str(args.tokens)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="those of ours whose name holds this, and their peers")
    for name, value in dict(rounds=5, prompt=512, tokens=64, threads=2).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    engines = {}
    for name, peers in PAIRS.items():
        if args.only not in name:
            continue
        path = args.folder / ("model" if name == "bf16" else f"compact-{name}")
        engines[f"moepress {name}"] = lambda path=path: ours(args.binary, path, args)
        for peer in peers:
            if peer == "transformers":
                engines[peer] = lambda: theirs("transformers_bf16.py", args.folder / "model", args)
            elif (args.folder / f"{peer}.gguf").exists():
                engines[peer] = lambda peer=peer: theirs("llama.py", args.folder / f"{peer}.gguf", args)
    results = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, run in engines.items():
            results[name].append(run())
    medians = {
        name: {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        for name, rounds in results.items()
    }
    for name, found in medians.items():
        line = f"{name:18} prefill {found['prefill']:8.1f} tokens/s, decode {found['decode']:8.1f} tokens/s"
        if "decode of_read" in found:
            line += f" ({found['prefill of_arithmetic']:.0f} % of arithmetic, {found['decode of_read']:.0f} % of reading)"
        print(line)
    for name, peers in PAIRS.items():
        for peer in peers:
            mine, other = medians.get(f"moepress {name}"), medians.get(peer)
            if mine and other:
                ratios = [f"{what} {mine[what] / other[what]:.2f}x" for what in ("prefill", "decode")]
                print(f"{name:8} / {peer:12} {', '.join(ratios)}")


if __name__ == "__main__":
    main()
