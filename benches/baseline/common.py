"""What the baselines share: arguments, loading, windows, timing, the line they print."""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.utils import logging


def arguments(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="of a window")
    parser.add_argument("--batch", type=int, default=4, help="windows at a time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--turns", action="store_true", help="a repeat for every line of input, seconds to the output")
    parser.add_argument("--seed", type=int, default=0, help="of the token ids, which are random")
    return parser


def load(path, experts, threads):
    """The checkpoint in float32 on the CPU, frozen, with torch's fused attention."""
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="sdpa", experts_implementation=experts
    )
    return model.eval().requires_grad_(False)


def batches(a, vocab):
    """Token ids [batch, tokens], int64."""
    draw = torch.Generator().manual_seed(a.seed)
    return torch.randint(0, vocab, (a.windows, a.tokens), generator=draw).split(a.batch)


def timed(repeats, sweep):
    """Seconds of each repeat, and what the last one returned."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = sweep()
        seconds.append(time.perf_counter() - start)
    return seconds, result


def take_turns(sweep):
    """One repeat for every line of standard input; for benches/sweep.py."""
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        seconds, _ = timed(1, sweep)
        print(json.dumps({"seconds": seconds[0]}), flush=True)


def report(a, seconds, **more):
    """Prints one JSON object; tokens per second from the median of the repeats."""
    tokens = a.windows * a.tokens
    print(json.dumps({
        "model": str(a.model),
        "windows": a.windows,
        "tokens": a.tokens,
        "batch": a.batch,
        "threads": a.threads,
        "seconds": [round(value, 4) for value in seconds],
        "tokens_per_second": round(tokens / statistics.median(seconds), 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    } | more))
