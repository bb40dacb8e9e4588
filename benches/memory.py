#!/usr/bin/env python3
"""Predicted against measured peak memory of calibration, and whether limits are kept.

    python3 benches/memory.py target/release/moepress [--big MODEL_FOLDER]

Makes models with benches/baseline/make_model.py (needs numpy), runs `moepress stats` under GNU time, and prints one
line per case. Exits with 1 when a prediction is more than 20 % off, a limit is exceeded, or the peak grows with layers.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
DEMO = ROOT / "tests/fixtures/demo-qwen3-moe"
MIB = 1 << 20


def make(folder, **sizes):
    sizes = [word for key, value in sizes.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    maker = [sys.executable, HERE / "baseline/make_model.py", folder, "--tokenizer", DEMO, *sizes]
    subprocess.run(maker, check=True, stdout=subprocess.DEVNULL)
    return folder


def recipe(folder, model, stage):
    texts = [str(ROOT / "calibration" / f"{name}.txt") for name in ("novel", "code")]
    path = folder / f"{model.name}-{stage}.yaml"
    stages = {"backward": {"prune_atoms": {"ratio": 0.25}}, "forward": {"prune_experts": {"ratio": 0.25}}}
    calibration = {"files": texts, "window": 256, "windows": 16}
    text = {"version": 1, "model": str(model), "calibration": calibration, "stages": [stages[stage]]}
    path.write_text(json.dumps(text))
    return path


def measure(binary, path, *options):
    """Predicted peak, predicted spool, measured peak, all in bytes, and seconds."""
    plan = subprocess.run([binary, "plan", path, "--json", *options], check=True, capture_output=True)
    plan = json.loads(plan.stdout)
    out = path.with_suffix(".safetensors")
    timed = ["/usr/bin/time", "-f", "%M %e", binary, "stats", path, "--out", out, *options]
    done = subprocess.run(timed, check=True, capture_output=True, text=True)
    out.unlink()
    peak, seconds = done.stderr.strip().splitlines()[-1].split()
    return plan["peak_memory_bytes"], plan["spool_bytes"], int(peak) * 1024, float(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--big", type=pathlib.Path, help="the 400 M model, made when not given")
    args = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        big = args.big or make(folder / "big")
        shape = {"hidden": 512, "experts": 16, "intermediate": 256, "heads": 8, "kv_heads": 4, "vocab": 4096}
        few = make(folder / "layers8", layers=8, **shape)
        many = make(folder / "layers32", layers=32, **shape)
        cases = [
            (DEMO, "backward", []),
            (DEMO, "forward", []),
            (big, "backward", []),
            (big, "backward", ["--threads", "1"]),
            (big, "backward", ["--max-memory", "512MiB"]),
            (big, "forward", []),
            (big, "forward", ["--max-memory", "384MiB"]),
            (few, "backward", ["--max-memory", "300MiB"]),
            (many, "backward", ["--max-memory", "300MiB"]),
        ]
        peaks = {}
        print(f"{'model':10} {'sweep':9} {'options':22} {'predicted':>9} {'measured':>9} {'ratio':>6} {'spool':>7} {'s':>6}")
        for model, stage, options in cases:
            predicted, spool, peak, seconds = measure(args.binary, recipe(folder, model, stage), *options)
            peaks[model.name] = peak
            limit = int(options[1][:-3]) * MIB if "--max-memory" in options else None
            wrong = abs(predicted / peak - 1) > 0.2 or (limit is not None and peak > limit)
            failed |= wrong
            print(
                f"{model.name[:10]:10} {stage:9} {' '.join(options):22} {predicted / MIB:9.0f} {peak / MIB:9.0f} "
                f"{predicted / peak:6.2f} {spool / MIB:7.0f} {seconds:6.1f}{'  WRONG' if wrong else ''}",
                flush=True,
            )
        growth = peaks["layers32"] / peaks["layers8"]
        failed |= abs(growth - 1) > 0.1
        print(f"32 layers take {growth:.2f} times the memory of 8 (in MiB above)")
    sys.exit(failed)


if __name__ == "__main__":
    main()
