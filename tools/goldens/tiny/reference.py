"""What transformers computes for a folder, in float64 arithmetic."""

import contextlib
import sys
from dataclasses import dataclass

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

STEPS = 32


class Widened:
    """torch, but its float32 is float64: the models name float32 where they leave the weights' own type."""

    float = float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def float64_arithmetic(model):
    modules = [sys.modules[type(model).__module__], transformers.modeling_rope_utils]
    to_float = torch.Tensor.float
    for module in modules:
        module.torch = Widened()
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = to_float
        for module in modules:
            module.torch = torch


class F16Cache(DynamicCache):
    """A cache that holds K (after RoPE) and V, or the latent and its rotary key, as f16."""

    def update(self, k, v, *args, **kwargs):
        return super().update(k.half().to(k.dtype), v.half().to(v.dtype), *args, **kwargs)


class Reference:
    """A model of a folder, loaded by transformers from its config.json and weights."""

    def __init__(self, folder, wide=True):
        dtype = torch.float64 if wide else torch.float32
        self.model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
        self.config = self.model.config
        extra = f"model.layers.{self.config.num_hidden_layers}."
        assert not info["missing_keys"] and not info["mismatched_keys"], info
        assert all(key.startswith(extra) for key in info["unexpected_keys"]), info
        self.context = float64_arithmetic(self.model) if wide else contextlib.nullcontext()
        self.context.__enter__()
        # The frequencies anew, in the arithmetic's type: loading may have rounded them to the weights'.
        rotary = type(self.model.model.rotary_emb)(self.config)
        assert rotary.inv_freq.dtype == dtype
        self.model.model.rotary_emb = rotary
        self.scores = []
        self.routers = [m for m in self.model.modules() if type(m).__name__.lower().endswith("topkrouter")]
        for router in self.routers:
            router.register_forward_hook(self.keep_scores)

    def close(self):
        self.context.__exit__(None, None, None)

    def keep_scores(self, router, _, outputs):
        """What the router chooses by, [tokens, experts]."""
        if hasattr(router, "e_score_correction_bias"):
            self.scores.append(outputs[0].sigmoid() + router.e_score_correction_bias)
        else:
            self.scores.append(outputs[0].softmax(-1))

    @torch.no_grad()
    def logits(self, ids, cache=None):
        """Logits at every position, [len(ids), vocabulary]."""
        out = self.model(torch.tensor([ids]), past_key_values=cache, use_cache=cache is not None).logits[0]
        return out.double()

    def routed(self, ids, cache=None):
        """The logits, the experts that each router chose and the smallest gap from the last chosen to the next."""
        self.scores = []
        logits = self.logits(ids, cache)
        if not self.routers:
            return logits, [], float("inf")
        best = torch.stack(self.scores).topk(self.config.num_experts_per_tok + 1)
        gap = (best.values[..., -2] - best.values[..., -1]).min().item()
        return logits, best.indices[..., :-1].sort(-1).values.tolist(), gap

    def random_prompt(self, random, ids, length, min_router_gap):
        """Random ids, each drawn again while a router's choice at its position is close."""
        if not self.routers:
            return random.choices(ids, k=length)
        prompt, cache = [], DynamicCache(config=self.config)
        while len(prompt) < length:
            prompt.append(random.choice(ids))
            if self.routed(prompt[-1:], cache)[2] < min_router_gap:
                prompt.pop()
                cache.crop(-1)
        return prompt

    def greedy(self, ids, min_lead=0.0, min_router_gap=0.0, steps=STEPS):
        """Greedy continuation that does not stop at end-of-sequence: ids, and each one's lead over the second.

        Stops where another engine's rounding could go on in another way.
        """
        out, leads, cache, fed = [], [], DynamicCache(config=self.config), ids
        for _ in range(steps):
            logits, _, gap = self.routed(fed, cache)
            best = logits[-1].topk(2)
            leads.append((best.values[0] - best.values[1]).item())
            if leads[-1] < min_lead * logits[-1].std() or gap < min_router_gap:
                break
            out.append(best.indices[0].item())
            fed = out[-1:]
        return out, leads

    @torch.no_grad()
    def sharpness(self, ids):
        """The mean over heads and positions of the largest attention weight, for each layer."""
        weights = self.model(torch.tensor([ids]), output_attentions=True).attentions
        return [layer[0, :, len(ids) // 2:].amax(-1).mean().item() for layer in weights]

    def set_latent_eps(self, eps):
        for layer in self.model.model.layers:
            layer.self_attn.q_a_layernorm.variance_epsilon = eps
            layer.self_attn.kv_a_layernorm.variance_epsilon = eps


@dataclass
class Golden:
    ids: list
    logits: torch.Tensor
    greedy: list
    leads: list
    spread: float
    router_gap: float
    f16_logits: torch.Tensor


def try_prompt(reference, ids, eos, min_lead, min_router_gap):
    """The golden of one prompt, or none if another engine's rounding, or an f16 cache, could end elsewhere."""
    greedy, leads = reference.greedy(ids, min_lead, min_router_gap)
    # A continuation that goes round in a circle would test little.
    if len(greedy) < STEPS or len(set(greedy)) < STEPS // 2 or set(greedy) & set(eos):
        return None
    logits, experts, gap = reference.routed(ids + greedy)
    rounded, f16_experts, _ = reference.routed(ids + greedy, F16Cache(config=reference.config))
    if rounded[len(ids) - 1:-1].argmax(-1).tolist() != greedy or f16_experts != experts:
        return None
    spread = logits.std(-1).mean().item()
    return Golden(ids, logits[:len(ids)], greedy, leads, spread, gap, rounded[:len(ids)])
