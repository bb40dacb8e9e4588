"""A sweep forward and backward in PyTorch that sums what atom and expert scores need.

    python3 benches/baseline/scores.py MODEL --windows 16 --tokens 128 --batch 4 --threads 2 [--out SUMS]

The whole model is in memory in float32 and frozen: gradients are those of activations, from a leaf on the embeddings.
Tokens are sorted by expert, so an expert is two products per batch. L is the negative log-likelihood summed over
predictions. --out writes the sums of the last repeat as safetensors, named as in docs/statistics.md.

Needs torch, transformers and safetensors.
"""

import sys
import types

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from common import arguments, batches, load, report, take_turns, timed


class Sums:
    """Sums over tokens of one layer: [experts, atoms] and [experts], float64."""

    def __init__(self, experts, atoms):
        def zeros(*shape):
            return torch.zeros(shape, dtype=torch.float64)

        self.atom_energy, self.atom_gradient, self.atom_coupled = (zeros(experts, atoms) for _ in range(3))
        self.tokens, self.gate_sum, self.gate_norm_sum = (zeros(experts) for _ in range(3))

    @torch.no_grad()
    def add_atoms(self, into, values, counts):
        for expert, part in enumerate(values.split(counts)):
            into[expert] += part.sum(0)

    @torch.no_grad()
    def add_backward(self, h, gradient, counts):
        self.add_atoms(self.atom_gradient, gradient.square(), counts)
        self.add_atoms(self.atom_coupled, (h * gradient).square_(), counts)

    @torch.no_grad()
    def add_forward(self, h, expert, weight, norm, counts):
        self.add_atoms(self.atom_energy, h.square(), counts)
        self.tokens.index_add_(0, expert, torch.ones_like(weight, dtype=torch.float64))
        self.gate_sum.index_add_(0, expert, weight.double())
        self.gate_norm_sum.index_add_(0, expert, (weight * norm).double())


def experts_forward(sums):
    """A forward for an experts' module of transformers that adds to `sums`, in the backward pass too."""

    def forward(self, x, indices, weights):
        chosen = indices.flatten()
        order = chosen.argsort(stable=True)
        token, weight = order // indices.shape[1], weights.flatten()[order]
        counts = chosen.bincount(minlength=self.num_experts).tolist()
        parts = x[token].split(counts)
        gate_up = torch.cat([F.linear(part, self.gate_up_proj[e]) for e, part in enumerate(parts) if len(part)])
        gate, up = gate_up.chunk(2, dim=-1)
        h = self.act_fn(gate) * up
        y = torch.cat([F.linear(part, self.down_proj[e]) for e, part in enumerate(h.split(counts)) if len(part)])
        kept = h.detach()
        h.register_hook(lambda gradient: sums.add_backward(kept, gradient, counts))
        sums.add_forward(kept, chosen[order], weight.detach(), y.detach().norm(dim=-1), counts)
        return torch.zeros_like(x).index_add(0, token, y * weight[:, None])

    return forward


def instrument(model):
    """Replaces the experts of each layer; (module name, its Sums)."""
    found = {}
    for name, module in model.named_modules():
        if not type(module).__name__.endswith("Experts"):
            continue
        if module.has_bias or module.is_transposed:
            sys.exit(f"{name}: experts with biases are not supported")
        found[name] = Sums(module.num_experts, module.down_proj.shape[-1])
        module.forward = types.MethodType(experts_forward(found[name]), module)
    return found


def write(path, layers):
    out = {}
    for name, sums in layers.items():
        layer = name.split(".mlp.")[0].split(".block_sparse_moe.")[0]
        for key in ("tokens", "gate_sum", "gate_norm_sum"):
            out[f"{layer}.{key}"] = getattr(sums, key)
        for key in ("atom_energy", "atom_gradient", "atom_coupled"):
            for expert, vector in enumerate(getattr(sums, key)):
                if sums.tokens[expert]:
                    out[f"{layer}.mlp.experts.{expert}.{key}"] = vector.clone()
    save_file(out, path)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--out")
    a = parser.parse_args()
    model = load(a.model, "eager", a.threads)
    inputs = batches(a, model.config.vocab_size)

    def step(ids):
        leaf = model.get_input_embeddings()(ids).requires_grad_()
        logits = model(inputs_embeds=leaf, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        loss.backward()
        return loss.item()

    def sweep():
        layers = instrument(model)
        return sum(step(ids) for ids in inputs), layers

    instrument(model)
    step(inputs[0])
    if a.turns:
        return take_turns(sweep)
    seconds, (total, layers) = timed(a.repeats, sweep)
    if a.out:
        write(a.out, layers)
    report(a, seconds, what="scores", loss=total / (a.windows * (a.tokens - 1)))


if __name__ == "__main__":
    main()
