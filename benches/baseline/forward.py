"""A forward sweep over windows with transformers on the CPU: float32 from a bf16 checkpoint, fused attention.

    python3 benches/baseline/forward.py MODEL --windows 16 --tokens 128 --batch 4 --threads 2

Of the experts' implementations transformers offers, takes the one that is fastest on the first batch (--experts names
one instead); prints one JSON object. Needs torch and transformers.
"""

import torch
import torch.nn.functional as F

from common import arguments, batches, load, report, take_turns, timed

IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
# batched_mm copies the weights of the chosen experts for every token.
LARGEST_COPY = 2**31


def fits(model, ids, implementation):
    config = model.config
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    copied = ids.numel() * config.num_experts_per_tok * 3 * width * config.hidden_size * 4
    return implementation != "batched_mm" or copied <= LARGEST_COPY


def fastest(model, ids, step):
    """Seconds per implementation for one batch (the better of two after the first), and the best."""
    seconds = {}
    for implementation in IMPLEMENTATIONS:
        if not fits(model, ids, implementation):
            continue
        model.set_experts_implementation(implementation)
        seconds[implementation] = min(timed(3, lambda: step(ids))[0][1:])
    return seconds, min(seconds, key=seconds.get)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--experts", choices=("auto", *IMPLEMENTATIONS), default="auto")
    parser.add_argument("--hidden-only", action="store_true", help="stop at the final norm: no logits, no loss")
    a = parser.parse_args()
    model = load(a.model, "eager", a.threads)
    inputs = batches(a, model.config.vocab_size)

    def step(ids):
        if a.hidden_only:
            model.model(input_ids=ids, use_cache=False)
            return 0.0
        logits = model(input_ids=ids, use_cache=False).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()

    with torch.inference_mode():
        if a.experts == "auto":
            tried, chosen = fastest(model, inputs[0], step)
        else:
            tried, chosen = {}, a.experts
        model.set_experts_implementation(chosen)
        step(inputs[0])
        if a.turns:
            return take_turns(lambda: sum(step(ids) for ids in inputs))
        seconds, total = timed(a.repeats, lambda: sum(step(ids) for ids in inputs))
    more = {} if a.hidden_only else {"loss": total / (a.windows * (a.tokens - 1))}
    tried = {name: round(value, 4) for name, value in tried.items()}
    report(a, seconds, what="forward", experts=chosen, seconds_of_first_batch=tried, **more)


if __name__ == "__main__":
    main()
