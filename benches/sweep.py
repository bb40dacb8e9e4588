#!/usr/bin/env python3
"""The sweep in turns with the baselines in Python: medians and their ratio.

    python3 benches/sweep.py BENCH_BINARY MODEL [--only forward] [--rounds 7] [--windows 16] [--tokens 128] [--threads 2]

BENCH_BINARY is what `cargo bench -p moepress-calibrate --bench sweep --no-run` names. Both programs are started once, and
measure by turns after a run that does not count. Needs torch and transformers (benches/baseline/README.md).
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

BASELINE = pathlib.Path(__file__).resolve().parent / "baseline"
KINDS = {"forward": ("forward.py", ["--hidden-only"]), "backward": ("scores.py", [])}


class Program:
    """A program that measures once for every line it is sent."""

    def __init__(self, command):
        self.process = subprocess.Popen(
            [*map(str, command), "--turns"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else sys.exit(f"{self.process.args[0]} ended early")

    def turn(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    sizes = ["--windows", args.windows, "--tokens", args.tokens, "--threads", args.threads]
    for kind, (script, extra) in KINDS.items():
        if args.only not in (None, kind):
            continue
        ours = Program([args.binary, args.model, *([kind] if kind == "backward" else []), *sizes])
        theirs = Program([sys.executable, BASELINE / script, args.model, "--batch", 4, *extra, *sizes])
        turns = [(ours.turn(), theirs.turn()) for _ in range(args.rounds)]
        ours.end()
        theirs.end()
        speeds = [[args.windows * args.tokens / turn["seconds"] for turn in column] for column in zip(*turns)]
        a, b = map(statistics.median, speeds)
        gflops, peak = (statistics.median(turn[0][key] for turn in turns) for key in ("gflops", "peak_gflops"))
        print(
            f"{kind:9} ours {a:8.0f} tokens/s, baseline {b:8.0f} tokens/s, ratio {a / b:5.2f}; "
            f"{gflops:.0f} GFLOP/s of {peak:.0f} in a product of 1024 x 1024 matrices",
            flush=True,
        )
        for name, speed in zip(("ours", "baseline"), speeds):
            print(f"          {name:8} {' '.join(f'{x:.0f}' for x in speed)}", flush=True)


if __name__ == "__main__":
    main()
