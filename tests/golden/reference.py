"""What transformers computes from a checkpoint: outputs of the model, and scores of its experts.

The experts' module is run as a plain loop over experts, so that the activations h and the outputs y of each expert keep
their gradients. Everything is float32 on the CPU, in eval mode, eager attention, no cache.
"""

import types

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM


def load(folder):
    """The model of `folder` in float32, all parameters with gradients."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval()


def experts_loop(kept):
    """A forward for an experts' module; appends (expert, weight, h, y) to `kept`, h and y with gradients retained."""

    def forward(self, x, indices, weights):
        out = torch.zeros_like(x)
        for expert in range(self.num_experts):
            token, place = torch.where(indices == expert)
            if len(token) == 0:
                continue
            gate, up = F.linear(x[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
            h = self.act_fn(gate) * up
            y = F.linear(h, self.down_proj[expert])
            h.retain_grad()
            y.retain_grad()
            weight = weights[token, place, None]
            kept.append((expert, weight, h, y))
            out = out.index_add(0, token, weight * y)
        return out

    return forward


def routers(model):
    """(name, module) of the modules that return logits, weights and indices."""
    return [(n, m) for n, m in model.named_modules() if type(m).__name__.lower().endswith("topkrouter")]


def experts(model):
    """(name, module) of the modules that hold the experts of a layer."""
    return [(n, m) for n, m in model.named_modules() if type(m).__name__.endswith("Experts")]


def outputs(model, ids):
    """Logits, hidden states, routing and loss: a dict of tensors; `loss` still carries its graph."""
    found = {"input_ids": ids.to(torch.int32)}
    hooks = []
    for name, module in routers(model):

        def keep(_module, _inputs, output, name=name):
            for i, value in enumerate(output):
                value = value.detach()
                found[f"router.{name}.{i}"] = value.float() if value.is_floating_point() else value.to(torch.int32)

        hooks.append(module.register_forward_hook(keep))
    result = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    found["logits"] = result.logits
    for i, state in enumerate(result.hidden_states):
        found[f"hidden_states.{i}"] = state
    vocab = result.logits.shape[-1]
    found["loss"] = F.cross_entropy(result.logits[:, :-1].reshape(-1, vocab), ids[:, 1:].reshape(-1)).reshape(1)
    return found


def expert_scores(name, module, kept):
    """The scores of the experts a token reached, after the backward pass; gradients are those of the mean loss."""
    found = {}
    for expert, weight, h, y in kept:
        key, down = f"{name}.{expert}", module.down_proj[expert].double()
        dh, g, h = h.grad.double(), y.grad.double(), h.detach().double()
        second = h.square().mean(0)
        covariance = g.T @ g / len(g)
        found[f"tokens.{key}"] = torch.tensor([len(h)], dtype=torch.int32)
        found[f"heapr.{key}.activation_second_moment"] = second.float()
        found[f"heapr.{key}.output_gradient_covariance"] = covariance.float()
        found[f"heapr.{key}.score"] = (second * ((covariance @ down) * down).sum(0)).float()
        found[f"fisher.{key}.score_sum"] = (h * dh).square().sum(0).float()
        norms = y.detach().double().norm(dim=-1)
        found[f"reap.{key}.score_sum"] = (weight.detach().double().squeeze(-1) * norms).sum().reshape(1).float()
    return found


def reference(model, ids):
    """All keys of a reference file for windows `ids` [windows, tokens] (int64)."""
    plain = outputs(model, ids)
    modules = experts(model)
    kept = {name: [] for name, _ in modules}
    scored = all(not module.has_bias for _, module in modules)
    if scored:
        for name, module in modules:
            module.forward = types.MethodType(experts_loop(kept[name]), module)
        found = outputs(model, ids)
        # The loop differs from the eager forward of transformers by its order of additions only.
        torch.testing.assert_close(found["logits"], plain["logits"], rtol=1e-4, atol=1e-4)
        model.zero_grad()
        found["loss"].sum().backward()
        for name, module in modules:
            plain |= expert_scores(name, module, kept[name])
            del module.forward
    return {key: value.detach().contiguous().clone() for key, value in plain.items()}
