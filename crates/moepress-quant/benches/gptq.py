"""GPTQ of the layer of gptq.rs in numpy, on the same numbers, and the ratio of both.

    python3 benches/gptq.py BENCH_BINARY [FORMAT [ROUNDS]]

BENCH_BINARY is what `cargo bench -p moepress-quant --bench gptq --no-run` names; FORMAT is int4-g128 or
ternary-g128. Two processes share the experts, one BLAS thread each, so that no lock is between them. Two
factorisations are timed: as published (Cholesky, inverse, Cholesky, in f32), and ours (one Cholesky, in f64). Rounds
of all three alternate, the first is dropped. Processor time is given beside wall time: on a machine that is shared
it says more.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import json
import multiprocessing
import subprocess
import sys
import time

import numpy as np

EXPERTS, HIDDEN, INNER, RANK, BLOCK, DAMP = 32, 1024, 512, 16, 128, 0.01
BATCH = int(os.environ.get("BATCH", 4))


def noise(seed, n):
    """Numbers in -1..1 by hashing (lowbias32)."""
    x = np.arange(n, dtype=np.uint32) + np.uint32(seed * 0x9E3779B9 & 0xFFFFFFFF)
    x = (x ^ x >> 16) * np.uint32(0x7FEB352D)
    x = (x ^ x >> 15) * np.uint32(0x846CA68B)
    return ((x ^ x >> 16) >> 8).astype(np.float32) / np.float32(1 << 23) - np.float32(1)


def gram(seed, n):
    shared = noise(seed, n * RANK).reshape(n, RANK)
    return shared @ shared.T + np.diag(np.float32(1.5) + noise(seed + 1, n))


def expert(index):
    seed = index * 8
    weights = [noise(seed + at, HIDDEN * INNER) ** 3 * np.float32(0.1) for at in (4, 5, 6)]
    gate_up = np.concatenate(weights[:2]).reshape(2 * INNER, HIDDEN)
    return gram(seed, HIDDEN), gate_up, gram(seed + 2, INNER), weights[2].reshape(HIDDEN, INNER)


def f16(x):
    return x.astype(np.float16).astype(np.float32)


def fit_int4(w):
    """Grids of groups [..., cols, rows] over the second last axis: scale and offset."""
    low = f16(w.min(-2))
    return f16((w.max(-2) - low) / np.float32(15)), low


def round_int4(w, grid):
    scale, low = grid
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.clip(np.rint((w - low) * inverse), 0, 15)
    return codes, codes * scale + low


def fit_ternary(w):
    magnitude = -np.sort(-np.abs(w), axis=-2)
    sums = np.cumsum(magnitude, axis=-2)
    count = np.arange(1, w.shape[-2] + 1, dtype=np.float32)[:, None]
    best = np.argmax(sums * sums / count, axis=-2)[..., None, :]
    scale = f16(np.take_along_axis(sums, best, axis=-2)[..., 0, :] / (best[..., 0, :] + 1).astype(np.float32))
    return scale, np.zeros_like(scale)


def round_ternary(w, grid):
    codes = np.sign(w) * (2 * np.abs(w) > grid[0])
    return codes, codes * grid[0]


FORMATS = {"int4-g128": (fit_int4, round_int4), "ternary-g128": (fit_ternary, round_ternary)}


def rounded(w, fit, rnd):
    """Codes and values of w [batch, cols, rows] rounded to nearest."""
    batch, cols, rows = w.shape
    groups = w.reshape(batch, cols // BLOCK, BLOCK, rows)
    scale, low = fit(groups)
    codes, values = rnd(groups, (scale[:, :, None], low[:, :, None]))
    return codes.reshape(w.shape), values.reshape(w.shape)


def damped(grams):
    mean = np.einsum("bii->b", grams) / grams.shape[1]
    return grams + (DAMP * mean)[:, None, None] * np.eye(grams.shape[1], dtype=grams.dtype), DAMP * mean


def columns(now, share, pivots, fit, rnd):
    """The loop over the columns of a block: codes and values, and steps times the root of the pivot."""
    grid = fit(now)
    codes, values, steps = np.empty_like(now), np.empty_like(now), np.empty_like(now)
    buffer = np.empty_like(now)
    for j in range(BLOCK):
        codes[:, j], values[:, j] = rnd(now[:, j], grid)
        step = now[:, j] - values[:, j]
        steps[:, j] = step * pivots[:, j, None]
        later = buffer[:, j + 1 :]
        np.multiply(share[:, j, j + 1 :, None], step[:, None], out=later)
        now[:, j + 1 :] -= later
    return codes, values, steps


def published(grams, w, fit, rnd):
    h, damp = damped(grams)
    inverse = np.linalg.cholesky(np.linalg.inv(h)).transpose(0, 2, 1)
    now, codes, values = w.copy(), np.empty(w.shape, np.uint8), np.empty_like(w)
    cost = 0.0
    for at in range(0, w.shape[1], BLOCK):
        end = at + BLOCK
        block = inverse[:, at:end, at:end]
        pivots = np.einsum("bii->bi", block)
        share = block / pivots[:, :, None]
        codes[:, at:end], values[:, at:end], steps = columns(now[:, at:end], share, 1 / pivots, fit, rnd)
        now[:, end:] -= inverse[:, at:end, end:].transpose(0, 2, 1) @ steps
        cost += np.sum(np.square(steps, dtype=np.float64))
    cost -= np.sum(damp * np.sum(np.square(w - values, dtype=np.float64), axis=(1, 2)))
    error = w - rounded(w, fit, rnd)[1]
    nearest = np.sum(error * (grams @ error), dtype=np.float64)
    return cost, nearest, codes


def ours(grams, w, fit, rnd):
    h, damp = damped(grams.astype(np.float64))
    root = np.linalg.cholesky(h[:, ::-1, ::-1])[:, ::-1, ::-1]
    error = w - rounded(w, fit, rnd)[1]
    root32 = root.astype(np.float32)
    nearest = np.sum(np.square(root32.transpose(0, 2, 1) @ error, dtype=np.float64))
    nearest -= np.sum(damp * np.sum(np.square(error, dtype=np.float64), axis=(1, 2)))
    codes, cost = np.empty(w.shape, np.uint8), 0.0
    for at in range(0, w.shape[1], BLOCK):
        end = at + BLOCK
        u = np.linalg.inv(root[:, at:end, at:end])
        coupling = (root[:, :at, at:end] @ u).astype(np.float32)
        pivots = np.einsum("bii->bi", u)
        share = (u / pivots[:, :, None]).astype(np.float32)
        now = w[:, at:end] + coupling.transpose(0, 2, 1) @ error[:, :at]
        codes[:, at:end], values, steps = columns(now, share, (1 / pivots).astype(np.float32), fit, rnd)
        error[:, at:end] = w[:, at:end] - values
        cost += np.sum(np.square(steps, dtype=np.float64))
    cost -= np.sum(damp * np.sum(np.square(error, dtype=np.float64), axis=(1, 2)))
    return cost, nearest, codes


def work(task):
    """Objectives of the result and of rounding to nearest, and processor time, for a batch of experts."""
    name, solver, first = task
    sums, start = np.zeros(3), time.process_time()
    for grams, weights in DATA:
        part = slice(first, first + BATCH)
        cost, nearest, _ = solver(grams[part], weights[part], *FORMATS[name])
        sums += cost, nearest, 0
    sums[2] = time.process_time() - start
    return sums


def main():
    global DATA
    binary, name, rounds = sys.argv[1], (sys.argv[2:] or ["int4-g128"])[0], int((sys.argv[3:] or [5])[0])
    experts = [expert(index) for index in range(EXPERTS)]
    grams, weights = zip(*[(e[0], e[1].T) for e in experts])
    inner, down = zip(*[(e[2], e[3].T) for e in experts])
    DATA = [(np.stack(grams), np.stack(weights)), (np.stack(inner), np.stack(down))]
    solvers, seconds = (published, ours), {"rust": [], "published": [], "ours": []}
    cpu = {key: [] for key in seconds}
    objectives = {}
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for index in range(rounds + 1):
            for solver in solvers:
                start = time.perf_counter()
                sums = sum(pool.map(work, [(name, solver, at) for at in range(0, EXPERTS, BATCH)], chunksize=1))
                if index:
                    seconds[solver.__name__].append(time.perf_counter() - start)
                    cpu[solver.__name__].append(sums[2])
                objectives[solver.__name__] = sums[:2].tolist()
            out = json.loads(subprocess.run([binary, name, "3"], capture_output=True, check=True, text=True).stdout)
            if index:
                seconds["rust"].append(out["median"])
                cpu["rust"].append(out["cpu"])
            objectives["rust"] = [out["objective"], out["objective_nearest"]]
    print(json.dumps({"format": name, "batch": BATCH, "objective and nearest": objectives}))
    for kind, times in (("wall", seconds), ("cpu", cpu)):
        medians = {key: float(np.median(value)) for key, value in times.items()}
        ratios = {key: round(value / medians["rust"], 2) for key, value in medians.items() if key != "rust"}
        print(json.dumps({kind: times, "median": medians, "times as fast as numpy": ratios}))


if __name__ == "__main__":
    main()
