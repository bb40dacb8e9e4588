"""Runs lm-evaluation-harness, offline, against a server: python3 lm_eval_tasks.py BASE_URL MODEL DIR.

DIR has choices.jsonl (question, choices, answer), questions.jsonl (question, answer) and pages.jsonl (page). Prints the
results as one JSON document. The tokenizer is the server's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

base_url, model, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}
""",
    "pages": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: page
metric_list:
  - {metric: bits_per_byte}
  - {metric: byte_perplexity}
""",
    "questions": """
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false}
filter_list:
  - {name: none, filter: [{function: remove_whitespace}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
}
tasks = folder / "tasks"
tasks.mkdir()
for name, body in TASKS.items():
    head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / name}.jsonl}}}}\ntest_split: test\n"
    (tasks / f"{name}.yaml").write_text(head + body + "metadata: {version: 1}\n")
arguments = f"model={model},base_url={base_url}/completions,num_concurrent=2,max_length=1024"
environment = os.environ | {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HOME": str(folder / "home"),
    "TOKENIZERS_PARALLELISM": "false",
}
command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", arguments]
command += ["--batch_size", "8", "--tasks", ",".join(TASKS), "--include_path", str(tasks)]
command += ["--output_path", str(folder / "out")]
done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
if done.returncode:
    sys.exit(done.stdout[-4000:])
(results,) = (folder / "out").rglob("results_*.json")
print(json.dumps(json.loads(results.read_text())["results"]))
