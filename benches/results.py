"""What every method costs on the demo model, in the protocol of its reference.json: writes docs/results.md.

    python3 benches/results.py MOEPRESS [--only methods,bits,others,budget,variants,rounds] [--out docs/results.md]

MOEPRESS is the binary (make build). Needs nothing but Python 3. The grid is HEAPr (coupled, global) and REAP at 0, 12.5, …,
87.5 % times rounding to nearest in {ternary, int2, int3, int4, int8} times groups of {32, 64, 128, whole rows}: for every
budget, of every method, format and group the member with least pruning that fits is run; those with more cannot be better.
All points are one `moepress sweep`, three quarters of an hour on two cores; its cache in out/results.cache lets it be resumed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOMAINS = ["novel", "drama", "scripture", "gazetteer", "dictionary", "code"]
BUDGETS = [0.25, 0.15, 0.10, 0.07]
REFERENCE = json.loads((ROOT / "tests/fixtures/demo-qwen3-moe/reference.json").read_text())
BASE = REFERENCE["baseline"]["nll"]


def recipe(kind, lines):
    def texts(folder, windows):
        files = ", ".join(str(ROOT / folder / f"{domain}.txt") for domain in DOMAINS)
        return f"{{files: [{files}], window: 256, windows: {windows}}}"

    return (
        f"version: 1\nmodel: {ROOT / 'tests/fixtures/demo-qwen3-moe'}\ncalibration: {texts('calibration', 16)}\n"
        f"evaluate: {texts('tests/fixtures/eval-text', 24)}\n{kind}:\n" + "\n".join(lines) + "\n"
    )


class Bench:
    """Points are asked for while the tables are written: once to learn which, and, after a sweep over them, once more."""

    def __init__(self, binary):
        self.binary, self.asked, self.found, self.shares = binary, {}, {}, {}

    def moepress(self, command, text, *more):
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "recipe.yaml"
            path.write_text(text)
            done = subprocess.run([self.binary, command, str(path), "--json", *more], stdout=subprocess.PIPE, text=True)
            if done.returncode != 0:
                sys.exit(f"moepress {command} failed on:\n{text}")
            return json.loads(done.stdout)

    def share(self, *stages):
        """Planned bytes of the routed experts, as a share of what they take in bf16."""
        if stages not in self.shares:
            plan = self.moepress("plan", recipe("stages", [f"  - {stage}" for stage in stages]))
            self.shares[stages] = experts(plan["after"]) / experts(plan["before"])
        return self.shares[stages]

    def run(self, *stages):
        """{nll: its increase, kl, share}; ones while points are only asked for."""
        self.asked.setdefault(stages, len(self.asked))
        return self.found.get(stages, {"nll": 1.0, "kl": 1.0, "share": 1.0})

    def sweep(self):
        methods = [f"  p{point}:\n" + "\n".join(f"    - {stage}" for stage in stages) for stages, point in self.asked.items()]
        points = {f"p{point}": stages for stages, point in self.asked.items()}
        with tempfile.TemporaryDirectory() as work:
            out = Path(work) / "sweep"
            places = ["--out", str(out), "--cache", str(ROOT / "out/results.cache")]
            for point in self.moepress("sweep", recipe("methods", methods), *places)["points"]:
                if point["failed"]:
                    sys.exit(f"{points[point['method']]}: {point['failed']}")
                report = json.loads((out / point["report"]).read_text())
                self.found[points[point["method"]]] = {
                    "nll": point["result"]["nll_increase"],
                    "kl": point["result"]["kld"],
                    "share": experts(report["after"]) / experts(report["before"]),
                }


def experts(sizes):
    return sizes["classes"]["experts"]["bytes"]


def methods(bench):
    """Every pruning method against the reference."""
    yield "## Single methods, beside the reference\n"
    yield "Increase of mean NLL in nats per token, everything else as it was.\n"
    yield "| method | removed | moepress | reference |\n|---|---|---|---|"
    atoms = [("decoupled", "heapr_decoupled"), ("total", "heapr_total"), ("coupled", "heapr_coupled_sum")]
    for ratio in ("0.25", "0.5", "0.75"):
        for score, key in atoms:
            found = bench.run(f"prune_atoms: {{score: {score}, ratio: {ratio}}}")
            yield row(f"HEAPr, {score}", ratio, found, REFERENCE["atoms"][f"{key}@{ratio}"])
        for score, key in atoms:
            found = bench.run(f"prune_atoms: {{score: {score}, ratio: {ratio}}}", "compensate")
            yield row(f"HEAPr, {score}, compensated", ratio, found, REFERENCE["atoms_compensated"][f"{key}@{ratio}"])
        if ratio != "0.75":
            for method in ("reap", "frequency"):
                found = bench.run(f"prune_experts: {{method: {method}, ratio: {ratio}}}")
                yield row(f"experts by {method}", ratio, found, REFERENCE["experts"][f"{method}@{ratio}"])


def row(name, ratio, found, reference):
    return f"| {name} | {float(ratio):.0%} | {found['nll']:.4f} | {reference - BASE:.4f} |"


def bits(bench):
    """Rounding alone."""
    yield "\n## Rounding: to nearest and GPTQ\n"
    yield "All routed experts, groups of 32; increase of mean NLL.\n"
    yield "| format | nearest | reference | GPTQ | GPTQ / nearest |\n|---|---|---|---|---|"
    for name in ("int8", "int4", "int3", "int2", "ternary"):
        nearest = bench.run(f"quantize: {{format: {name}, group: 32}}")["nll"]
        gptq = bench.run(f"quantize: {{format: {name}, group: 32, solver: gptq}}")["nll"]
        reference = REFERENCE["nearest"][f"{name}_g32"] - BASE
        share = f"{gptq / nearest:.2f}" if nearest > 0.001 else "–"
        yield f"| {name} | {nearest:.4f} | {reference:.4f} | {gptq:.4f} | {share} |"


# Five ways to give experts two or four bits, of the same size.
BITS = "formats: [int2, int4], group: 64, bpw: 6.15"


def others(bench):
    """Methods that the reference does not have."""
    yield "\n## Merging, other experts, other bits\n"
    yield (
        "Methods without a reference. Of `tcess` the task is all six texts, so it is a measure of experts like the others. *Bits*: two "
        "or four bits for every expert within the same bytes, rounded to nearest.\n"
    )
    yield "| method | bytes of the experts | NLL | KL |\n|---|---|---|---|"
    members = []
    for ratio in ("0.25", "0.5"):
        members += [
            (f"merge m_smoe, {ratio}", [f"merge_experts: {{method: m_smoe, ratio: {ratio}}}"]),
            (f"merge m_smoe, compensated, {ratio}", [f"merge_experts: {{method: m_smoe, ratio: {ratio}}}", "compensate"]),
            (f"merge hc_smoe, average, {ratio}", [f"merge_experts: {{method: hc_smoe, ratio: {ratio}}}"]),
            (f"merge hc_smoe, average, compensated, {ratio}", [f"merge_experts: {{method: hc_smoe, ratio: {ratio}}}", "compensate"]),
            (f"merge hc_smoe, ward, {ratio}", [f"merge_experts: {{method: hc_smoe, linkage: ward, ratio: {ratio}}}"]),
            (f"experts by ean, {ratio}", [f"prune_experts: {{method: ean, ratio: {ratio}}}"]),
            (f"experts by tcess, {ratio}", [f"prune_experts: {{method: tcess, task: [{', '.join(DOMAINS)}], ratio: {ratio}}}"]),
            (f"experts by heapr, {ratio}", [f"prune_experts: {{method: heapr, ratio: {ratio}}}"]),
        ]
    for method in ("loss_aware", "mc_moe", "frequency", "outlier", "block"):
        members.append((f"bits by {method}", [f"assign_bits: {{method: {method}, {BITS}}}", "quantize"]))
    for name, stages in members:
        found = bench.run(*stages)
        yield f"| {name} | {found['share']:.1%} | {found['nll']:.4f} | {found['kl']:.4f} |"


def grid(bench):
    """For every budget the members of the grid that may be its best."""
    found = {budget: [] for budget in BUDGETS}
    for method in ("heapr", "reap"):
        for name in ("int8", "int4", "int3", "int2", "ternary"):
            for group in ("32", "64", "128", "row"):
                left = list(BUDGETS)
                for eighths in range(8):
                    stages = [f"quantize: {{format: {name}, group: {group}}}"]
                    if eighths:
                        ratio = eighths / 8
                        prune = "prune_atoms" if method == "heapr" else "prune_experts"
                        rest = "score: coupled" if method == "heapr" else "method: reap"
                        stages.insert(0, f"{prune}: {{ratio: {ratio}, {rest}}}")
                    elif method == "reap":
                        continue
                    if method == "reap" and eighths > 6:
                        continue  # four of sixteen experts are chosen per token
                    for budget in [b for b in left if bench.share(*stages) <= b]:
                        left.remove(budget)
                        found[budget].append((bench.run(*stages), stages))
    return found


def budget(bench):
    yield "\n## One budget against all combinations\n"
    yield (
        "Bytes of the routed experts as a share of bf16, everything counted. *Grid*: the best member of {HEAPr, REAP} × {0, 12.5, …, "
        "87.5 %} × nearest {ternary, int2, int3, int4, int8} × groups {32, 64, 128, row} that fits with atoms spread evenly; in "
        "brackets what it came to, which may be a little more. Increase of mean NLL, and mean KL divergence from the original, in "
        "nats per token.\n"
    )
    yield "| bytes | best of the grid | NLL | KL | `compress` | NLL | KL | share of the grid's loss |\n|---|---|---|---|---|---|---|---|"
    members = grid(bench)
    for share in BUDGETS:
        ours = bench.run(f"compress: {{ratio: {share}, classes: [experts], align: 16}}")
        best, stages = min(members[share], key=lambda member: member[0]["nll"])
        least_kl = min(member["kl"] for member, _ in members[share])
        what = "; ".join(stage.replace("quantize: ", "").replace("prune_", "") for stage in stages)
        yield (
            f"| {share:.0%} | {what} ({best['share']:.2%}) | {best['nll']:.4f} | {least_kl:.4f} | {ours['share']:.3%} | "
            f"{ours['nll']:.4f} | {ours['kl']:.4f} | {ours['nll'] / best['nll']:.2f} |"
        )
    yield f"\n{sum(map(len, members.values()))} members of the grid were run."
    yield (
        "\nAn independent prototype of such a grid (HEAPr at sixteenths, nearest, groups of 32, 64 or the row) has .0092, .0816, "
        ".2751 and .5009 as its best."
    )


def variants(bench):
    yield "\n## What carries it\n"
    yield "Increase of mean NLL of `compress` with something left out or changed.\n"
    yield "| variant | " + " | ".join(f"{share:.0%}" for share in BUDGETS) + " |\n|---|" + "---|" * len(BUDGETS)
    for name, more in [
        ("runs of 8", "align: 8"),
        ("runs of 16", "align: 16"),
        ("runs of 32 (default)", "align: 32"),
        ("whole experts", "align: 96"),
        ("runs of 16, not compensated", "align: 16, compensate: false"),
        ("runs of 16, damp 0.01", "align: 16, damp: 0.01"),
        ("runs of 16, damp 0.1", "align: 16, damp: 0.1"),
    ]:
        found = [bench.run(f"compress: {{ratio: {share}, classes: [experts], {more}}}") for share in BUDGETS]
        yield f"| {name} | " + " | ".join(f"{run['nll']:.4f}" for run in found) + " |"


def rounds(bench):
    """What measuring again is worth, where it is worth most."""
    yield "\n## Measured once more\n"
    yield (
        "`rounds: 2` measures again without the atoms that a looser budget drops, before anything is decided. Runs of 16; increase "
        "of mean NLL, and KL.\n"
    )
    yield "| bytes | one round | KL | two rounds | KL |\n|---|---|---|---|---|"
    for share in BUDGETS[2:]:
        stage = f"compress: {{ratio: {share}, classes: [experts], align: 16"
        once, twice = bench.run(f"{stage}}}"), bench.run(f"{stage}, rounds: 2}}")
        yield f"| {share:.0%} | {once['nll']:.4f} | {once['kl']:.4f} | {twice['nll']:.4f} | {twice['kl']:.4f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--only", default="methods,bits,others,budget,variants,rounds")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results.md")
    args = parser.parse_args()
    bench = Bench(args.binary)
    parts = {"methods": methods, "bits": bits, "others": others, "budget": budget, "variants": variants, "rounds": rounds}
    chosen = [parts[name] for name in args.only.split(",")]
    for part in chosen:
        list(part(bench))
    bench.sweep()
    lines = [
        "# Results on the demo model\n",
        "Written by `benches/results.py`. Protocol: 16 windows of 256 tokens of every calibration text, 24 of every evaluation "
        "text, mean over the six domains of the mean NLL in nats per token; the original has "
        f"{BASE:.4f}. The reference is an independent implementation in PyTorch (`tests/fixtures/demo-qwen3-moe`).\n",
    ]
    for part in chosen:
        lines.extend(part(bench))
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
