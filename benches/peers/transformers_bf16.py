"""transformers in bf16 on token ids: prefill and greedy decode, one JSON line of tokens per second.

    python3 benches/peers/transformers_bf16.py MODEL --prompt 512 --tokens 64 --threads 2

Needs torch and transformers.
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    for name, value in dict(prompt=512, decode_prompt=16, tokens=64, threads=2).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
    generator = torch.Generator().manual_seed(0)

    def prefill(count):
        ids = torch.randint(0, model.config.vocab_size, (1, count), generator=generator)
        started = time.perf_counter()
        out = model(ids, use_cache=True, logits_to_keep=1)
        return out, count / (time.perf_counter() - started)

    prefill(args.prompt)
    _, reading = prefill(args.prompt)
    out, _ = prefill(args.decode_prompt)
    started = time.perf_counter()
    for _ in range(args.tokens):
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
    writing = args.tokens / (time.perf_counter() - started)
    print(json.dumps({"prefill": reading, "decode": writing}))


if __name__ == "__main__":
    main()
