"""What every method costs on the demo model, in the protocol of its reference.json: writes docs/results.md.

    python3 benches/results.py MOEPRESS [--only methods,bits,others,budget,variants] [--known] [--out docs/results.md]

MOEPRESS is the binary (make build). Needs nothing but Python 3. The grid is HEAPr (coupled, global) and REAP at 0, 12.5, …,
87.5 % times rounding to nearest in {ternary, int2, int3, int4, int8} times groups of {32, 64, 128, whole rows}: for every
budget, of every method, format and group the member with least pruning that fits is run; those with more cannot be better.
About two hours on two idle cores. What was run is kept in out/results.json, so that it can be resumed with the same binary;
--known writes the tables from that file alone and says how much is missing.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOMAINS = ["novel", "drama", "scripture", "gazetteer", "dictionary", "code"]
BUDGETS = [0.25, 0.15, 0.10, 0.07]
REFERENCE = json.loads((ROOT / "tests/fixtures/demo-qwen3-moe/reference.json").read_text())
# The best of an independent prototype's grid: HEAPr at sixteenths, nearest, groups of 32, 64 or the row.
PROTOTYPE = {0.25: 0.0092, 0.15: 0.0816, 0.10: 0.2751, 0.07: 0.5009}
BASE = REFERENCE["baseline"]["nll"]


def recipe(stages):
    def texts(folder, windows):
        files = ", ".join(str(ROOT / folder / f"{domain}.txt") for domain in DOMAINS)
        return f"{{files: [{files}], window: 256, windows: {windows}}}"

    lines = "\n".join(f"  - {stage}" for stage in stages)
    return (
        f"version: 1\nmodel: {ROOT / 'tests/fixtures/demo-qwen3-moe'}\ncalibration: {texts('calibration', 16)}\n"
        f"evaluate: {texts('tests/fixtures/eval-text', 24)}\nstages:\n{lines}\n"
    )


class Bench:
    def __init__(self, binary, kept, only_known):
        self.binary, self.kept, self.only_known, self.missing = binary, kept, only_known, 0
        self.known = json.loads(kept.read_text()) if kept.exists() else {}
        version = hashlib.sha256(Path(binary).read_bytes()).hexdigest()[:16]
        if self.known.get("binary") != version:
            self.known = {"binary": version}

    def moepress(self, command, stages, *more):
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "recipe.yaml"
            path.write_text(recipe(stages))
            out = ["--out", str(Path(work) / "out")] if command == "run" else []
            done = subprocess.run([self.binary, command, str(path), *out, "--json", *more], capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{stages}: {done.stderr}")
            return json.loads(done.stdout)

    def share(self, stages):
        """Planned bytes of the routed experts, as a share of what they take in bf16."""
        plan = self.moepress("plan", stages)
        return experts(plan["after"]) / experts(plan["before"])

    def run(self, *stages):
        key = "; ".join(stages)
        if key not in self.known and self.only_known:
            self.missing += 1
            return None
        if key not in self.known:
            result = self.moepress("run", stages)
            sides = result["evaluation"]
            compact = sides["compact"]["overall"]
            self.known[key] = {
                "nll": compact["nll"] - sides["original"]["overall"]["nll"],
                "kl": compact["divergence"]["mean"],
                "share": experts(result["after"]) / experts(result["before"]),
            }
            self.kept.write_text(json.dumps(self.known, indent=1))
            print(f"{self.known[key]['nll']:.4f} at {self.known[key]['share']:.4f}: {key}", file=sys.stderr)
        return self.known[key]


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
    return not_run(f"{name} | {float(ratio):.0%}") if found is None else f"| {name} | {float(ratio):.0%} | {found['nll']:.4f} | {reference - BASE:.4f} |"


def not_run(name):
    return f"| {name} | not run yet |"


def bits(bench):
    """Rounding alone."""
    yield "\n## Rounding: to nearest and GPTQ\n"
    yield "All routed experts, groups of 32; increase of mean NLL.\n"
    yield "| format | nearest | reference | GPTQ | GPTQ / nearest |\n|---|---|---|---|---|"
    for name in ("int8", "int4", "int3", "int2", "ternary"):
        nearest = bench.run(f"quantize: {{format: {name}, group: 32}}")
        gptq = bench.run(f"quantize: {{format: {name}, group: 32, solver: gptq}}")
        if nearest is None or gptq is None:
            yield not_run(name)
            continue
        nearest, gptq = nearest["nll"], gptq["nll"]
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
            (f"merge hc_smoe, average, {ratio}", [f"merge_experts: {{method: hc_smoe, ratio: {ratio}}}"]),
            (f"merge hc_smoe, ward, {ratio}", [f"merge_experts: {{method: hc_smoe, linkage: ward, ratio: {ratio}}}"]),
            (f"experts by ean, {ratio}", [f"prune_experts: {{method: ean, ratio: {ratio}}}"]),
            (f"experts by tcess, {ratio}", [f"prune_experts: {{method: tcess, task: [{', '.join(DOMAINS)}], ratio: {ratio}}}"]),
            (f"experts by heapr, {ratio}", [f"prune_experts: {{method: heapr, ratio: {ratio}}}"]),
        ]
    for method in ("loss_aware", "mc_moe", "frequency", "outlier", "block"):
        members.append((f"bits by {method}", [f"assign_bits: {{method: {method}, {BITS}}}", "quantize"]))
    for name, stages in members:
        found = bench.run(*stages)
        yield f"| {name} | not run yet |" if found is None else (
            f"| {name} | {found['share']:.1%} | {found['nll']:.4f} | {found['kl']:.4f} |"
        )


def grid(bench):
    """For every budget the members of the grid that may be its best."""
    shares = {}
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
                    key = tuple(stages)
                    shares.setdefault(key, bench.share(stages))
                    for budget in [b for b in left if shares[key] <= b]:
                        left.remove(budget)
                        found[budget].append((bench.run(*stages), key))
    all_members = sum(map(len, found.values()))
    found = {budget: [member for member in members if member[0]] for budget, members in found.items()}
    return found, all_members - sum(map(len, found.values())), all_members


def budget(bench):
    yield "\n## One budget against all combinations\n"
    yield (
        "Bytes of the routed experts as a share of bf16, everything counted. *Grid*: the best member of {HEAPr, REAP} × {0, 12.5, …, "
        "87.5 %} × nearest {ternary, int2, int3, int4, int8} × groups {32, 64, 128, row} that fits. Increase of mean NLL, and mean KL "
        "divergence from the original, in nats per token.\n"
    )
    yield "| bytes | best of the grid | NLL | KL | `compress` | NLL | KL | share of the grid's loss |\n|---|---|---|---|---|---|---|---|"
    members, missing, all_members = grid(bench)
    for share in BUDGETS:
        ours = bench.run(f"compress: {{ratio: {share}, classes: [experts], align: 16}}")
        if ours is None:
            yield not_run(f"{share:.0%}")
            continue
        if not members[share]:
            yield (
                f"| {share:.0%} | not run yet; the prototype's | {PROTOTYPE[share]:.4f} | – | {ours['share']:.3%} | {ours['nll']:.4f} | "
                f"{ours['kl']:.4f} | {ours['nll'] / PROTOTYPE[share]:.2f} |"
            )
            continue
        best, key = min(members[share], key=lambda member: member[0]["nll"])
        least_kl = min(member["kl"] for member, _ in members[share])
        what = "; ".join(stage.replace("quantize: ", "").replace("prune_", "") for stage in key)
        yield (
            f"| {share:.0%} | {what} ({best['share']:.2%}) | {best['nll']:.4f} | {least_kl:.4f} | {ours['share']:.3%} | "
            f"{ours['nll']:.4f} | {ours['kl']:.4f} | {ours['nll'] / best['nll']:.2f} |"
        )
    if missing:
        yield f"\n{missing} of {all_members} members of the grid that fit were not run yet."
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
        yield f"| {name} | " + " | ".join(f"{run['nll']:.4f}" if run else "not run yet" for run in found) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--only", default="methods,bits,others,budget,variants")
    parser.add_argument("--known", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results.md")
    args = parser.parse_args()
    bench = Bench(args.binary, ROOT / "out/results.json", args.known)
    parts = {"methods": methods, "bits": bits, "others": others, "budget": budget, "variants": variants}
    lines = [
        "# Results on the demo model\n",
        "Written by `benches/results.py`. Protocol: 16 windows of 256 tokens of every calibration text, 24 of every evaluation "
        "text, mean over the six domains of the mean NLL in nats per token; the original has "
        f"{BASE:.4f}. The reference is an independent implementation in PyTorch (`tests/fixtures/demo-qwen3-moe`).\n",
    ]
    for name in args.only.split(","):
        lines.extend(parts[name](bench))
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
