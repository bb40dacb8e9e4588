#!/usr/bin/env python3
"""Predicted against measured peak memory, and whether limits are kept.

    python3 benches/memory.py target/release/moepress [--big MODEL_FOLDER] [--only WORD]

Makes models with benches/baseline/make_model.py (needs numpy), runs `moepress stats` (the sweeps) or `moepress run` (the
walk of gptq, the evaluation) under GNU time, watches the size of the directory with the activations, and prints one line
per case. Exits with 1 when a prediction of memory or spool is more than 20 % off, a limit is exceeded, or the peak grows
with layers.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
DEMO = ROOT / "tests/fixtures/demo-qwen3-moe"
MIB = 1 << 20


def make(folder, **sizes):
    sizes = [word for key, value in sizes.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    maker = [sys.executable, HERE / "baseline/make_model.py", folder, "--tokenizer", DEMO, *sizes]
    subprocess.run(maker, check=True, stdout=subprocess.DEVNULL)
    return folder


ROUND = {"format": "int4", "group": 64}
STAGES = {
    "backward": {"prune_atoms": {"ratio": 0.25}},
    "forward": {"prune_experts": {"ratio": 0.25}},
    "gptq": {"quantize": {**ROUND, "solver": "gptq"}},
    "evaluate": {"quantize": ROUND},
}


def recipe(folder, model, stage):
    texts = [str(ROOT / "calibration" / f"{name}.txt") for name in ("novel", "code")]
    path = folder / f"{model.name}-{stage}.yaml"
    windows = {"files": texts, "window": 256, "windows": 16}
    text = {"version": 1, "model": str(model), "stages": [STAGES[stage]]}
    text |= {"evaluate" if stage == "evaluate" else "calibration": windows}
    path.write_text(json.dumps(text))
    return path


def size(folder):
    """Bytes of the activations that lie somewhere below a folder."""
    total = 0
    for file in folder.rglob("*.f32"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            pass
    return total


def measure(binary, path, stage, *options):
    """Predicted and measured peak, predicted and measured spool, all in bytes, and seconds."""
    plan = subprocess.run([binary, "plan", path, "--json", *options], check=True, capture_output=True)
    plan = json.loads(plan.stdout)
    out = path.parent / "out" / path.stem
    out.parent.mkdir()
    command = "stats" if stage in ("backward", "forward") else "run"
    timed = ["/usr/bin/time", "-f", "%M %e", binary, command, path, "--out", out, *options]
    spool, stop = [0], threading.Event()

    def watch():
        while not stop.wait(0.02):
            spool.append(size(out.parent))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = subprocess.run(timed, capture_output=True, text=True)
    finally:
        stop.set()
        watcher.join()
    if done.returncode:
        sys.exit(done.stderr)
    shutil.rmtree(out.parent)
    peak, seconds = done.stderr.strip().splitlines()[-1].split()
    return plan["peak_memory_bytes"], int(peak) * 1024, plan["spool_bytes"], max(spool), float(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--big", type=pathlib.Path, help="the 400 M model, made when not given")
    parser.add_argument("--only", default="", help="cases whose line holds this word")
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
            (DEMO, "gptq", []),
            (big, "gptq", []),
            (big, "gptq", ["--max-memory", "512MiB"]),
            (DEMO, "evaluate", []),
            (big, "evaluate", []),
            (big, "evaluate", ["--max-memory", "512MiB"]),
            (few, "backward", ["--max-memory", "300MiB"]),
            (many, "backward", ["--max-memory", "300MiB"]),
        ]
        peaks = {}
        print(f"{'':42} {'peak in MiB':>20} {'':6} {'spool in MiB':>20}")
        print(f"{'model':10} {'work':9} {'options':21}" + 2 * f" {'predicted':>10} {'measured':>9}" + f" {'ratio':>6} {'s':>6}")
        for model, stage, options in cases:
            name = f"{model.name[:10]:10} {stage:9} {' '.join(options):21}"
            if args.only not in name:
                continue
            predicted, peak, spool, spooled, seconds = measure(
                args.binary, recipe(folder, model, stage), stage, *options
            )
            peaks[model.name] = peak
            limit = int(options[1][:-3]) * MIB if "--max-memory" in options else None
            wrong = abs(predicted / peak - 1) > 0.2 or (limit is not None and peak > limit)
            # Files that come and go are seen every 20 ms.
            wrong |= abs(spool - spooled) > 0.2 * spooled
            failed |= wrong
            print(
                f"{name} {predicted / MIB:10.0f} {peak / MIB:9.0f} {spool / MIB:10.1f} {spooled / MIB:9.1f} "
                f"{predicted / peak:6.2f} {seconds:6.1f}{'  WRONG' if wrong else ''}",
                flush=True,
            )
        if not {"layers8", "layers32"} <= peaks.keys():
            sys.exit(failed)
        growth = peaks["layers32"] / peaks["layers8"]
        failed |= abs(growth - 1) > 0.1
        print(f"32 layers take {growth:.2f} times the memory of 8 (in MiB above)")
    sys.exit(failed)


if __name__ == "__main__":
    main()
