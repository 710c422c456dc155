"""Random weights under the names of published checkpoints.

Drawn so that a mistake shows: attention is far from uniform, norms are not 1, and no logit is flat. Every number is exact in
bf16 and in f16, so that a model is the same in each file format.
"""

import torch

# What a matrix multiplies the size of its input by. Wq and Wk set how sharp attention is.
GAIN = {"q_proj": 1.8, "k_proj": 1.8, "q_b_proj": 1.8, "kv_b_proj": 1.6, "o_proj": 1.2, "gate_proj": 1.4,
        "down_proj": 1.6, "gate": 1.5, "lm_head": 2.5}
# Small enough that the eps of the norm after them, 1e-6 or 1e-5, moves the logits visibly.
LATENT_GAIN = 0.15
QK_NORM = 1.6
# What layers add, beside embeddings that are multiplied by the root of their length, and are the output too: with less of it a model
# would go on with its last token for ever.
POST_NORM = 16.0
EMBEDDING_STD = 0.25
BIAS_STD = 0.5


def exact(weights):
    """Rounded to what both bf16 and f16 hold."""
    return weights.half().bfloat16().float()


class Draw:
    def __init__(self, seed, norm_offset):
        # What is added to the weights of norms as the checkpoint holds them.
        self.norm_offset = norm_offset
        self.random = torch.Generator().manual_seed(seed)
        self.tensors = {}

    def matrix(self, name, rows, columns, gain=None):
        gain = GAIN.get(name.split(".")[-1], 1.0) if gain is None else gain
        weights = torch.randn(rows, columns, generator=self.random) * gain / columns**0.5
        self.tensors[f"{name}.weight"] = exact(weights)

    def bias(self, name, size):
        self.tensors[f"{name}.bias"] = exact(torch.randn(size, generator=self.random) * BIAS_STD)

    def norm(self, name, size, around=1.0):
        spread = 0.6 * torch.rand(size, generator=self.random) - 0.3
        self.tensors[f"{name}.weight"] = exact(around * (1 + spread) - self.norm_offset)

    def mlp(self, name, hidden, inner):
        self.matrix(f"{name}.gate_proj", inner, hidden)
        self.matrix(f"{name}.up_proj", inner, hidden)
        self.matrix(f"{name}.down_proj", hidden, inner)

    def experts(self, name, count, hidden, inner):
        self.matrix(f"{name}.gate", count, hidden)
        for i in range(count):
            self.mlp(f"{name}.experts.{i}", hidden, inner)


def attention(draw, name, c):
    """Grouped-query attention, Qwen3's with a norm of each head's query and key, Qwen2's with biases."""
    hidden, heads, kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    width = c.get("head_dim", hidden // heads)
    draw.matrix(f"{name}.q_proj", heads * width, hidden)
    draw.matrix(f"{name}.k_proj", kv_heads * width, hidden)
    draw.matrix(f"{name}.v_proj", kv_heads * width, hidden)
    draw.matrix(f"{name}.o_proj", hidden, heads * width)
    if c["model_type"].startswith("qwen3"):
        draw.norm(f"{name}.q_norm", width, QK_NORM)
        draw.norm(f"{name}.k_norm", width, QK_NORM)
    if c["model_type"] == "qwen2":
        draw.bias(f"{name}.q_proj", heads * width)
        draw.bias(f"{name}.k_proj", kv_heads * width)
        draw.bias(f"{name}.v_proj", kv_heads * width)


def latent_attention(draw, name, c):
    """Multi-head latent attention."""
    hidden, heads, latent = c["hidden_size"], c["num_attention_heads"], c["kv_lora_rank"]
    rotary, nope = c["qk_rope_head_dim"], c["qk_nope_head_dim"]
    draw.matrix(f"{name}.q_a_proj", c["q_lora_rank"], hidden, LATENT_GAIN)
    draw.norm(f"{name}.q_a_layernorm", c["q_lora_rank"])
    draw.matrix(f"{name}.q_b_proj", heads * (nope + rotary), c["q_lora_rank"])
    # No norm follows the rotary rows.
    draw.matrix("latent", latent, hidden, LATENT_GAIN)
    draw.matrix("rotary", rotary, hidden, 1.6)
    parts = [draw.tensors.pop(f"{part}.weight") for part in ("latent", "rotary")]
    draw.tensors[f"{name}.kv_a_proj_with_mqa.weight"] = torch.cat(parts)
    draw.norm(f"{name}.kv_a_layernorm", latent)
    draw.matrix(f"{name}.kv_b_proj", heads * (nope + c["v_head_dim"]), latent)
    draw.matrix(f"{name}.o_proj", hidden, heads * c["v_head_dim"])


def feed_forward(draw, name, c, layer):
    hidden = c["hidden_size"]
    if c["model_type"] == "qwen3_moe" and layer not in c["mlp_only_layers"]:
        draw.experts(name, c["num_experts"], hidden, c["moe_intermediate_size"])
    elif c["model_type"] == "glm4_moe_lite" and c["mlp_layer_types"][layer] == "sparse":
        draw.experts(name, c["n_routed_experts"], hidden, c["moe_intermediate_size"])
        # Checkpoints keep this one in f32, so it is not rounded.
        bias = 0.5 * torch.rand(c["n_routed_experts"], generator=draw.random) - 0.25
        draw.tensors[f"{name}.gate.e_score_correction_bias"] = bias
        draw.mlp(f"{name}.shared_experts", hidden, c["moe_intermediate_size"] * c["n_shared_experts"])
    else:
        draw.mlp(name, hidden, c["intermediate_size"])


def multi_token_prediction(draw, c):
    """Part of the layer that GLM checkpoints carry after the last one: a reader has to leave it out."""
    name, hidden = f"model.layers.{c['num_hidden_layers']}", c["hidden_size"]
    for norm in ("enorm", "hnorm", "input_layernorm", "shared_head.norm"):
        draw.norm(f"{name}.{norm}", hidden)
    draw.matrix(f"{name}.eh_proj", hidden, 2 * hidden)


def draw_weights(c, seed):
    """Every tensor of the checkpoint whose config.json is `c`, in f32, by name."""
    gemma = c["model_type"] == "gemma2"
    draw, hidden, vocabulary = Draw(seed, 1.0 if gemma else 0.0), c["hidden_size"], c["vocab_size"]
    draw.matrix("model.embed_tokens", vocabulary, hidden, EMBEDDING_STD * hidden**0.5)
    latent = c["model_type"] == "glm4_moe_lite"
    for layer in range(c["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        draw.norm(f"{name}.input_layernorm", hidden)
        (latent_attention if latent else attention)(draw, f"{name}.self_attn", c)
        draw.norm(f"{name}.post_attention_layernorm", hidden, POST_NORM if gemma else 1.0)
        if gemma:
            draw.norm(f"{name}.pre_feedforward_layernorm", hidden)
            draw.norm(f"{name}.post_feedforward_layernorm", hidden, POST_NORM)
        feed_forward(draw, f"{name}.mlp", c, layer)
    if c.get("num_nextn_predict_layers"):
        multi_token_prediction(draw, c)
    draw.norm("model.norm", hidden)
    if not c.get("tie_word_embeddings", gemma):
        draw.matrix("lm_head", vocabulary, hidden)
    return draw.tensors
