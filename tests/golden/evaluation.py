"""What transformers computes of the demo model: perplexity by every protocol, distance between two models, multiple
choice, answers to open questions.

    python3 tests/golden/evaluation.py tests/fixtures/evaluation

writes choices.jsonl, open.jsonl and reference.json. The second model is the demo model with 2 experts per token in place of 4, so
that both are at hand wherever the demo model is. Needs torch, transformers and numpy.
"""

import json
import math
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "tests/fixtures/demo-qwen3-moe"
TEXTS = {"novel": 150, "dictionary": 60}  # that many lines from the start
BOS = 0
OPEN = 12  # tokens of an answer to an open question


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def log_probabilities(model, ids):
    """[tokens, vocabulary] in float64."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1).numpy()


def summary(losses, size):
    losses = np.array(losses)
    mean, n = losses.mean(), len(losses)
    stderr = losses.std(ddof=1) / math.sqrt(n)
    return {
        "predictions": n,
        "nll": mean,
        "stderr": stderr,
        "perplexity": math.exp(mean),
        "perplexity_stderr": math.exp(mean) * stderr,
        "bytes": size,
        "bits_per_byte": losses.sum() / math.log(2) / size,
    }


def windows(protocol, ids, window, stride):
    """(window, first scored token, place of the window in the text) as the tools that the protocols are named after do."""
    if protocol == "paper":
        for k in range(len(ids) // window):
            yield ids[k * window : (k + 1) * window], 1, k * window
    if protocol == "llama.cpp":
        # tools/perplexity: logits of positions n/2 .. n-2 predict the tokens after them.
        for k in range(len(ids) // window):
            chunk = ids[k * window : (k + 1) * window]
            chunk[0] = BOS
            yield chunk, window // 2 + 1, k * window
    if protocol == "strided":
        # https://huggingface.co/docs/transformers/perplexity, without the label lost to the shift.
        previous = 0
        for begin in range(0, len(ids), stride):
            end = min(begin + window, len(ids))
            fresh = end - previous
            yield ids[begin:end], max(end - begin - fresh, 1), begin
            previous = end
            if end == len(ids):
                break


def perplexity(model, tokenizer, text, protocol, window, stride=0):
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoding["input_ids"])
    # Bytes up to the end of each token; tokens of one character share its offsets.
    ends = np.maximum.accumulate([len(text[:end].encode()) for _, end in encoding["offset_mapping"]])
    ends[-1] = len(text.encode())
    if protocol == "llama.cpp":
        ids, ends = [BOS] + ids, np.concatenate([[0], ends])
    losses, size = [], 0
    for chunk, first, start in windows(protocol, ids, window, stride):
        logp = log_probabilities(model, chunk)
        losses += [-logp[i - 1, chunk[i]] for i in range(first, len(chunk))]
        size += int(ends[start + len(chunk) - 1] - ends[start + first - 1])
    return summary(losses, size)


def distance(original, model, tokenizer, texts, window):
    kl, agreed, p_losses, q_losses = [], [], [], []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for chunk, _, _ in windows("paper", list(ids), window, 0):
            p, q = log_probabilities(original, chunk)[:-1], log_probabilities(model, chunk)[:-1]
            kl += list((np.exp(p) * (p - q)).sum(-1))
            agreed += list(p.argmax(-1) == q.argmax(-1))
            at = (np.arange(len(chunk) - 1), chunk[1:])
            p_losses += list(-p[at])
            q_losses += list(-q[at])
    kl, p_losses, q_losses = np.array(kl), np.array(p_losses), np.array(q_losses)
    n, agreement = len(kl), float(np.mean(agreed))
    delta = np.exp(-q_losses) - np.exp(-p_losses)
    increase = q_losses - p_losses
    percentile = lambda p: float(np.percentile(kl, p, method="inverted_cdf"))
    return {
        "tokens": n,
        "mean": kl.mean(),
        "stderr": kl.std(ddof=1) / math.sqrt(n),
        "median": percentile(50),
        "p90": percentile(90),
        "p95": percentile(95),
        "p99": percentile(99),
        "p999": percentile(99.9),
        "max": kl.max(),
        "top1_agreement": agreement,
        "top1_stderr": math.sqrt(agreement * (1 - agreement) / (n - 1)),
        "delta_p_mean": delta.mean(),
        "delta_p_stderr": delta.std(ddof=1) / math.sqrt(n),
        "delta_p_rms": math.sqrt((delta**2).mean()),
        "nll_increase": increase.mean(),
        "nll_increase_stderr": increase.std(ddof=1) / math.sqrt(n),
        "ppl_ratio": math.exp(increase.mean()),
        "ppl_ratio_stderr": math.exp(increase.mean()) * increase.std(ddof=1) / math.sqrt(n),
    }


def questions(text, count):
    """Sentences whose second half is to be told from those of others."""
    sentences = [s.strip() for s in re.split(r"(?<=[.!?])\s+", re.sub(r"\s+", " ", text))]
    sentences = [s for s in sentences if 60 <= len(s) <= 160 and " " in s]
    halves = []
    for sentence in sentences:
        at = sentence.index(" ", len(sentence) // 2)
        halves.append((sentence[:at], sentence[at + 1 :]))
    for k in range(count):
        answer = (k * 7 + 3) % 4
        choices = [halves[(k + 11 * j) % len(halves)][1] for j in range(1, 4)]
        choices.insert(answer, halves[k][1])
        yield {"question": halves[k][0], "choices": choices, "answer": answer}


def loglikelihoods(model, tokenizer, prefix, doc):
    """Of every choice after the question and a space, tokenized as lm-evaluation-harness does."""
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    found = []
    for choice in doc["choices"]:
        context = encode(prefix + doc["question"])
        whole = encode(prefix + doc["question"] + " " + choice)
        logp = log_probabilities(model, whole)
        found.append(float(sum(logp[i - 1, whole[i]] for i in range(len(context), len(whole)))))
    return found


def choice(model, tokenizer, docs, shots):
    prefix = "".join(f"{d['question']} {d['choices'][d['answer']]}\n\n" for d in docs[:shots])
    lls, scores = [], {"acc": [], "acc_norm": [], "acc_bytes": []}
    for doc in docs[shots:]:
        ll = loglikelihoods(model, tokenizer, prefix, doc)
        lls.append(ll)
        by = {
            "acc": ll,
            "acc_norm": np.array(ll) / [len(c) for c in doc["choices"]],
            "acc_bytes": np.array(ll) / [len(c.encode()) for c in doc["choices"]],
        }
        for key, values in by.items():
            scores[key].append(float(np.argmax(values) == doc["answer"]))
    result = {key: float(np.mean(values)) for key, values in scores.items()}
    for key, values in scores.items():
        result[f"{key}_stderr"] = float(np.std(values, ddof=1) / math.sqrt(len(values)))
    return result | {"loglikelihoods": lls}


def line(model, tokenizer, text, most):
    """What the model writes after the text by taking the likeliest token, up to a line break."""
    ids, written = list(tokenizer(text, add_special_tokens=False)["input_ids"]), []
    while len(written) < most and "\n" not in tokenizer.decode(written):
        written.append(int(log_probabilities(model, ids + written)[-1].argmax()))
    return tokenizer.decode(written).split("\n")[0].strip()


def open_questions(model, tokenizer, docs, shots, most):
    """A third of the questions have the answer that the model gives after the first `shots`, a third the one that it gives
    after none, the others what the book has."""
    found = [{"question": d["question"], "answer": d["choices"][d["answer"]]} for d in docs]
    prefix = "".join(f"{d['question']} {d['answer']}\n\n" for d in found[:shots])
    for doc in found[shots::3]:
        doc["answer"] = line(model, tokenizer, prefix + doc["question"], most)
    for doc in found[shots + 1 :: 3]:
        doc["answer"] = line(model, tokenizer, doc["question"], most)
    return found


def exact_match(model, tokenizer, docs, shots, most):
    prefix = "".join(f"{d['question']} {d['answer']}\n\n" for d in docs[:shots])
    right = [float(line(model, tokenizer, prefix + d["question"], most) == d["answer"].strip()) for d in docs[shots:]]
    return {"exact_match": np.mean(right), "exact_match_stderr": np.std(right, ddof=1) / math.sqrt(len(right))}


def main(out):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(DEMO / "tokenizer.json"))
    texts = {}
    for name, lines in TEXTS.items():
        text = (ROOT / f"tests/fixtures/eval-text/{name}.txt").read_bytes().decode()
        texts[name] = "".join(text.splitlines(keepends=True)[:lines])
    docs = list(questions((ROOT / "tests/fixtures/eval-text/novel.txt").read_text(), 40))
    (out / "choices.jsonl").write_text("".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs))
    original = load(DEMO)
    with tempfile.TemporaryDirectory() as folder:
        for name in ["model.safetensors", "tokenizer.json"]:
            shutil.copy(DEMO / name, folder)
        config = json.loads((DEMO / "config.json").read_text())
        (Path(folder) / "config.json").write_text(json.dumps(config | {"num_experts_per_tok": 2}))
        fewer = load(folder)
    answers = open_questions(original, tokenizer, docs[:14], 2, OPEN)
    (out / "open.jsonl").write_text("".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in answers))
    protocols = {"paper": (256, 0), "llama.cpp": (256, 0), "strided": (256, 100)}
    reference = {
        "lines": TEXTS,
        "perplexity": {
            protocol: {
                "window": window,
                "stride": stride,
                "texts": {
                    name: perplexity(original, tokenizer, text, protocol, window, stride) for name, text in texts.items()
                },
            }
            for protocol, (window, stride) in protocols.items()
        },
        "distance": distance(original, fewer, tokenizer, texts.values(), 256),
        "choices": {str(shots): choice(original, tokenizer, docs, shots) for shots in [0, 2]},
        "choices_fewer_experts": {"0": choice(fewer, tokenizer, docs, 0)},
        "open": {str(shots): exact_match(original, tokenizer, answers, shots, OPEN) for shots in [0, 2]},
    }
    (out / "reference.json").write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
