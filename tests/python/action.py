"""Runs the `run:` steps of a composite action as GitHub's runner does: python3 action.py ACTION.yml INPUTS FOLDER.

INPUTS is a JSON object. Steps that `use:` other actions are passed over. Works in the current directory, keeps the
runner's files in FOLDER, stops at a step that fails unless `if:` is `always()`, and prints a JSON document: outputs,
summary, annotations, and the exit code of the first step that failed.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

action = yaml.safe_load(Path(sys.argv[1]).read_text())
given, folder = json.loads(sys.argv[2]), Path(sys.argv[3])
unknown = set(given) - set(action["inputs"])
assert not unknown, unknown
inputs = {name: str(given.get(name, spec.get("default", ""))) for name, spec in action["inputs"].items()}
missing = [name for name, spec in action["inputs"].items() if spec.get("required") and not inputs[name]]
assert not missing, missing
steps = {}


def value(expression):
    """Of an expression of the two kinds that the action may hold."""
    kind, *path = expression.strip().split(".")
    if kind == "inputs":
        return inputs[path[0]]
    assert kind == "steps" and path[1] == "outputs", expression
    return steps.get(path[0], {}).get(path[2], "")


def filled(text):
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: value(found[1]), str(text))


summary = folder / "summary"
summary.touch()
printed, failed = "", 0
for number, step in enumerate(action["runs"]["steps"]):
    if "run" not in step or (failed and "always()" not in step.get("if", "")):
        continue
    # An expression within a script is how strangers get into it.
    assert step["shell"] == "bash" and "${{" not in step["run"], step
    script, output = folder / f"{number}.sh", folder / f"{number}.output"
    script.write_text(step["run"])
    output.touch()
    environment = os.environ | {name: filled(text) for name, text in step.get("env", {}).items()}
    environment |= {"GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary), "CI": "true"}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    printed += done.stdout
    sys.stderr.write(done.stderr)
    pairs = [line.split("=", 1) for line in output.read_text().splitlines()]
    if "id" in step:
        steps[step["id"]] = dict(pairs)
    failed = failed or done.returncode
print(
    json.dumps(
        {
            "code": failed,
            "outputs": {name: filled(spec["value"]) for name, spec in action["outputs"].items()},
            "key": steps["key"]["key"],
            "summary": summary.read_text(),
            "annotations": [line for line in printed.splitlines() if line.startswith("::")],
        }
    )
)
