"""The two architectures, written so that all but attention sees a flat list of tokens: [tokens, width], whatever the length of a
sequence. What is compiled is therefore compiled once, for all lengths of a curriculum and all layers.

Parameters have the names of transformers' checkpoints (experts stacked; export.py splits them)."""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

EPS = 1e-6


@dataclass(frozen=True)
class Qwen3:
    """Qwen3ForCausalLM, embeddings tied."""
    vocab: int = 264
    hidden: int = 384
    ffn: int = 1024
    layers: int = 6
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 128
    theta: float = 1e7
    rope_dim: int = 128
    kind: str = "qwen3"


@dataclass(frozen=True)
class Glm:
    """Glm4MoeLiteForCausalLM: latents of `kv_rank` + `rope_dim`; the last `sparse` layers have experts."""
    vocab: int = 264
    hidden: int = 384
    ffn: int = 512
    layers: int = 6
    sparse: int = 1
    experts: int = 8
    used: int = 2
    expert_ffn: int = 96
    factor: float = 1.8
    heads: int = 8
    q_rank: int = 192
    kv_rank: int = 512
    nope_dim: int = 64
    rope_dim: int = 64
    # What is not rotated finds what is far away. Half as many pairs as Qwen3 has must tell neighbours apart.
    theta: float = 1e4
    kind: str = "glm4_moe_lite"

    @property
    def head_dim(self):
        return self.nope_dim + self.rope_dim


def shape_of(values):
    return {"qwen3": Qwen3, "glm4_moe_lite": Glm}[values["kind"]](**values)


def norm(x, weight):
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight


def turn_halves(x, cos, sin):
    """Pairs (i, i + d/2), as Qwen3 has them. x [tokens, heads, d], cos and sin [tokens, d/2]."""
    a, b = x.chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def turn_pairs(x, cos, sin):
    """Pairs (2i, 2i + 1), as GLM has them; the result is ordered by halves, which no dot product sees."""
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def linear(x, weight):
    return F.linear(x, weight.to(x.dtype))


def mlp(h, gate, up, down):
    return linear(F.silu(linear(h, gate)) * linear(h, up), down)


def qwen3_heads(x, cos, sin, before, q, k, v, q_norm, k_norm, width, dtype):
    h = norm(x, before).to(dtype)
    out = linear(h, torch.cat((q, k, v)))
    q, k, v = (part.unflatten(-1, (-1, width)) for part in out.split((q.shape[0], k.shape[0], v.shape[0]), -1))
    q = turn_halves(norm(q, q_norm), cos, sin)
    k = turn_halves(norm(k, k_norm), cos, sin)
    return q.to(dtype), k.to(dtype), v.contiguous()


def glm_heads(x, cos, sin, before, q_a, q_a_norm, q_b, kv_a, kv_norm, kv_b, nope, rope, heads, dtype):
    h = norm(x, before).to(dtype)
    q = linear(norm(linear(h, q_a), q_a_norm).to(dtype), q_b).unflatten(-1, (heads, -1))
    latent, k_rope = linear(h, kv_a).split((kv_norm.shape[0], rope), -1)
    kv = linear(norm(latent, kv_norm).to(dtype), kv_b).unflatten(-1, (heads, -1))
    q_rope = turn_pairs(q[..., nope:].float(), cos, sin).to(dtype)
    k_rope = turn_pairs(k_rope[:, None].float(), cos, sin).to(dtype).expand(-1, heads, -1)
    q = torch.cat((q[..., :nope], q_rope), -1)
    k = torch.cat((kv[..., :nope], k_rope), -1)
    return q, k, kv[..., nope:].contiguous()


def dense_rest(x, mixed, o, after, gate, up, down):
    x = x + linear(mixed, o)
    return x + mlp(norm(x, after).to(mixed.dtype), gate, up, down)


def route(h, router, bias, used, factor):
    """Weights of all experts, 0 for those not chosen, [tokens, experts]; and how many tokens chose each."""
    scores = F.linear(h.float(), router.float()).sigmoid()
    _, chosen = (scores + bias).topk(used, -1)
    mask = torch.zeros_like(scores).scatter(-1, chosen, 1.0)
    weights = scores * mask
    return weights / (weights.sum(-1, keepdim=True) + 1e-20) * factor, mask.sum(0)


def sparse_rest(x, mixed, o, after, router, bias, gates, ups, downs, s_gate, s_up, s_down, used, factor):
    """All experts are computed, and those not chosen weighted by 0: simple, and cheap at this size."""
    x = x + linear(mixed, o)
    h = norm(x, after)
    weights, load = route(h, router, bias, used, factor)
    h = h.to(mixed.dtype)
    inner = F.silu(linear(h, gates.flatten(0, 1))) * linear(h, ups.flatten(0, 1))
    inner = inner.unflatten(-1, (gates.shape[0], -1)) * weights[..., None].to(inner.dtype)
    routed = linear(inner.flatten(-2), downs.transpose(0, 1).flatten(1))
    return x + routed + mlp(h, s_gate, s_up, s_down), load


def predict(x, final, table, targets):
    """Each token's loss and its most likely successor."""
    logits = linear(norm(x, final).to(table.dtype), table).float()
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1)


class Model(nn.Module):
    """`compute` is the type of activations between norms: bfloat16 on a GPU, float32 to compare. The residual stream is float32."""

    def __init__(self, shape, seed=0, compute=torch.float32, compiled=False, attention="auto"):
        super().__init__()
        self.shape, self.compute, self.attention = shape, compute, attention
        generator = torch.Generator().manual_seed(seed)
        self.names, self.weights, self.loads, self.sizes = {}, nn.ParameterDict(), {}, {}
        for name, size, scale in parameters(shape):
            if scale is None:
                value = torch.full(size, 1.2 if ".q_norm" in name or ".k_norm" in name else 1.0)
            else:
                value = torch.randn(size, generator=generator) * scale
            self.names[name] = name.replace(".", "/")
            self.weights[self.names[name]] = nn.Parameter(value)
        if shape.kind == "glm4_moe_lite":
            for i in range(shape.layers - shape.sparse, shape.layers):
                self.register_buffer(f"bias_{i}", torch.zeros(shape.experts))
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        self.f = {f.__name__: wrap(f) for f in (qwen3_heads, glm_heads, dense_rest, sparse_rest, predict)}
        self.tables = {}

    def w(self, name):
        return self.weights[self.names[name]]

    def named(self):
        """Parameters by their names in a checkpoint."""
        return {name: self.weights[key] for name, key in self.names.items()}

    def angles(self, positions):
        d = self.shape.rope_dim
        frequencies = self.shape.theta ** (-torch.arange(0, d, 2, device=positions.device, dtype=torch.float64) / d)
        angles = positions.double()[:, None] * frequencies
        return angles.cos().float(), angles.sin().float()

    def rows(self, batch, length, device):
        """Angles of a batch of sequences, kept for the next ones of the same shape."""
        key = (batch, length)
        if key not in self.tables:
            if len(self.tables) >= 12:
                self.tables.clear()
            self.tables[key] = self.angles(torch.arange(length, device=device).repeat(batch))
        return self.tables[key]

    def heads(self, i, x, cos, sin):
        s, at = self.shape, f"model.layers.{i}."
        w = lambda name: self.w(at + name + ".weight")
        if s.kind == "qwen3":
            return self.f["qwen3_heads"](
                x, cos, sin, w("input_layernorm"), w("self_attn.q_proj"), w("self_attn.k_proj"), w("self_attn.v_proj"),
                w("self_attn.q_norm"), w("self_attn.k_norm"), s.head_dim, self.compute)
        q, k, v = self.f["glm_heads"](
            x, cos, sin, w("input_layernorm"), w("self_attn.q_a_proj"), w("self_attn.q_a_layernorm"), w("self_attn.q_b_proj"),
            w("self_attn.kv_a_proj_with_mqa"), w("self_attn.kv_a_layernorm"), w("self_attn.kv_b_proj"),
            s.nope_dim, s.rope_dim, s.heads, self.compute)
        if torch.is_grad_enabled():
            self.measure(i, q, k)
        return q, k, v

    def rest(self, i, x, mixed):
        s, at = self.shape, f"model.layers.{i}."
        w = lambda name: self.w(at + name + ".weight")
        if s.kind == "qwen3" or i < s.layers - s.sparse:
            return self.f["dense_rest"](x, mixed, w("self_attn.o_proj"), w("post_attention_layernorm"),
                                        w("mlp.gate_proj"), w("mlp.up_proj"), w("mlp.down_proj"))
        x, load = self.f["sparse_rest"](
            x, mixed, w("self_attn.o_proj"), w("post_attention_layernorm"), w("mlp.gate"), getattr(self, f"bias_{i}"),
            *(w(f"mlp.experts.{n}_proj") for n in ("gate", "up", "down")),
            *(w(f"mlp.shared_experts.{n}_proj") for n in ("gate", "up", "down")), s.used, s.factor)
        self.loads[i] = load.detach()
        return x

    def mix(self, q, k, v, batch):
        """Causal attention within each of `batch` sequences."""
        q, k, v = (t.unflatten(0, (batch, -1)).transpose(1, 2) for t in (q, k, v))
        return attend(q, k, v, self.attention).transpose(1, 2).flatten(0, 1).flatten(1)

    def hidden(self, tokens, cache=None):
        """The residual stream behind the last layer, [batch * length, hidden]; `cache` gets each layer's keys and values."""
        batch, length = tokens.shape
        cos, sin = self.rows(batch, length, tokens.device)
        x = F.embedding(tokens.flatten(), self.w("model.embed_tokens.weight")).float()
        for i in range(self.shape.layers):
            q, k, v = self.heads(i, x, cos, sin)
            if cache is not None:
                cache(i, k, v)
            x = self.rest(i, x, self.mix(q, k, v, batch))
        return x

    def table(self):
        name = "model.embed_tokens.weight" if self.shape.kind == "qwen3" else "lm_head.weight"
        return self.w(name).to(self.compute)

    def logits(self, x):
        return linear(norm(x, self.w("model.norm.weight")).to(self.compute), self.table()).float()

    def forward(self, tokens, targets):
        x = self.hidden(tokens)
        return self.f["predict"](x, self.w("model.norm.weight"), self.table(), targets.flatten())

    @torch.no_grad()
    def measure(self, i, q, k):
        """Sizes (rms) of the last step's queries, of keys' own part, head by head, and of their rotated part, from 4,096 tokens."""
        some = slice(None, None, max(1, len(q) // 4096))
        mean = lambda x: x[some].float().square().mean((0, 2)).sqrt()
        nope = self.shape.nope_dim
        self.sizes[i] = torch.cat((mean(q), mean(k[..., :nope]), mean(k[:, :1, nope:])))

    @torch.no_grad()
    def tame(self, limit=1.4):
        """Latent attention has no norm of queries and keys. Under Muon its logits grow to a thousand, where a softmax learns nothing more. So
        what makes queries or keys above `limit` is made smaller; Qwen3's norms end between 1.1 and 1.7."""
        s = self.shape
        for i, sizes in self.sizes.items():
            w = lambda name: self.w(f"model.layers.{i}.self_attn.{name}.weight")
            q, own, rotated = sizes.split((s.heads, s.heads, 1))
            w("q_b_proj").view(s.heads, s.head_dim, -1).mul_((limit / q).clamp(max=1)[:, None, None])
            # Either part of a key may be all that counts, and have the whole length.
            part = limit * (s.head_dim / s.nope_dim) ** 0.5
            w("kv_b_proj").view(s.heads, -1, s.kv_rank)[:, :s.nope_dim].mul_((part / own).clamp(max=1)[:, None, None])
            w("kv_a_proj_with_mqa")[s.kv_rank:].mul_((part / rotated).clamp(max=1)[:, None])

    @torch.no_grad()
    def balance(self, rate=1e-3):
        """Experts that got less than their share of tokens are favoured a little more (arXiv 2408.15664)."""
        for i, load in self.loads.items():
            getattr(self, f"bias_{i}").add_(rate * torch.sign(load.mean() - load))


def attend(q, k, v, kind):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    if kind == "auto":
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    backend = SDPBackend.CUDNN_ATTENTION if kind.startswith("cudnn") else SDPBackend.FLASH_ATTENTION
    if kind.endswith("repeat"):
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def parameters(s):
    """Name, size and the standard deviation of the initial values; None for the weights of norms."""
    wide, into = 1 / math.sqrt(s.hidden), 0.0
    yield "model.embed_tokens.weight", (s.vocab, s.hidden), 0.05
    for i in range(s.layers):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", (s.hidden,), None
        if s.kind == "qwen3":
            yield at + "self_attn.q_proj.weight", (s.heads * s.head_dim, s.hidden), wide
            yield at + "self_attn.k_proj.weight", (s.kv_heads * s.head_dim, s.hidden), wide
            yield at + "self_attn.v_proj.weight", (s.kv_heads * s.head_dim, s.hidden), wide
            yield at + "self_attn.q_norm.weight", (s.head_dim,), None
            yield at + "self_attn.k_norm.weight", (s.head_dim,), None
        else:
            yield at + "self_attn.q_a_proj.weight", (s.q_rank, s.hidden), wide
            yield at + "self_attn.q_a_layernorm.weight", (s.q_rank,), None
            yield at + "self_attn.q_b_proj.weight", (s.heads * s.head_dim, s.q_rank), 1 / math.sqrt(s.q_rank)
            yield at + "self_attn.kv_a_proj_with_mqa.weight", (s.kv_rank + s.rope_dim, s.hidden), wide
            yield at + "self_attn.kv_a_layernorm.weight", (s.kv_rank,), None
            yield at + "self_attn.kv_b_proj.weight", (s.heads * (s.nope_dim + s.head_dim), s.kv_rank), 1 / math.sqrt(s.kv_rank)
        yield at + "self_attn.o_proj.weight", (s.hidden, s.heads * s.head_dim), into
        yield at + "post_attention_layernorm.weight", (s.hidden,), None
        if s.kind == "qwen3" or i < s.layers - s.sparse:
            sizes = [("", s.ffn)]
        else:
            yield at + "mlp.gate.weight", (s.experts, s.hidden), wide
            for name, size, scale in (("gate", (s.expert_ffn, s.hidden), wide), ("up", (s.expert_ffn, s.hidden), wide),
                                      ("down", (s.hidden, s.expert_ffn), into)):
                yield at + f"mlp.experts.{name}_proj.weight", (s.experts, *size), scale
            sizes = [("shared_experts.", s.expert_ffn)]
        for part, ffn in sizes:
            yield at + f"mlp.{part}gate_proj.weight", (ffn, s.hidden), wide
            yield at + f"mlp.{part}up_proj.weight", (ffn, s.hidden), wide
            yield at + f"mlp.{part}down_proj.weight", (s.hidden, ffn), into
    yield "model.norm.weight", (s.hidden,), None
    if s.kind != "qwen3":
        yield "lm_head.weight", (s.vocab, s.hidden), 0.02


def describe(shape):
    return asdict(shape)
