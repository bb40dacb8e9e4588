#!/usr/bin/env python3
"""The sweep in turns with the baselines in Python: medians and their ratio.

    python3 benches/sweep.py BENCH_BINARY MODEL [--rounds 5] [--windows 16] [--tokens 128] [--threads 2]

BENCH_BINARY is what `cargo bench -p moepress-calibrate --bench sweep --no-run` names. Needs torch and transformers
(benches/baseline/README.md).
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

BASELINE = pathlib.Path(__file__).resolve().parent / "baseline"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", default="16")
    parser.add_argument("--tokens", default="128")
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    common = ["--windows", args.windows, "--tokens", args.tokens, "--threads", args.threads, "--repeat", "1"]

    def run(command):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout.strip().splitlines()[-1])

    for kind, script in (("forward", "forward.py"), ("backward", "scores.py")):
        ours, theirs, rates = [], [], []
        extra = ["--hidden-only"] if kind == "forward" else []
        for _ in range(args.rounds):
            found = run([args.binary, args.model, *([kind] if kind == "backward" else []), *common])
            ours.append(found["tokens_per_second"])
            rates.append((found["gflops"], found["peak_gflops"]))
            base = [sys.executable, BASELINE / script, args.model, "--batch", "4", *extra, *common]
            theirs.append(run(base)["tokens_per_second"])
        a, b = statistics.median(ours), statistics.median(theirs)
        gflops, peak = (statistics.median(column) for column in zip(*rates))
        print(
            f"{kind:9} ours {a:8.0f} tokens/s, baseline {b:8.0f} tokens/s, ratio {a / b:5.2f}; "
            f"{gflops:.0f} GFLOP/s of {peak:.0f} in a product of 1024 x 1024 matrices",
            flush=True,
        )
        print(f"          ours {[round(x) for x in ours]}, baseline {[round(x) for x in theirs]}", flush=True)


if __name__ == "__main__":
    main()
