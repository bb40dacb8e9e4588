"""A model of which a quarter of the experts fits into memory: moepress within a budget beside llama.cpp's memory map.

    python3 benches/peers/within.py moepress FOLDER [--rounds 5] [--copies 32] [--tokens 200] [--of-experts 0.25]

Needs root (control groups, dropping caches), numpy, gguf and llama-cpp-python, as in the environment of benches/peers.sh.
FOLDER keeps the models. The weights are those of the demo model with every atom as often as --copies says, each with that part
of its output: routing and texts of a trained model, and experts of megabytes. Both sides have them in bf16, and run the same tokens:
moepress draws them, llama.cpp is fed them.

Every process runs in a control group whose limit is what the engine takes for itself (anonymous memory of a run without a limit,
less the weights that are in it), 16 MiB for pages of programs and of files that are being read, all weights but routed experts
and that part of the routed experts. Caches are dropped before every run, the engines take turns. Bytes are those that block
devices read for the process, from its start. `page cache` is moepress with room for the experts of one token, so that the
system's cache has the rest; `scattered` is llama.cpp told to read only pages that are touched (MADV_RANDOM), where `mmap` reads as
far around them as the device is set to (/sys/block/*/queue/read_ahead_kb).
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from gguf_model import tensors

HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[1] / "tests/fixtures/demo-qwen3-moe"
GROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20
# For pages of programs and of files that are being read.
PAGES = 16 * MIB


def widen(model, out, copies):
    """Writes `model` with every atom of its routed experts `copies` times, a power of two."""
    config = json.loads((model / "config.json").read_text())
    config["moe_intermediate_size"] *= copies
    header, blobs, at = {}, [], 0
    for name, values in tensors(model):
        if ".experts." in name:
            down = "down_proj" in name
            values = np.concatenate([values] * copies, axis=1 if down else 0) / (copies if down else 1)
        # Exact: they were bf16, and a power of two keeps their bits.
        bits = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype("<u2")
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [at, at + bits.nbytes]}
        blobs.append(bits.tobytes())
        at += bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.mkdir()
    with open(out / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(blobs)
        file.flush()
        os.fsync(file.fileno())
    (out / "config.json").write_text(json.dumps(config))
    for path in model.glob("tokenizer*.json"):
        (out / path.name).write_bytes(path.read_bytes())


class Group:
    """A control group of memory, of version 1 where that is mounted, else 2."""

    def __init__(self):
        first = (GROUPS / "memory").is_dir()
        self.path = GROUPS / ("memory" if first else ".") / f"moepress-{os.getpid()}"
        self.limit = "memory.limit_in_bytes" if first else "memory.max"
        self.anonymous = "rss" if first else "anon"

    def __enter__(self):
        self.path.mkdir()
        return self

    def __exit__(self, *_):
        self.path.rmdir()

    def run(self, command, limit):
        """JSON that a command prints, bytes it had read, and its largest anonymous memory, within `limit` bytes."""
        (self.path / self.limit).write_text(str(limit or 1 << 50))
        subprocess.run(["sync"], check=True)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        join = lambda: (self.path / "cgroup.procs").write_text(str(os.getpid()))
        child = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=join)
        anonymous = 0
        while not os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
            anonymous = max(anonymous, int(stat[self.anonymous]))
            time.sleep(0.01)
        out = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        if status:
            return None, os.waitstatus_to_exitcode(status), anonymous
        return json.loads(out), used.ru_inblock * 512, anonymous


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--of-experts", type=float, default=0.25, help="part of the routed experts that fits")
    for name, value in dict(rounds=5, copies=32, tokens=200, threads=2, seed=0).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    model, gguf = args.folder / f"demo-times-{args.copies}", args.folder / f"demo-times-{args.copies}.gguf"
    if not model.exists():
        widen(DEMO, model, args.copies)
    if not gguf.exists():
        subprocess.run([sys.executable, HERE / "gguf_model.py", model, gguf, "BF16"], check=True)

    config = json.loads((model / "config.json").read_text())
    sizes = {"experts": 0, "rest": 0}
    for name, values in tensors(model):
        sizes["experts" if ".experts." in name else "rest"] += values.size * 2
    expert = sizes["experts"] // (config["num_hidden_layers"] * config["num_local_experts"])
    weights = sizes["rest"] + int(args.of_experts * sizes["experts"])
    least = sizes["rest"] + (config["num_experts_per_tok"] + 1) * expert

    ours = [args.binary, "generate", model, "--prompt", "The old house", "-n", str(args.tokens), "--temperature", "1"]
    ours += ["--seed", str(args.seed), "--threads", str(args.threads), "--json", "--memory-budget"]
    ids = args.folder / "ids.json"
    theirs = [sys.executable, HERE / "llama.py", gguf, "--threads", str(args.threads), "--ids", ids]
    engines = {
        "moepress": [*ours, str(weights)],
        "moepress, read ahead": [*ours, str(weights), "--read-ahead"],
        "moepress, page cache": [*ours, str(least)],
        "llama.cpp, mmap": theirs,
        "llama.cpp, scattered": [*theirs, "--scattered"],
    }
    # What an engine holds of the weights in memory of its own: none of them where pages of files do.
    holds = {"moepress": weights, "moepress, read ahead": weights, "moepress, page cache": least}
    results, own = {name: [] for name in engines}, {}
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(Group())
        for name, command in engines.items():
            found, _, anonymous = group.run(command, None)
            own[name] = max(anonymous - holds.get(name, 0), 0)
            if "texts" in found:
                ids.write_text(json.dumps({"prompt": found["prompt_ids"], "ids": found["texts"][0]["ids"]}))
        print(f"weights {sum(sizes.values()) / MIB:.0f} MiB, room for {weights / MIB:.0f}, an expert {expert / MIB:.2f} MiB")
        limits = {name: held + PAGES + weights for name, held in own.items()}
        for _ in range(args.rounds):
            for name, command in engines.items():
                found, read, _ = group.run(command, limits[name])
                if found is None:
                    print(f"{name}: ended by {read} within {limits[name] / MIB:.0f} MiB")
                    continue
                speed = found.get("tokens_per_second", found.get("decode"))
                results[name].append((speed, read / (args.tokens - 1)))
                print(f"{name}: {speed:.2f} tokens/s", file=sys.stderr, flush=True)
    base = statistics.median(speed for speed, _ in results["llama.cpp, mmap"])
    for name, rounds in results.items():
        if not rounds:
            continue
        speeds, read = zip(*rounds)
        print(
            f"{name:22} {limits[name] / MIB:6.0f} MiB  {statistics.median(speeds):7.2f} tokens/s "
            f"({min(speeds):.2f} to {max(speeds):.2f})  {statistics.median(speeds) / base:5.2f}x  "
            f"{statistics.median(read) / MIB:7.1f} MiB read a token"
        )


if __name__ == "__main__":
    main()
